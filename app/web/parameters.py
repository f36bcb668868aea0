"""What happens to each parameter of a request: one word and one sentence per field, from which everything follows.

A body is a ``Parameters`` model whose fields carry a ``ParameterRule``. From it come the refusals, the names in
``x-ignored-params``, strict mode, the descriptions in the OpenAPI document, and the tables in docs/. Knows no
parameter of any API.
"""

import functools
import itertools
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


# A link to a page of docs/, which a reader of /openapi.json does not have.
_LINK = re.compile(r" \(\[[^\]]*\]\([^)]*\)\)")


@dataclass(frozen=True, slots=True)
class ParameterRule:
    """What happens to one parameter, or to several that share a sentence."""

    # ignored: its type is checked, and it has no effect. refused: where ``refusal`` has a reason against the value.
    done: Literal["honoured", "ignored", "refused"]
    # For people, in both languages.
    about: str
    about_zh: str
    # Why a value cannot be served; None: it can.
    refusal: Callable[[Any], str | None] | None = None
    # Values that ask for nothing, beside null, false, "", [] and {}: the defaults at OpenAI.
    neutral: tuple[Any, ...] = ()

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        described["description"] = f"{self.done.capitalize()}: {_LINK.sub('', self.about)}"
        return described


class Parameters(Fields):
    """The body of a request. Fields that we do not know are kept, to be named as ignored."""

    def check_supported(self) -> dict[str, str]:
        """The header that names what has no effect. Raises InvalidRequest for what cannot be served, and in strict
        mode
        for what has no effect."""
        for name, rule, value in self._sent():
            if rule.refusal is not None and value is not None and (why := rule.refusal(value)):
                raise unsupported(name, why)
        return ignored_parameters_header(list(dict.fromkeys(self._ignored())))

    def _sent(self) -> list[tuple[str, ParameterRule, Any]]:
        """The fields that stand in the body: a few of many."""
        sent = self.model_fields_set
        return [(name, rule, getattr(self, name)) for name, rule in _rules(type(self)) if name in sent]

    def _ignored(self) -> Iterator[str]:
        for name, rule, value in self._sent():
            if rule.done == "ignored" and has_effect(value) and value not in rule.neutral:
                yield name
            elif isinstance(value, Fields):
                yield from unknown_fields([value], name)
        yield from (name for name, value in (self.model_extra or {}).items() if has_effect(value))


def unknown_fields(values: Iterable[Fields], place: str) -> Iterator[str]:
    """The fields of values that we do not know and whose sender may expect an effect; not what is nested in them."""
    for value in values:
        yield from (f"{place}.{name}" for name, inner in (value.model_extra or {}).items() if has_effect(inner))


def ignored_parameters_header(names: Sequence[str]) -> dict[str, str]:
    """The header that names what has no effect. Raises InvalidRequest for it in strict mode (STRICT_PARAMS)."""
    if names and current_app.config["STRICT_PARAMS"]:
        raise unsupported(names[0], "it has no effect here, and STRICT_PARAMS refuses parameters without effect")
    # Only plain names are repeated in a header, and not any number of them.
    plain = list(itertools.islice((name for name in names if re.fullmatch(r"[A-Za-z0-9_.$\[\]-]{1,64}", name)), 50))
    return {"x-ignored-params": ", ".join(plain)} if plain else {}


def describe(model: type[Parameters], language: Language) -> str:
    """The parameters as a table in Markdown. Those that share their sentence share a row."""
    heading, done = _WORDS[language]
    rows: dict[tuple[str, str], list[str]] = {}
    for name, rule in _rules(model):
        rows.setdefault((rule.done, rule.about if language == "en" else rule.about_zh), []).append(f"`{name}`")
    lines = [f"| {' | '.join(heading)} |", "|---|---|---|"]
    for (kind, about), names in sorted(rows.items(), key=lambda row: list(done).index(row[0][0])):
        lines.append(f"| {', '.join(names)} | {done[kind]} | {about} |")
    return "\n".join(lines)


_WORDS: dict[Language, tuple[tuple[str, ...], dict[str, str]]] = {
    "en": (
        ("parameter", "", "what happens to it"),
        {"honoured": "honoured", "ignored": "no effect", "refused": "400"},
    ),
    "zh": (("参数", "", "如何处理"), {"honoured": "支持", "ignored": "不起作用", "refused": "返回 400"}),
}


@functools.cache
def _rules(model: type[Parameters]) -> tuple[tuple[str, ParameterRule], ...]:
    return tuple((name, _rule(name, field)) for name, field in model.model_fields.items())


def _rule(name: str, field: FieldInfo) -> ParameterRule:
    for note in field.metadata:
        if isinstance(note, ParameterRule):
            return note
    raise TypeError(f"the field {name} has no ParameterRule")
