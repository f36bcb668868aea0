"""What stands in a request as text becomes bytes: exactly, and without much memory."""

import base64
import os
import tracemalloc
from urllib.parse import quote_from_bytes

import pytest

from app.attachments.content import from_base64, from_data_url

_MOST = 9 << 20


def test_escapes_are_read_wherever_a_text_is_cut() -> None:
    data = os.urandom(150_000)
    for before in range(4):
        assert from_data_url("data:," + "a" * before + quote_from_bytes(data), _MOST) == b"a" * before + data
    for text, expected in (("a%4", b"a%4"), ("%41%", b"A%"), ("%%41", b"%A"), ("", b""), ("%zz", b"%zz")):
        assert from_data_url(f"data:,{text}", _MOST) == expected


def test_base64_is_read_with_white_space_anywhere() -> None:
    data = os.urandom(150_000)
    text = base64.b64encode(data).decode()
    for every in (1, 3, 76):
        assert from_base64(" \r\n".join(text[at : at + every] for at in range(0, len(text), every)), _MOST) == data


@pytest.mark.parametrize(
    "text", ["data:," + "%41" * 400_000, "data:;base64," + "QU FB\n" * 200_000], ids=["escapes", "words"]
)
def test_many_short_pieces_of_a_text_need_little_memory(text: str) -> None:
    tracemalloc.start()
    try:
        from_data_url(text, _MOST)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
