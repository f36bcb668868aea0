"""response_format: the answer is the JSON that was asked for, or an error that says it is not."""

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openai import OpenAI
from pydantic import BaseModel

from app.text import token_count
from tests.running import CANARY, EACH_GENERATION, Answer, Gateway, Profile, Simulator, ask, read_stream, wait_until
from tests.running.wire import say_in_turn, sse_answer

OBJECT = {"type": "json_object"}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GOOD = '{"name": "Ada", "age": 36}'


# Comparing each with each in Python takes 15 s.
MANY = json.dumps([{"a": n, "b": str(n)} for n in range(4000)])


def asked(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}


@pytest.mark.parametrize("stream", [True, False])
@EACH_GENERATION
def test_the_answer_is_the_json_alone(gateway: Gateway, simulator: Simulator, profile: Profile, stream: bool) -> None:
    for said in (
        GOOD,
        f"\n{GOOD}\n\n",
        f"Here you are:\n```json\n{GOOD}\n```\nAnything else?",
        f"Here you are:\n\n~~~\n{GOOD}\n~~~",
        f"The person [1] in question {{see below}} is {GOOD}. Bye {{}}!",
        f'It was {{"name": "nobody"}}, then {GOOD}.',
        f'The object begins with "{{" as asked, x in [0, 1) :-{{\n{GOOD}',
        f'{{"name": "A "dam"", "age": 1}}\nAgain:\n{GOOD}',
    ):
        simulator.knobs(say=said, token_chars=3)
        answer = ask(gateway, stream, response_format=asked(PERSON))
        assert (answer.content, answer.finish_reason, answer.error) == (GOOD, "stop", None), said


def test_kimi_is_told_what_is_wanted(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=GOOD)
    ask(gateway, False, "who?", response_format=asked(PERSON))
    ask(gateway, False, "who?", response_format=OBJECT)
    with_schema, without = simulator.prompts()
    assert with_schema.startswith("who?") and json.dumps(PERSON, separators=(",", ":")) in with_schema
    assert without.startswith("who?") and "It must be a JSON object." in without and "Schema" not in without


@pytest.mark.parametrize("stream", [True, False])
@EACH_GENERATION
def test_a_flawed_answer_is_sent_back_once(
    forgetful: Gateway, simulator: Simulator, profile: Profile, stream: bool
) -> None:
    say_in_turn(simulator, 'Sure! {"name": "Ada", "age": -1}', GOOD)
    answer = ask(forgetful, stream, "who?", response_format=asked(PERSON))
    assert (answer.content, answer.finish_reason, answer.error) == (GOOD, "stop", None)
    first, second = simulator.prompts()
    # The second chat knows nothing: it is shown the question, the answer, and what is wrong with it.
    assert "who?" in second and '{"name": "Ada", "age": -1}' in second and "$.age: -1 is less than" in second
    simulator.wait("deleted_chats", equals=2) if not profile.speaks_connect else None


@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_in_a_conversation_it_is_mended_in_the_same_chat(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    say_in_turn(simulator, "I would rather talk.", GOOD)
    response = gateway.say("who?", name, response_format=asked(PERSON))
    assert response.json()["choices"][0]["message"]["content"] == GOOD
    first, second = simulator.turns()
    assert first.chat == second.chat and "who?" not in second.text
    assert "it holds no complete JSON value" in second.text
    # It was one question.
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 1
    # The wish was for that turn only.
    simulator.knobs(say="plain")
    assert Answer.of_completion(gateway.say("and now?", name)).content == "plain"
    assert "JSON" not in simulator.prompts()[-1]


def test_what_is_told_beside_an_answer_is_told_beside_json(gateway: Gateway, simulator: Simulator, name: str) -> None:
    assert gateway.say("one", name, model="k1.5").ok
    simulator.reset()
    simulator.knobs(say=GOOD)
    history = [{"role": role, "content": CANARY} for role in ("user", "assistant", "user")]
    wish = {"model": "k1.5-thinking", "enable_search": True, "response_format": asked(PERSON)}
    response = gateway.chat({"messages": history, **wish}, name)
    assert response.headers["x-kimi-notice"] == "search-unavailable"
    assert response.headers["x-conversation-rebuilt"] == "history"


@EACH_GENERATION
def test_what_cannot_be_mended_is_an_error(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    say_in_turn(simulator, "no", f"{CANARY} still no", "no", '{"name": 1}')
    response = gateway.say("who?", response_format=asked(PERSON))
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["code"] == "invalid_json_answer" and "rule 'json'" in error["message"]
    # An SDK that repeats by itself would use up two more answers each time.
    assert response.headers["x-should-retry"] == "false"
    answer = read_stream(gateway.say("who?", response_format=asked(PERSON), stream=True))
    assert answer.error is not None and answer.error["code"] == "invalid_json_answer"
    assert (answer.content, answer.finish_reason) == ("", None)
    assert len(simulator.turns()) == 4


def test_thinking_flows_while_the_json_is_awaited(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(think="Hm, who is it?", say=GOOD, token_chars=2, gate="here", gate_after=3)
    with gateway.say("who?", response_format=asked(PERSON), stream=True) as response:
        reasoning = content = ""
        beats = 0
        for line in response.iter_lines(chunk_size=1, decode_unicode=True):
            if line.startswith(":"):
                # Heartbeats come while the text is held back: only then is the rest of it said.
                beats += 1
                assert reasoning == "Hm, who is it?" and not content
                simulator.open_gate("here")
            if line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                reasoning += delta.get("reasoning_content") or ""
                content += delta.get("content") or ""
    assert beats >= 1
    assert content == GOOD


def test_a_part_of_an_answer_that_was_cut_is_not_the_answer(gateway: Gateway, simulator: Simulator) -> None:
    said = '{"items": [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}, {"e": 5}]}'
    simulator.knobs(say=said, token_chars=1)
    answer = ask(gateway, True, response_format=OBJECT, max_tokens=15)
    assert said.startswith(answer.content) and '{"a": 1}' in answer.content
    assert answer.finish_reason == "length"


def test_json_that_kimi_moderates_is_still_moderated(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="moderated", fail_after=1, say=GOOD, token_chars=len(GOOD))
    answer = ask(gateway, True, response_format=OBJECT)
    assert (answer.content, answer.finish_reason) == (GOOD, "content_filter")


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_was_cut_short_is_passed_on_with_its_reason(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(say=GOOD, token_chars=1)
    answer = ask(gateway, stream, response_format=asked(PERSON), max_tokens=4)
    assert GOOD.startswith(answer.content) and token_count.estimate(answer.content) == 4
    assert answer.finish_reason == "length"
    answer = ask(gateway, stream, response_format=asked(PERSON), stop=["age"])
    assert (answer.content, answer.finish_reason) == ('{"name": "Ada", "', "stop")
    assert len(simulator.turns()) == 2


def test_json_that_is_complete_before_the_cut_is_whole(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=f"{GOOD}\nI hope that this helps you. Do ask again, whenever you like!", token_chars=1)
    answer = ask(gateway, True, response_format=OBJECT, max_tokens=token_count.estimate(GOOD) + 5)
    assert (answer.content, answer.finish_reason) == (GOOD, "stop")


@pytest.mark.parametrize(
    ("schema", "said", "content"),
    [
        ({"type": "integer"}, " 42\n", "42"),
        ({"type": "string"}, 'Well:\n```\n"yes"\n```', '"yes"'),
        ({"type": "array", "items": {"type": "integer"}}, "see [a] and [1, 2]", "[1, 2]"),
        ({"enum": [None]}, "null", "null"),
        ({"type": "string", "pattern": "^[a-z]+$"}, '"abc"', '"abc"'),
        ({"type": "string", "pattern": "^(a|aa)+b$"}, json.dumps("a" * 60 + "b"), json.dumps("a" * 60 + "b")),
        ({"type": "string", "pattern": "(" * 22 + "a" + "+)" * 22}, '"a"', '"a"'),
        ({"type": "object", "patternProperties": {"^x-": {"type": "integer"}}}, '{"x-a": 1}', '{"x-a": 1}'),
        ({"$ref": "#"}, "{}", "{}"),
        ({"$schema": "https://example.com/of-our-own", "type": "object"}, "{}", "{}"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}, "2", "2"),
        ({"$id": "https://example.com/a", "$ref": "https://example.com/a#/$defs/n", "$defs": {"n": {"const": 1}}},
         "1", "1"),
        ({"uniqueItems": True}, MANY, MANY),
        ({"$defs": {"n": {"type": "integer"}}, "type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}},
         '{"n": 1e0, "x": "\\ud83d\\ude00"}', '{"n": 1e0, "x": "\\ud83d\\ude00"}'),
    ],
)  # fmt: skip
def test_any_schema_of_any_value(
    gateway: Gateway, simulator: Simulator, schema: dict[str, Any], said: str, content: str
) -> None:
    simulator.knobs(say=said)
    assert ask(gateway, True, response_format=asked(schema)).content == content


@pytest.mark.parametrize(
    "said",
    [
        "[1]",
        '"text"',
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": NaN}',
        '{"a": ',
        "[" * 3000 + "{}",
        # Parts of what was meant.
        '{"items": [{"a": 1}, {"b": 2},]}',
        '{"items": [{"a": 1} {"b": 2}]}',
        '{items: {"a": 1}}',
        '[{"a": 1}, {"b": 2},',
        '{"a": "}", {"b": 1}',
        '[\n{"a": 1},\n{"b": 2},\n{"c"',
        '{"x":\n{"a": 1},',
    ],
)
def test_what_is_no_json_object_is_not_taken_for_one(gateway: Gateway, simulator: Simulator, said: str) -> None:
    say_in_turn(simulator, said, '{"mended": true}')
    answer = ask(gateway, False, response_format=OBJECT)
    assert answer.content == '{"mended": true}'
    assert len(simulator.turns()) == 2


def doubled(levels: int) -> dict[str, Any]:
    """A schema whose checking takes two to the power of ``levels`` steps."""
    steps = {f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**steps, f"s{levels}": {"type": "object"}}, "$ref": "#/$defs/s0"}


def branching() -> dict[str, Any]:
    """A schema whose checking takes two to the power of the depth of the answer."""
    return {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"allOf": [{"$ref": "#/$defs/a"}] * 2}}}}


def unevaluated(levels: int) -> dict[str, Any]:
    """A schema that is followed once to see what is evaluated, and once more for the rest, at each level."""
    steps = {
        f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}], "unevaluatedProperties": {"$ref": f"#/$defs/s{n + 1}"}}
        for n in range(levels)
    }
    return {"$defs": {**steps, f"s{levels}": {}}, "$ref": "#/$defs/s0"}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "pattern": "^(a|aa)+\\1(?!x)c$"}, json.dumps("a" * 60 + "!")),
        (doubled(40), "{}"),
        (branching(), "[" * 40 + "]" * 40),
        (unevaluated(20), '{"a": {"a": {"a": 1}}}'),
        ({"contains": {"anyOf": [{"const": [n]} for n in range(1000)]}}, json.dumps([[-1]] * 5000)),
        ({"type": "object", "$ref": "#/$defs/nowhere"}, "{}"),
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/secret.json"}}}, '{"a": 1}'),
        ({"type": "string", "pattern": "("}, '"x"'),
        ({"type": "no such type"}, "{}"),
        (nested(150), "[]"),
        (nested(300), "[]"),
        ({"type": "object", "description": "x" * 120_000}, "{}"),
        ({"type": "object", "enum": [[[]] * 40_000]}, "{}"),
        ({"type": "string", "pattern": "(?:(?:(?:a{1000}){1000}){1000}){1000}"}, '"a"'),
        ({"type": "string", "pattern": "(?#[)(?:(?:a{1000}){1000}){1000}]"}, '"a"'),
        ({"$ref": "#/x", "x": {"type": "string", "pattern": "(a{900}(?i)a){4000}"}}, '"a"'),
        ({"type": "string", "pattern": "a{99999999999999999999}"}, '"a"'),
        ({"$schema": ["x"]}, "{}"),
        ({"$schema": "http://["}, "{}"),
        ({"$ref": "#/title", "title": "x"}, "{}"),
        ({"type": "object", "$dynamicRef": "#/title", "title": "x"}, "{}"),
        (
            {"$schema": "http://json-schema.org/draft-03/schema#", "properties": {"x": {"type": "canary"}}},
            json.dumps({"x": CANARY}),
        ),
        ({"type": "object", "default": json.loads("[" * 300 + "]" * 300)}, "{}"),
    ],
    ids=[
        "pattern", "doubled", "branching", "unevaluated", "contains", "nowhere", "remote", "no pattern", "no type",
        "deep", "deeper", "long", "longer", "repeats", "hidden", "flags", "huge", "no name", "no address",
        "no schema", "no anchor", "canary", "default",
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_a_clear_error_and_stops_nobody(
    gateway: Gateway, simulator: Simulator, schema: dict[str, Any], said: str
) -> None:
    simulator.knobs(say=said)
    response = gateway.say("hello", response_format=asked(schema))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"].startswith("response_format")
    # The next one finds a worker that works, and which has told nobody.
    assert gateway.get("/healthz").status_code == 200
    assert CANARY not in gateway.log()


def test_streams_go_on_while_an_answer_is_checked(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=GOOD)
    assert ask(gateway, True, response_format=OBJECT).content == GOOD
    (worker,) = gateway.process.children()
    (checker,) = children(worker)
    os.kill(checker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:
            checked = pool.submit(ask, gateway, True, "to be checked", response_format=OBJECT)
            wait_until("Kimi has answered", lambda: simulator.state()["turns"] == 2)
            assert ask(gateway, True, "not checked").content == GOOD
            assert not checked.done()
            os.kill(checker, signal.SIGCONT)
            assert checked.result().content == GOOD
    finally:
        os.kill(checker, signal.SIGCONT)


def test_a_checker_that_was_killed_is_replaced(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=GOOD)
    assert ask(gateway, True, response_format=OBJECT).content == GOOD
    (worker,) = gateway.process.children()
    (checker,) = children(worker)
    os.kill(checker, signal.SIGKILL)
    wait_until("it has ended", lambda: checker not in children(worker))
    assert ask(gateway, True, response_format=asked(PERSON)).content == GOOD


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_a_name_that_is_half_a_character_can_be_mended(gateway: Gateway, simulator: Simulator) -> None:
    say_in_turn(simulator, '{"\\ud800": 1}', '{"a": "b"}')
    schema = {"type": "object", "additionalProperties": {"type": "string"}}
    assert ask(gateway, True, response_format=asked(schema)).content == '{"a": "b"}'


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("messages", "messages", {"messages": [{"role": "user", "content": []}], "max_tokens": 9,
                                  "output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        ("responses", "input", {"input": [{"type": "reasoning"}], "text": {"format": {"type": "json_object"}}}),
        ("completions", "prompt", {"prompt": " "}),
    ],
)  # fmt: skip
def test_a_wish_without_a_question_is_refused(
    gateway: Gateway, simulator: Simulator, path: str, field: str, body: Any
) -> None:
    response = gateway.post(f"/v1/{path}", json={"model": gateway.model, **body})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"{field}: there is no text")


def test_the_field_that_holds_the_schema_is_named(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="{}")
    wanted = {"format": {"type": "json_schema", "name": "a", "schema": {"$ref": "#/$defs/nowhere"}}}
    body = {"model": gateway.model, "input": CANARY, "text": wanted, "store": False}
    error = gateway.post("/v1/responses", json=body).json()["error"]
    assert (error["param"], error["code"]) == ("text.format.schema", "unusable_schema")


def test_its_description_is_told_to_kimi(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=GOOD)
    wish = asked(PERSON)
    wish["json_schema"]["description"] = "somebody famous"
    ask(gateway, False, response_format=wish)
    assert "(named person: somebody famous)" in simulator.prompts()[0]


def test_a_mended_response_is_one_turn(gateway: Gateway, simulator: Simulator) -> None:
    say_in_turn(simulator, "I would rather talk.", GOOD)
    wanted = {"format": {"type": "json_schema", "name": "a", "schema": PERSON}}
    body = {"model": gateway.model, "input": f"who? {CANARY}"}
    first = gateway.post("/v1/responses", json={**body, "text": wanted}).json()
    assert first["output"][-1]["content"][0]["text"] == GOOD
    simulator.knobs(say="plain")
    second = gateway.post("/v1/responses", json={**body, "previous_response_id": first["id"]})
    assert second.ok, second.text
    assert len({turn.chat for turn in simulator.turns()}) == 1 and len(simulator.turns()) == 3


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='[]{}`~"'), max_size=20)


def test_any_object_comes_out_as_it_was_written(gateway: Gateway, simulator: Simulator) -> None:
    session = requests.Session()

    @settings(
        max_examples=80,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(
        value=st.dictionaries(st.text(max_size=5), _VALUES, max_size=4),
        around=st.tuples(_WORDS, _WORDS),
        style=st.sampled_from([{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}]),
        fence=st.sampled_from(["", "```", "```json", "~~~"]),
    )
    def same_json(value: dict[str, Any], around: tuple[str, str], style: dict[str, Any], fence: str) -> None:
        written = json.dumps(value, **style).encode("utf-8", "replace").decode()
        inside = f"\n{fence}\n{written}\n{fence[:3]}\n" if fence else written
        simulator.script(sse_answer(f"{around[0]}{inside}{around[1]}"))
        body = {"model": gateway.model, "messages": [{"role": "user", "content": CANARY}], "response_format": OBJECT}
        response = session.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=30)
        assert response.json()["choices"][0]["message"]["content"] == written

    with session:
        same_json()


class Person(BaseModel):
    name: str
    age: int


def test_the_sdk_parses_it(gateway: Gateway, simulator: Simulator) -> None:
    say_in_turn(simulator, '```json\n{"name": "Ada"}\n```', f"```json\n{GOOD}\n```")
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
        completion = client.chat.completions.parse(
            model=gateway.model, messages=[{"role": "user", "content": f"who? {CANARY}"}], response_format=Person
        )
    assert completion.choices[0].message.parsed == Person(name="Ada", age=36)


def test_a_reference_to_another_site_is_never_followed(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say='{"a": 1}')
    with socket.create_server(("127.0.0.1", 0)) as site:
        site.setblocking(False)
        schema = {"type": "object", "properties": {"a": {"$ref": f"http://127.0.0.1:{site.getsockname()[1]}/a.json"}}}
        wanted = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
        responses = gateway.post("/v1/responses", json={"model": gateway.model, "input": CANARY, "text": wanted})
        chat = gateway.say("hello", response_format=asked(schema))
        assert (responses.status_code, chat.status_code) == (400, 400)
        with pytest.raises(BlockingIOError):
            site.accept()
