"""Usage is an estimate, and how far it may be off is known: ``bench/tokens`` has a corpus that was really counted."""

import pytest

from bench.tokens.__main__ import corpus, known_counts
from tests.running import Gateway, Simulator

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
