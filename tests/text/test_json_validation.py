"""Which JSON is found in a text, and what is said about JSON that breaks its schema."""

import json
from typing import Any

import pytest

from app.text.json_validation import find_flaw, find_json

NUMBER = {"type": "integer"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"a": 1}\n', '{"a": 1}'),
        ('{"a": 1}{"b": 2}', '{"a": 1}'),
        ('[{"a": 1}]\n{"b": 2}', '{"b": 2}'),
        ('A list [1, 2], a set {1, 2}, and {"a": 1} in one line.', '{"a": 1}'),
        ('{"a": 1,}\nI mean:\n{"a": 1}', '{"a": 1}'),
        ('```\n{"a": 1,}\n```\n```json\n{"b": 2}\n```', '{"b": 2}'),
        ('{"b": 2}\n```json\n{"a": 1}\n```', '{"a": 1}'),
        ('{"a": {"b": 1}, "c"', None),
        ('{"a": [\n{"b": 1},\n{"c": 2}', None),
        ("{'a': {\"b\": 1}}", None),
        ('["a", {"b": 1}', None),
        ("[" * 2000, None),
        ('{"a": NaN}', None),
        ("", None),
    ],
)
def test_a_whole_object_is_found_and_no_part_of_one(text: str, found: str | None) -> None:
    assert find_json(text, None).get("json") == found


@pytest.mark.parametrize(
    ("schema", "value", "rule", "message"),
    [
        (NUMBER, "x", "type", '$: "x" is not of type "integer"'),
        ({"required": ["a"]}, {}, "required", '$: "a" is a required property'),
        ({"properties": {"a": {"items": NUMBER}}}, {"a": [1, "x"]}, "type", '$.a[1]: "x" is not of type "integer"'),
        # One attempt is all that Kimi has: it must learn why none of them fits.
        (
            {"properties": {"a": {"anyOf": [{"properties": {"b": NUMBER}}, {"type": "null"}]}}},
            {"a": {"b": "x"}},
            "anyOf",
            '$.a: {"b":"x"} is not valid under any of the schemas listed in the \'anyOf\' keyword '
            '($.a.b: "x" is not of type "integer"; or $.a: {"b":"x"} is not of type "null")',
        ),
        ({"additionalProperties": NUMBER}, {"\ud800": "x"}, "type", '$.\U0010f800: "x" is not of type "integer"'),
    ],
)
def test_a_flaw_is_described_with_its_place(schema: Any, value: Any, rule: str, message: str) -> None:
    assert find_json(json.dumps(value), json.dumps(schema)) == {"rule": rule, "message": message}


def test_the_flaw_of_what_comes_nearest_is_described() -> None:
    found = find_json('```\n{"a": "x"}\n```\nor {"a": null}', json.dumps({"properties": {"a": NUMBER}}))
    assert found["message"] == '$.a: "x" is not of type "integer"'


@pytest.mark.parametrize(
    ("schema", "flaw"),
    [
        ({"properties": {"a": {"minLength": "x"}}}, ".properties.a.minLength is not valid in a JSON Schema"),
        ({"pattern": "("}, ".pattern is not valid in a JSON Schema"),
        ({"$ref": "https://example.com/a"}, " refers to something that is not in it"),
        ({"$ref": "#/nowhere"}, " refers to something that is not in it"),
        (json.loads("[" * 200 + "]" * 200), " is nested too deep"),
    ],
)
def test_a_flaw_of_a_schema_is_described_without_its_content(schema: Any, flaw: str) -> None:
    found = find_flaw(json.dumps(schema))
    assert found is not None and found.startswith(flaw)


@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-06/schema#", "draft-07/schema#", "of/our/own"])
def test_schemas_of_all_drafts_can_be_used(draft: str) -> None:
    schema = json.dumps({"$schema": f"http://json-schema.org/{draft}", "type": "object", "format": "unknown"})
    assert find_flaw(schema) is None
    assert find_json("{}", schema) == {"json": "{}"}
