"""The checks that every request for an answer passes, in one order, whatever API it came through:

    1. the API key, its limits, the Idempotency-Key     401, 429, 400
    2. the body: it comes, JSON, its fields, their types   408, 413, 503, 400
    3. parameters that cannot be served                 400, in strict mode also those without effect
    4. the conversation that it names                   400
    5. what it says, and what it continues              400, 404, 409   ``to_request`` of the API's body
    6. the model, and content that it cannot take        404, 400        ``Gateway.open``

Must never know the fields of any one API.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

from app.chat import Caller
from app.web.conversation_id import named_conversation
from app.web.parameters import Parameters
from app.web.request_body import receive
from app.web.request_context import caller, check_tokens


class AnswerParameters(Parameters):
    """The body of a request for an answer."""

    # What the field is called that names a conversation, for errors.
    conversation_field: ClassVar[str] = "conversation_id"

    @property
    @abstractmethod
    def wants_stream(self) -> bool: ...

    @property
    def named_conversation(self) -> str | None:
        """The conversation that the body names."""
        return None


_B = TypeVar("_B", bound=AnswerParameters)


@dataclass(frozen=True, slots=True)
class Accepted(Generic[_B]):
    """A request that has passed checks 1 to 4."""

    caller: Caller
    body: _B
    conversation_id: str | None
    # Names what has no effect, for the response.
    headers: Mapping[str, str]


def accept(model: type[_B], in_path: str | None = None) -> Accepted[_B]:
    """The current request. ``in_path``: the conversation that its path names.

    Raises NotAuthorized, KeyLimited, InvalidRequest, and what ``receive`` raises.
    """
    who = caller()
    check_tokens(who)
    body, reservation = receive(model, who)
    who.record.is_stream = body.wants_stream
    headers = body.check_supported()
    conversation_id = named_conversation(in_path, body.named_conversation, body.conversation_field)
    return Accepted(replace(who, hold=reservation.hold), body, conversation_id, headers)
