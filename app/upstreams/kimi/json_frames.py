"""Kimi's JSON, whose strings may end in half a surrogate pair: the other half begins the next one.

(``"\\ud83d"`` in one frame, ``"\\ude00"`` in the next.) Must never know what a frame means.
"""

import json
from typing import Any

import orjson

from app.errors import UpstreamProtocolError


def dump(value: Any) -> bytes:
    """JSON in bytes of exactly their size: those of orjson keep the 4 KB that they grew in, as long as the answer
    that they ask for lasts."""
    return memoryview(orjson.dumps(value)).tobytes()


class Reader:
    """Payloads of one stream. ``odd`` once a payload came that only the forgiving parser could read."""

    # Each open stream has one of these, and of many others: without a dictionary they take half as much.
    __slots__ = ("odd",)

    def __init__(self) -> None:
        self.odd = False

    def load(self, payload: bytes) -> Any:
        """Raises UpstreamProtocolError, without showing any of the payload."""
        try:
            return orjson.loads(payload)
        except ValueError:
            # orjson refuses half a pair, the standard library reads it.
            return self._load_odd(payload)

    def _load_odd(self, payload: bytes) -> Any:
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as e:
            raise UpstreamProtocolError(
                f"Kimi sent a message of {len(payload)} bytes that is not JSON ({type(e).__name__})"
            ) from None
        self.odd = True
        return value


class Halves:
    """Deltas of one text → deltas that are whole: half a pair waits for its other half."""

    __slots__ = ("_half", "_reader")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._half = ""

    def join(self, delta: str) -> str:
        if not self._reader.odd:
            return delta
        delta = self._half + delta
        self._half = delta[-1] if delta and "\ud800" <= delta[-1] <= "\udbff" else ""
        return whole(delta[:-1] if self._half else delta)

    def rest(self) -> str:
        """What still waits when the text ends: nothing, or one U+FFFD."""
        half, self._half = self._half, ""
        return whole(half)


def added(text: str, old: str) -> str | None:
    """What ``text`` says after ``old``, even from the middle of a pair on; None where it does not begin with it."""
    units, begun = (part.encode("utf-16-le", "surrogatepass") for part in (text, old))
    return units[len(begun) :].decode("utf-16-le", "surrogatepass") if units.startswith(begun) else None


def mended(value: Any) -> Any:
    """The value with every half of a pair in it replaced: nothing in it is to be joined with what follows."""
    return orjson.loads(whole(json.dumps(value, ensure_ascii=False)))


def whole(text: str) -> str:
    """The text with surrogate pairs joined; a half without its other half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
