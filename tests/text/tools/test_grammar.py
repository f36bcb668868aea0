"""Headings: which of those that a model writes are meant, and that the code never leaves."""

import itertools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.text.pieces import More
from app.text.tools.grammar import Code, CodeFilter, Heading, WrongCode, unused_code, without_code

CODE = "3f09c2a1b87d"
PERIODIC = "abcabcabcabc"


@pytest.mark.parametrize(
    ("text", "word", "argument"),
    [
        ("[3f09c2a1b87d call read:1]", "call", "read:1"),
        ("[3f09c2a1b87d Call read:1]", "call", "read:1"),
        ("[3F09C2A1B87D call read:1]", "call", "read:1"),
        ("[ 3f09c2a1b87d  call\n read : 1 ]", "call", "read : 1"),
        ("【3f09c2a1b87d call read:1】", "call", "read:1"),
        ("［3f09c2a1b87d /call］", "/call", ""),
        ("**[3f09c2a1b87d /call]**", "/call", ""),
        ("`[3f09c2a1b87d value content]`", "value", "content"),
        ("[3f09c2a1b87d call `read`:1]", "call", "read:1"),
        ("[3f09c2a1b87d read:1]", "", "read:1"),
        ("[3f09c2a1b87d user]", "user", ""),
        ("[3f09c2a1b87 call read:1]", "call", "read:1"),
        ("[3f09c2a1b887d call read:1]", "call", "read:1"),
        ("[3f09c2aXb8Yd call read:1]", "call", "read:1"),
    ],
)
def test_a_heading_is_read_leniently(text: str, word: str, argument: str) -> None:
    found = Code(CODE).heading_at(text, 0, final=True)
    assert isinstance(found, Heading)
    assert (found.word, found.argument, text[found.end :].strip("`*")) == (word, argument, "")


@pytest.mark.parametrize(
    "text",
    [
        "[link](url)",
        "[1] note",
        "[x]",
        "3f09c2a1b87d call read:1",
        "[3f09c2a1b87d]",
        "[3f09c2a1b87d",
        "[3f09c2a1b87d call read:1",
        "[3f09c2a1b87d call\n\nread:1]",
        "[3f09c2a1b87d call [read:1]",
        "[3f0Xc2Yab87Z call read:1]",
        "x[3f09c2a1b87d call read:1]",
    ],
)
def test_anything_else_is_text(text: str) -> None:
    assert not isinstance(Code(CODE).heading_at(text, 0, final=True), Heading)


@pytest.mark.parametrize(
    "text", ["[3f09c2a1b87d call read:1]", "**[3f09c2a1b87d call\nread:1]", "[0123456789ab call x:1]"]
)
def test_no_beginning_of_a_heading_is_decided_too_early(text: str) -> None:
    code = Code(CODE)
    whole = code.heading_at(text, 0, final=True)
    for end in range(1, len(text)):
        found = code.heading_at(text[:end], 0, final=False)
        assert isinstance(found, More) or found == whole, text[:end]


def test_another_code_is_told_apart_from_none() -> None:
    assert isinstance(Code(CODE).heading_at("[0123456789ab call x:1]", 0, final=True), WrongCode)
    assert Code(CODE).heading_at("[0123456789ab page]", 0, final=True) is None


def test_few_words_are_near_to_a_code() -> None:
    """A text that guesses must hit one of 2^48 codes, or a word that is two edits away from it."""
    code = Code(CODE)
    near = {CODE}
    for _ in range(2):
        near |= {
            edited
            for word in list(near)
            for at in range(len(word) + 1)
            for edited in (
                word[:at] + word[at + 1 :],
                *(word[:at] + digit + word[at + 1 :] for digit in "0f"),
                *(word[:at] + digit + word[at:] for digit in "0f"),
            )
        }
    assert all(code.matches(word) for word in near)
    three = "".join("0" if digit != "0" else "1" for digit in CODE[:3]) + CODE[3:]
    assert not code.matches(three)


def test_a_code_is_in_none_of_the_texts() -> None:
    texts = [unused_code([]) for _ in range(3)]
    assert unused_code(texts) not in texts
    assert len(unused_code([])) == 12


_NEAR_CODE = st.text(st.sampled_from("[ abcabcx…\n"), max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.one_of(_NEAR_CODE, st.just(PERIODIC), st.just(f"[{PERIODIC} call x]"))).map("".join),
    data=st.data(),
)
@example(text="ab" + PERIODIC + "cabcabcabc", data=None)
def test_the_code_never_leaves_whatever_the_pieces_are(text: str, data: st.DataObject | None) -> None:
    whole, _ = without_code(PERIODIC, text)
    assert PERIODIC not in whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text))))) if data is not None else range(len(text))
    for edges in ([0, *cuts, len(text)], range(len(text) + 1)):
        cleaner = CodeFilter(PERIODIC)
        out = ""
        for start, end in itertools.pairwise(edges):
            piece = text[start:end]
            out += piece if piece and cleaner.passes_unchanged(piece) else cleaner.feed(piece)
        assert out + cleaner.flush() == whole


def test_a_text_full_of_codes_is_cleaned_in_linear_time() -> None:
    began = time.process_time()
    cleaned, _ = without_code(CODE, f"x{CODE}" * 100_000)
    assert cleaned == "x" * 100_000
    assert time.process_time() - began < 1
