"""Parts of messages of types that are not known here: programs replay histories that others made."""

import re
from collections.abc import Iterable, Iterator

from pydantic import Field, StrictStr

from app.chat import OtherPart, Part, TextPart
from app.errors import InvalidRequest
from app.web.request_body import Fields


class AnyPart(Fields):
    """A part of a type that is not known here. Its text is read. Without text it is replaced by words in the result
    of a call, and left out of what the assistant said, as what it thought is; in another message something would be
    lost."""

    type: StrictStr = Field(max_length=64)

    @property
    def text(self) -> str | None:
        text = (self.model_extra or {}).get("text")
        return text if isinstance(text, str) else None

    def to_part(self, place: str) -> TextPart | OtherPart:
        """As a part of the result of a call."""
        return OtherPart(place, self.type) if self.text is None else TextPart(self.text)

    def is_left_out(self, role: str) -> bool:
        return role == "assistant" and (self.text is None or is_thought(self.type))

    def in_message(self, role: str, place: str, known: Iterable[str]) -> Iterator[Part]:
        """As a part of a message. ``known``: the types that are. Raises InvalidRequest: if it would be lost."""
        if self.is_left_out(role):
            return
        if self.text is None:
            types = ", ".join(f"'{kind}'" for kind in known)
            raise InvalidRequest(
                f"{place}: type should be one of {types}; a part of another type needs text", param=place
            )
        yield TextPart(self.text)


def is_thought(kind: str) -> bool:
    """Whether the type of a part or an item of a history says that it holds what a model thought."""
    return re.search("reason|think", kind) is not None


def left_out_parts(content: object, role: str, place: str) -> Iterator[str]:
    """The places of what is left out of a message. ``place``: of its content."""
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, AnyPart) and part.is_left_out(role):
            yield f"{place}[{index}]"
