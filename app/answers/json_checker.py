"""Checks JSON Schemas, and whether answers contain the JSON that they describe, in a process of its own.

Says which errors of a check are the client's, and in which words. Knows no keyword of JSON Schema.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.concurrency.helper_process import CallFailed, HelperProcess, HelperUnavailable, LimitExceeded
from app.errors import CheckUnavailable, InvalidRequest

log = logging.getLogger(__name__)

# A longer answer is not checked: it would only be passed to the process for tens of milliseconds.
_MAX_CHARS = 4 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an answer is not what was asked for."""

    rule: str
    """The keyword of the schema that it breaks; ``json`` where it contains no JSON."""
    message: str
    """Where and how it breaks the rule. Shows the value: for Kimi, never for a log."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a call; of several, where one text held them."""

    # JSON objects as text.
    texts: tuple[str, ...]
    # What its schema says about the first of them; None: it fits, or there is none.
    problem: Problem | None = None
    # The JSON was repaired.
    mended: bool = False
    # Values were given the types that the schema asks for.
    retyped: bool = False
    # The schema was looked at.
    is_judged: bool = True


class _NotChecked(Exception):
    """The text completes "it …" or "the schema …"."""


class JsonChecker:
    """``app.text.json_service`` in a helper process, which the first request that needs it starts."""

    def __init__(self) -> None:
        self._helper = HelperProcess("app.text.json_service")

    def close(self) -> None:
        """Ends the process. The next check starts another one."""
        self._helper.close()

    def check_schema(self, schema: str, field: str) -> None:
        """Raises InvalidRequest, naming ``field``: if the text is not a JSON Schema that can be used here."""
        try:
            flaw = self._call("find_flaw", schema)
        except _NotChecked as e:
            flaw = f" {e}"
        if flaw is not None:
            raise _unusable(f"{field}{flaw}", field)

    def find_json(self, text: str, schema: str | None, field: str) -> str | Problem:
        """The JSON in ``text``, as it was written, that ``schema`` describes (None: any object).

        Raises InvalidRequest, naming ``field``: if the schema takes too much work to check the text against it.
        """
        if len(text) > _MAX_CHARS:
            return Problem("json", f"it has more than {_MAX_CHARS} characters")
        try:
            found = self._call("find_json", text, schema)
        except _NotChecked as e:
            if schema is None:
                return Problem("json", f"it {e}")
            raise _unusable(f"{field}: comparing the answer with this JSON Schema {e}", field) from None
        return found["json"] if "json" in found else Problem(found["rule"], found["message"])

    def check_call(
        self, body: str, values: Sequence[tuple[str, str]], schema: str | None, names: Sequence[str], *, closed: bool
    ) -> "Arguments | Problem":
        """The arguments of a call of a function, from what stands in it; see ``text.tools.arguments``.

        A schema that cannot be used, or takes too much work, judges nothing: it must not make a call fail.
        """
        try:
            found = self._call("check_call", body, values, schema, names, closed)
        except (_NotChecked, CheckUnavailable) as e:
            if schema is not None and isinstance(e, _NotChecked):
                unjudged = self.check_call(body, values, None, names, closed=closed)
                return replace(unjudged, is_judged=False) if isinstance(unjudged, Arguments) else unjudged
            # Without the helper only what needs no repair can pass.
            return _unchecked(body, values)
        if "flaw" in found:
            return Problem("json", found["flaw"])
        problem = found["problem"]
        return Arguments(
            tuple(found["arguments"]),
            None if problem is None else Problem(problem["rule"], problem["message"]),
            found["mended"],
            found["retyped"],
        )

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return self._helper.call(function, *arguments)
        except LimitExceeded:
            raise _NotChecked("takes too much time or memory") from None
        except CallFailed as e:
            raise _NotChecked(f"is not possible ({e})") from None
        except HelperUnavailable as e:
            log.error("JSON could not be checked: %s", e)
            raise CheckUnavailable("the JSON could not be checked; try again later") from e


def _unchecked(body: str, values: Sequence[tuple[str, str]]) -> "Arguments | Problem":
    try:
        value = json.loads(body or "{}")
    except (ValueError, RecursionError):
        return Problem("json", "not JSON")
    if not isinstance(value, dict):
        return Problem("json", "the arguments are not a JSON object")
    text = json.dumps({**value, **dict(values)}, ensure_ascii=False) if values else body or "{}"
    return Arguments((text,), is_judged=False)


def _unusable(message: str, field: str) -> InvalidRequest:
    return InvalidRequest(message, code="unusable_schema", param=field)
