"""What is done with each parameter of a request: one word and one sentence per field, from which everything follows.

A body is a ``Parameters`` model whose fields carry a ``Use``. From it come the refusals, the names in
``x-ignored-params``, strict mode, the descriptions in the OpenAPI document, and the tables in the READMEs. Knows
no parameter of any API.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flask import current_app
from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from app.web.request_body import Fields, has_effect, unsupported

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Use:
    """Honoured; ignored (checked and without effect); or refused, where ``refusal`` has a reason against the value.

    ``about`` and ``about_zh`` are for the READMEs; what all ignored or all refused ones share is not repeated there.
    ``neutral`` are values that ask for nothing, beside null, false, "", [] and {}: the field's defaults at OpenAI.
    """

    done: Literal["honoured", "ignored", "refused"]
    about: str
    about_zh: str
    refusal: Callable[[Any], str | None] | None = None
    neutral: tuple[Any, ...] = ()

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        described["description"] = f"{self.done.capitalize()}: {self.about}"
        return described


class Parameters(Fields):
    """The body of a request; what stands in it beside its fields is ignored by name."""

    def settle(self) -> dict[str, str]:
        """Refuses what cannot be served, and gives the header that names what has no effect.

        Raises InvalidRequest, in strict mode for what has no effect too.
        """
        for name, use, value in self._sent():
            if use.refusal is not None and value is not None and (why := use.refusal(value)):
                raise unsupported(name, why)
        return name_ignored(list(dict.fromkeys(self._ignored())))

    def _sent(self) -> list[tuple[str, Use, Any]]:
        """The fields that stand in the body: a few of many."""
        sent = self.model_fields_set
        return [(name, use, getattr(self, name)) for name, use in _uses(type(self)) if name in sent]

    def _ignored(self) -> Iterator[str]:
        for name, use, value in self._sent():
            if use.done == "ignored" and has_effect(value) and value not in use.neutral:
                yield name
            elif isinstance(value, Fields):
                yield from unknown_fields([value], name)
        yield from (name for name, value in (self.model_extra or {}).items() if has_effect(value))


def unknown_fields(values: Iterable[Fields], place: str) -> Iterator[str]:
    """The fields of values that we do not know and that should have an effect; not what stands deeper in them."""
    for value in values:
        yield from (f"{place}.{name}" for name, inner in (value.model_extra or {}).items() if has_effect(inner))


def name_ignored(names: Sequence[str]) -> dict[str, str]:
    """The header that names what has no effect. Raises InvalidRequest for it in strict mode (STRICT_PARAMS)."""
    if names and current_app.config["STRICT_PARAMS"]:
        raise unsupported(names[0], "it has no effect here, and this gateway is set to refuse such")
    # Only plain names are repeated in a header, and not any number of them.
    plain = [name for name in names if re.fullmatch(r"[A-Za-z0-9_.$-]{1,64}", name)]
    return {"x-ignored-params": ", ".join(plain[:50])} if plain else {}


def describe(model: type[Parameters], language: Language) -> str:
    """The parameters as a table in Markdown. Those that share their sentence share a row."""
    heading, done = _WORDS[language]
    rows: dict[tuple[str, str], list[str]] = {}
    for name, use in _uses(model):
        rows.setdefault((use.done, use.about if language == "en" else use.about_zh), []).append(f"`{name}`")
    lines = [f"| {' | '.join(heading)} |", "|---|---|---|"]
    for (kind, about), names in sorted(rows.items(), key=lambda row: list(done).index(row[0][0])):
        lines.append(f"| {', '.join(names)} | {done[kind]} | {about} |")
    return "\n".join(lines)


_WORDS: dict[Language, tuple[tuple[str, ...], dict[str, str]]] = {
    "en": (
        ("parameter", "", "what is done with it"),
        {"honoured": "honoured", "ignored": "no effect", "refused": "400"},
    ),
    "zh": (("参数", "", "如何处理"), {"honoured": "支持", "ignored": "不起作用", "refused": "返回 400"}),
}


@functools.cache
def _uses(model: type[Parameters]) -> tuple[tuple[str, Use], ...]:
    return tuple((name, _use(name, field)) for name, field in model.model_fields.items())


def _use(name: str, field: FieldInfo) -> Use:
    for note in field.metadata:
        if isinstance(note, Use):
            return note
    raise TypeError(f"the field {name} does not say what is done with it")
