"""Text that is kept: it is what was added, and its memory is counted, limited and given back."""

import gc
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import GatewayOverloaded, UpstreamProtocolError
from app.text.held_text import MAX_BYTES, HeldText, TextLimit, TextMemory

MB = 1 << 20
PIECES = st.lists(st.sampled_from(["", "a", "words ", "中文", "🦊", "é" * 300, "x" * 20_000]), max_size=600)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@given(PIECES, st.sets(st.integers(0, 600)))
def test_a_text_is_what_was_added_whenever_it_is_read(pieces: list[str], reads: set[int]) -> None:
    text = HeldText(TextLimit(TextMemory(128 * MB)))
    for number, piece in enumerate(pieces):
        text.add(piece)
        if number in reads:
            assert str(text) == "".join(pieces[: number + 1])
            assert len(text) == len(str(text))
    assert len(text) == sum(map(len, pieces))
    assert str(text) == "".join(pieces)


@given(PIECES)
def test_what_is_counted_is_not_less_than_the_text_and_little_more(pieces: list[str]) -> None:
    memory = TextMemory(128 * MB)
    text = HeldText(TextLimit(memory))
    for piece in pieces:
        text.add(piece)
    size = sys.getsizeof(str(text))
    wider = max(sys.getsizeof(piece) for piece in [*pieces, ""])
    assert size <= memory.used + (4 << 10)
    # Narrow pieces that were counted before a wide one came need less than the whole.
    assert memory.used <= 2 * size + wider + (40 << 10)


def test_small_pieces_need_hardly_more_than_their_text() -> None:
    memory = TextMemory(128 * MB)
    text = HeldText(TextLimit(memory))
    for _ in range(100_000):
        text.add("word ")
    assert 500_000 < memory.used < 600_000


def test_a_wide_character_is_counted_when_the_text_becomes_one() -> None:
    memory = TextMemory(3 * MB)
    text = HeldText(TextLimit(memory))
    for piece in ["a" * 100_000] * 7 + ["🦊"]:
        text.add(piece)
    assert memory.used < MB
    with pytest.raises(GatewayOverloaded):
        str(text)


def test_no_answer_needs_more_than_its_limit() -> None:
    memory = TextMemory(100 * MB)
    text = HeldText(TextLimit(memory))
    with pytest.raises(UpstreamProtocolError, match="more than 16 MB"):
        for _ in range(1000):
            text.add("a" * 100_000)
    assert MAX_BYTES - 200_000 < memory.used <= MAX_BYTES


@pytest.mark.parametrize("others", [0, 1, 2, 9])
def test_no_answer_gets_more_than_it_leaves_to_the_others(others: int) -> None:
    memory = TextMemory(10 * MB)
    limits = [TextLimit(memory) for _ in range(others + 1)]
    growing = list(limits)
    while growing:
        for limit in list(growing):
            try:
                limit.add("a" * 10_000)
            except GatewayOverloaded:
                growing.remove(limit)
    share = 10 * MB / (others + 2)
    assert memory.used == pytest.approx(share * (others + 1), rel=0.05)
    # There is still room for short ones.
    HeldText(TextLimit(memory)).add("short")


@pytest.mark.usefixtures("no_garbage_collection")
def test_the_memory_is_given_back_at_once() -> None:
    memory = TextMemory(MB)
    limit = TextLimit(memory)
    texts = [HeldText(limit), HeldText(limit)]
    for text in texts:
        text.add("a" * 100_000)
    assert memory.used > 200_000
    del limit, text
    texts.pop()
    assert memory.used > 200_000
    texts.pop()
    assert memory.used == 0
