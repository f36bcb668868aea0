"""Kimi's JSON. A string may end in half a surrogate pair, and the next one begin with the other half.

(``"\\ud83d"`` in one frame, ``"\\ude00"`` in the next: an emoji that was cut in two.) Must never know what a frame
means.
"""

import json
from typing import Any

import orjson

from app.concurrency.yielding import pause
from app.errors import UpstreamProtocolError
from app.text.json_size import has_more_values

# The most values in one frame. The longest observed ones are results of a search, with some hundred.
MAX_VALUES = 100_000
# A frame that is longer than this is looked at before it is parsed, and after a pause.
_LONG_BYTES = 65_536
# How much of a long text is encoded at once.
_PART_CHARS = 1 << 20


def dump(value: Any) -> bytes:
    """JSON in bytes of exactly their size. Those of orjson keep the 4 KB that they grew in for as long as they live,
    which is as long as the answer that they ask for."""
    return memoryview(orjson.dumps(value)).tobytes()


def text_of(text: str) -> str | orjson.Fragment:
    """``text`` as a value for ``orjson.dumps``: a long one is encoded here already, with pauses."""
    if len(text) <= _LONG_BYTES:
        return text
    parts = []
    for at in range(0, len(text), _PART_CHARS):
        parts.append(orjson.dumps(text[at : at + _PART_CHARS])[1:-1])
        pause()
    return orjson.Fragment(b'"' + b"".join(parts) + b'"')


class Reader:
    """Parses the payloads of one stream."""

    # One per open stream: without a dictionary it takes half as much memory.
    __slots__ = ("saw_lone_surrogate",)

    def __init__(self) -> None:
        self.saw_lone_surrogate = False

    def load(self, payload: bytes) -> Any:
        """Raises UpstreamProtocolError, without showing any of the payload."""
        if len(payload) > _LONG_BYTES:
            pause()
            if has_more_values(payload, MAX_VALUES):
                raise UpstreamProtocolError(f"Kimi sent a message of more than {MAX_VALUES} values")
        try:
            return orjson.loads(payload)
        except ValueError:
            # orjson refuses half a pair, the standard library reads it.
            return self._load_leniently(payload)

    def _load_leniently(self, payload: bytes) -> Any:
        if len(payload) > _LONG_BYTES:
            pause()
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as e:
            raise UpstreamProtocolError(
                f"Kimi sent a message of {len(payload)} bytes that is not JSON ({type(e).__name__})"
            ) from None
        self.saw_lone_surrogate = True
        return value


class SurrogateJoiner:
    """Joins halves of surrogate pairs over the deltas of one text: a first half waits for the second."""

    __slots__ = ("_half", "_reader")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._half = ""

    def join(self, delta: str) -> str:
        if not self._reader.saw_lone_surrogate:
            return delta
        delta = self._half + delta
        self._half = delta[-1] if delta and "\ud800" <= delta[-1] <= "\udbff" else ""
        return join_surrogates(delta[:-1] if self._half else delta)

    def flush(self) -> str:
        """What still waits when the text ends: nothing, or one U+FFFD for the half."""
        half, self._half = self._half, ""
        return join_surrogates(half)


def suffix_after(text: str, old: str) -> str | None:
    """What follows ``old`` in ``text``, even from the middle of a pair on; None where ``text`` does not begin with
    it."""
    units, begun = (part.encode("utf-16-le", "surrogatepass") for part in (text, old))
    return units[len(begun) :].decode("utf-16-le", "surrogatepass") if units.startswith(begun) else None


def without_lone_surrogates(value: Any) -> Any:
    """The value with U+FFFD for every half of a pair: nothing in it is to be joined with what follows."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _LONG_BYTES:
        pause()
    return orjson.loads(join_surrogates(text))


def join_surrogates(text: str) -> str:
    """The text with surrogate pairs joined. A half without its other half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
