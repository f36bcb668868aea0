"""Whether a JSON Schema is valid, and whether an answer contains JSON that it describes.

Schemas come from clients and answers from a model, so the work may be arbitrarily large: a few nested references or
one pattern are enough. ``answers.json_checker`` runs this in a process of its own, with limits. jsonschema-rs
reads drafts 4, 6, 7, 2019-09 and 2020-12, and ECMA 262's regular expressions; ``format`` is not checked.
"""

import json
import re
import sys
from typing import Any

import jsonschema_rs

from app.text import json_extraction

_MAX_MESSAGE_CHARS = 2000
# Of a value that none of several schemas describes, the first flaw under so many of them is reported.
_MAX_BRANCHES = 5

_OPTIONS: dict[str, Any] = {
    # Nothing is fetched, whatever a reference names.
    "offline": True,
    "validate_formats": False,
    # Its own limit would be an error of the answer. The limit of the process comes first.
    "pattern_options": jsonschema_rs.FancyRegexOptions(backtrack_limit=sys.maxsize),
}
# The kind of the errors of references, which are found when a schema is compiled.
_REFERENCE = "$ref"
_SURROGATE = re.compile("[\ud800-\udfff]")
SURROGATE_OR_ESCAPE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


def find_flaw(schema: str) -> str | None:
    """What is wrong with a JSON Schema, for a sentence after the name of its field; None where it can be used."""
    try:
        compile_schema(schema)
    except jsonschema_rs.ValidationError as e:
        if e.kind.name == _REFERENCE:
            return " refers to something that is not in it: only references within the schema ('#…') are followed"
        return f"{_path(e.instance_path)} is not valid in a JSON Schema"
    except ValueError:
        return " is nested too deep"
    return None


def find_json(text: str, schema: str | None) -> dict[str, str]:
    """The JSON in ``text`` that ``schema`` describes (None: any object), or the flaw of what comes nearest to it.

    ``{"json": as it was written}``, or ``{"rule": keyword of the schema, "message": "path: what is wrong there"}``.
    """
    validator = None if schema is None else compile_schema(schema)
    nearest: dict[str, str] | None = None
    for candidate in json_extraction.candidates(text):
        problem = _problem(candidate, validator)
        if problem is None:
            return {"json": candidate.text}
        nearest = nearest or problem
    return nearest or {"rule": "json", "message": "it holds no complete JSON value"}


def compile_schema(schema: str) -> jsonschema_rs.Validator:
    """Raises jsonschema_rs.ValidationError or ValueError: if it cannot be used."""
    try:
        return jsonschema_rs.validator_for(schema, **_OPTIONS)
    except jsonschema_rs.ValidationError as e:
        if e.kind.name != _REFERENCE:
            raise
    # Either $schema names a draft that is not known, and the latest one is assumed; or this raises the same error.
    return jsonschema_rs.Draft202012Validator(schema, **_OPTIONS)


def _problem(
    candidate: json_extraction.Candidate, validator: jsonschema_rs.Validator | None
) -> dict[str, str] | None:
    value = candidate.value
    if validator is None:
        return None if isinstance(value, dict) else {"rule": "type", "message": "it is not a JSON object"}
    if SURROGATE_OR_ESCAPE.search(candidate.text):
        value = without_lone_surrogates(value)
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as e:
        if isinstance(e.kind, jsonschema_rs.ValidationErrorKind.RegexEngineFailure):
            raise
        return {"rule": e.kind.name, "message": describe_error(e)[:_MAX_MESSAGE_CHARS]}
    except ValueError:
        return {"rule": "json", "message": "it is nested too deep"}
    return None


def without_lone_surrogates(value: Any) -> Any:
    """``value`` with another character for each half of a surrogate pair: Rust's strings have none."""
    # These are at the end of the last private plane, one for each, so that different names stay different.
    text = _SURROGATE.sub(lambda half: chr(ord(half[0]) - 0xD800 + 0x10F800), json.dumps(value, ensure_ascii=False))
    return json.loads(text)


def describe_error(error: jsonschema_rs.ValidationError) -> str:
    """Where in the answer the error is, and what it is; for a choice of schemas, why none of them fits."""
    described = f"{'$' + _path(error.instance_path)}: {error.message}"
    branches = [branch[0] for branch in getattr(error.kind, "context", []) if branch]
    if not branches:
        return described
    reasons = "; or ".join(describe_error(first) for first in branches[:_MAX_BRANCHES])
    return f"{described} ({reasons})"


def _path(steps: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
