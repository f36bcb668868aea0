"""Usage is an estimate, and how far it may be off is known: ``bench/tokens`` has a corpus that was really counted."""

import contextlib
import http.client
import json
import random
import select
from urllib.parse import urlsplit

import pytest

from app.text import token_count
from bench.tokens.__main__ import corpus, known_counts
from tests.running import Gateway, Running, Simulator, read_stream

_MOST_OFF = 0.15
_CORPUS = corpus()
_COUNTS = known_counts()

# The four kinds of text that the promise is about; for the others the two real tokenizers differ by up to 40 %,
# and nothing can be near to both.
_PROMISED = [name for name in _CORPUS if name.startswith(("chinese", "english", "code", "mixed"))]
_OTHERS = [name for name in _CORPUS if name not in _PROMISED]


def estimates(gateway: Gateway, simulator: Simulator, text: str) -> tuple[int, int, int]:
    """What usage tells of it as a prompt, as an answer and as thinking."""
    simulator.knobs(say=text, think=text)
    body = {"model": gateway.model, "messages": [{"role": "user", "content": text}]}
    usage = gateway.chat(body).json()["usage"]
    thinking = usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"] - thinking, thinking


@pytest.mark.parametrize("name", _PROMISED)
def test_the_estimate_is_near_a_real_count(gateway: Gateway, simulator: Simulator, name: str) -> None:
    real = _COUNTS[name]["qwen"]
    for estimate in estimates(gateway, simulator, _CORPUS[name]):
        assert abs(estimate - real) <= _MOST_OFF * real, (estimate, real)


@pytest.mark.parametrize("name", _OTHERS)
def test_the_estimate_is_near_one_real_count_where_they_differ(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    for estimate in estimates(gateway, simulator, _CORPUS[name]):
        off = [abs(estimate - real) / real for real in _COUNTS[name].values()]
        assert min(off) <= _MOST_OFF, (estimate, _COUNTS[name])


def test_the_corpus_is_large_enough_to_say_something() -> None:
    kinds = [name.partition("-")[0] for name in _PROMISED]
    assert {kind: kinds.count(kind) for kind in kinds} == {"chinese": 3, "code": 4, "english": 3, "mixed": 2}
    assert all(len(_CORPUS[name]) >= 250 for name in _CORPUS)


def test_a_stream_goes_on_while_a_large_text_is_counted(running: Running, simulator: Simulator) -> None:
    """In the same worker. The text takes more than a second, the rest of the stream a fraction of one."""
    simulator.knobs(say="word " * 20, token_chars=5, gate="counting", gate_after=1, delay_s=0.02)
    body = {"model": "k2", "messages": [{"role": "user", "content": "a1," * 600_000}]}
    with (
        running.gateway(simulator.url, MAX_TEXT_CHARS="2000000") as gateway,
        gateway.say("hello", stream=True) as stream,
        contextlib.closing(http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=60)) as large,
    ):
        simulator.wait("gate_waiting:counting", equals=1)
        large.request("POST", "/v1/messages/count_tokens", json.dumps(body), {"Content-Type": "application/json"})
        simulator.open_gate("counting")
        assert read_stream(stream).content == "word " * 20
        assert not select.select([large.sock], [], [], 0)[0], "the text was counted first"
        assert json.load(large.getresponse()) == {"input_tokens": 1_524_000}


def test_a_large_text_counts_as_its_pieces_do() -> None:
    """However it is cut: a large one is counted in parts."""
    chance = random.Random(20261123)
    kinds = [*_CORPUS.values(), "a", "Z", "aZ", " ", "\n", "7", "!?", "\u00e9", "e\u0301", "字", "😀\u200d", "\u0e01"]
    for _ in range(8):
        text = "".join((chance.choice(kinds) * chance.randint(1, 30))[:300] for _ in range(500))
        meter = token_count.Meter()
        for character in text:
            meter.add(character)
        assert token_count.estimate(text) == meter.tokens
