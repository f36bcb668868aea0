"""MODEL_ALIASES: programs with fixed model names get a model of Kimi's, and are told which."""

import fnmatch
import itertools
import time

import pytest

from app.settings.model_aliases import ModelAliases, matches, parse_aliases
from tests.running import Gateway, Share, Simulator, read_stream, wait_until
from tests.running.commands import run_flask

_ALIASES = "gpt-4o=k2,k1.5=k2,claude-*=k1.5,*=k2-nosearch,gone=no-such-model"


@pytest.fixture
def gateway(shared_gateway: Share) -> Gateway:
    return shared_gateway(MODEL_ALIASES=_ALIASES)


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ("gpt-4o", "k2"),
        ("claude-opus-4", "k1.5"),
        ("claude-", "k1.5"),
        ("whatever", "k2-nosearch"),
        # A real name, which stands for another model here.
        ("k1.5", "k2"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_another_name_is_answered_by_its_model(
    gateway: Gateway, simulator: Simulator, asked: str, answers: str, stream: bool
) -> None:
    response = gateway.say("hello", model=asked, stream=stream)
    assert response.headers["x-kimi-model"] == answers
    if stream:
        assert read_stream(response).finish_reason == "stop"
    else:
        assert response.json()["model"] == asked
    # Logged when the turn is over, which its client does not wait for.
    wait_until("it is logged", lambda: f"turn model={answers} " in gateway.log())


def test_a_model_of_its_own_name_is_asked_as_always(gateway: Gateway) -> None:
    response = gateway.say("hello", model="k1.5-thinking")
    assert response.ok and "x-kimi-model" not in response.headers


def test_exact_names_are_listed_and_patterns_are_found(gateway: Gateway) -> None:
    ids = [model["id"] for model in gateway.get("/v1/models").json()["data"]]
    assert "gpt-4o" in ids and "k2" in ids and len(ids) == len(set(ids))
    assert not any("*" in id_ for id_ in ids) and "gone" not in ids
    assert gateway.get("/v1/models/claude-3").json()["id"] == "claude-3"


def test_a_name_of_a_model_that_does_not_exist_says_where_it_stands(gateway: Gateway) -> None:
    error = gateway.say("hello", model="gone").json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'no-such-model' is named by MODEL_ALIASES and does not exist" in error["message"]


def test_other_apis_know_the_names_too(gateway: Gateway) -> None:
    said = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}
    assert gateway.post("/v1/messages", json={"model": "claude-opus-4", **said}).headers["x-kimi-model"] == "k1.5"
    assert gateway.post("/v1/messages/count_tokens", json={"model": "claude-opus-4", **said}).ok
    assert gateway.post("/v1/responses", json={"model": "gpt-4o", "input": "x"}).headers["x-kimi-model"] == "k2"


def test_the_pattern_with_the_most_characters_counts() -> None:
    aliases = ModelAliases(parse_aliases("*=a,gpt-*=b,gpt-*-mini=c"))
    assert [aliases.of_pattern(name) for name in ("x", "gpt-5", "gpt-5-mini", "gpt.5")] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("text", ["gpt-4o", "=k2", "a=", "a=b*", "a b=c", "a=b,a=c", "a=b c"])
def test_a_list_that_cannot_be_read_stops_the_start(text: str) -> None:
    done = run_flask("doctor", "--json", MODEL_ALIASES=text)
    assert "MODEL_ALIASES" in done.output


@pytest.mark.parametrize("pattern", ["*", "a", "", "a*", "*a", "a*a", "a*b*a", "**", "*ab*", "*a*b*", "ab*ba"])
def test_a_star_stands_for_any_characters(pattern: str) -> None:
    for length in range(6):
        for letters in itertools.product("ab\n", repeat=length):
            name = "".join(letters)
            assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern), name


def test_a_long_name_is_compared_at_once() -> None:
    began = time.process_time()
    assert not matches("*gpt*mini", "gpt" * 100_000) and matches("*gpt*mini", "gpt" * 100_000 + "mini")
    assert time.process_time() - began < 0.5
