"""Long strings in a body, before it is read as JSON, which happens in one step.

Images and documents are decoded to the disk: else a document would be in memory as a part of the body, as a string,
and as its bytes. Texts are counted, and those of many escapes are written without them. A long string is found by
its quotes: no string of JSON holds one without a backslash before it. Whatever else is as long stays as it is.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any, Literal

import orjson

from app.attachments import decoded_to_disk
from app.chat import DecodedSource
from app.concurrency.yielding import in_slices, pause

# What is shorter stays in the body. Bytes.
_LONG = 262_144
# A string that is long holds a window of so many bytes without a quote.
_WINDOW = _LONG // 2
# Of a long text, between two pauses.
_PART = 65_536
_BETWEEN_STRINGS = b" \t\r\n0123456789+-.eE,:[]{}truefalsn"
# Escapes of so many bytes take some milliseconds to read.
_MANY_ESCAPES = 2 << 20

# The name of the field before a string, and what a ``data:`` URL begins with.
_FIELD = re.compile(rb'"(?:url|image_url|file_url|file_data|data)"[ \t\r\n]*:[ \t\r\n]*\Z')
_FIELD_BYTES = 64
_DATA_URL = re.compile(rb'data:(?:[^,;"\\]|\\/){0,100}(?:;[^,;"\\]{1,100}){0,3};base64,', re.IGNORECASE)


class LongContents:
    """The long contents of one body."""

    def __init__(self, data: bytes, most: int) -> None:
        """``data``: JSON in UTF-8. ``most``: bytes that a content may have; a larger one stays."""
        self._contents: dict[str, DecodedSource] = {}
        # No string of the body is one of these by chance or on purpose.
        prefix = secrets.token_hex(16)
        pieces, done = [], 0
        for begin, end in _long_strings(data):
            if not _may_be_content(data, begin):
                if text := _without_escapes(data, begin, end):
                    pieces += [data[done:begin], *text]
                    done = end
                continue
            head = _DATA_URL.match(data, begin, min(end, begin + 512))
            first = head.end() if head else begin
            if (end - first) * 3 // 4 > most + 2:
                continue
            content = decoded_to_disk(data, first, end)
            if content is None or content.size > most:
                continue
            name = f"{prefix}-{len(self._contents)}"
            begin_of_text = head[0].decode(errors="replace") if head else "(base64)"
            self._contents[name] = DecodedSource(begin_of_text, content, content.size)
            pieces += [data[done:begin], name.encode()]
            done = end
        # The body without the contents, and with its long texts in UTF-8.
        self.rest = b"".join([*pieces, data[done:]]) if pieces else data

    def least_chars(self) -> int:
        """At least so many characters are in the texts of ``rest``: those of its long texts, or its escaped quotes if
        there are more."""
        in_long_texts = sum(
            _least_chars(self.rest, begin, end)
            for begin, end in _long_strings(self.rest)
            if not (_may_be_content(self.rest, begin) or _may_be_no_string(self.rest, begin, end))
        )
        return max(in_long_texts, _escaped_quotes(self.rest))

    def put_back(self, body: Any) -> bool:
        """Puts the contents into the value of ``rest``. False if one stands where no file is sent, or not in its
        form: then the whole body has to be read as it is."""
        left = dict(self._contents)
        if not left:
            return True
        for holder, field, form in _places(body):
            name = holder.get(field)
            if not isinstance(name, str) or name not in left:
                continue
            source = left[name]
            if form in ("any", "url" if source[:5].lower() == "data:" else "base64"):
                holder[field] = source
                del left[name]
        return not left


def _may_be_content(data: bytes, begin: int) -> bool:
    """Whether a string stands in a field in which a content may stand."""
    return _FIELD.search(data, max(0, begin - 1 - _FIELD_BYTES), begin - 1) is not None


def _may_be_no_string(data: bytes, begin: int, end: int) -> bool:
    """Whether it may also be what stands between two strings: white space, numbers, brackets."""
    before, first = data[max(0, begin - 65) : begin - 1].rstrip()[-1:], data[begin : begin + 64].lstrip()[:1]
    if before in (b",", b":", b"[", b"{") or first not in (b"", b",", b":", b"]", b"}"):
        return False
    parts = in_slices(range(begin, end, _PART))
    return not any(data[at : min(at + _PART, end)].translate(None, _BETWEEN_STRINGS) for at in parts)


def _escaped_quotes(data: bytes) -> int:
    """At least so many: the backslash before a quote may be one of a pair."""
    parts = in_slices(range(0, len(data), _PART))
    return sum(data.count(b'\\"', at, at + _PART) - data.count(b'\\\\"', at, at + _PART + 1) for at in parts)


def _without_escapes(data: bytes, begin: int, end: int) -> list[bytes]:
    """A long text in pieces that mean the same, if a good part of it are escapes like ``\\u4e2d``; else none.

    Also none where it is not valid: the reader of the body says why. What stands between two strings becomes valid by
    nothing that is done here: it would have to be nothing but what may stand there.
    """
    if end - begin < _MANY_ESCAPES or _escapes(data, begin, end) < _MANY_ESCAPES // 6:
        return []
    pieces, at, is_text = [], begin, False
    while at < end:
        cut = _end_of_part(data, at, end)
        try:
            pieces.append(orjson.dumps(orjson.loads(b'"%b"' % data[at:cut]))[1:-1])
        except ValueError:
            return []
        is_text = is_text or bool(pieces[-1].translate(None, _BETWEEN_STRINGS))
        at = cut
        pause()
    return pieces if is_text else []


def _escapes(data: bytes, begin: int, end: int) -> int:
    return sum(data.count(b"\\u", at, min(at + _PART, end)) for at in in_slices(range(begin, end, _PART)))


def _end_of_part(data: bytes, at: int, end: int) -> int:
    """Where no escape and no pair of them is cut in two, if there is such a place near the end of a part."""
    if end - at <= _PART:
        return end
    for place in range(at + _PART, at + _PART - 24, -1):
        if data[place] & 0xC0 == 0x80:
            # In the middle of a character.
            continue
        last = data.rfind(b"\\", place - 12, place)
        if last < 0:
            return place
        before = data[at : last + 1]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            # These are pairs, and what follows is text.
            return place
        # It begins an escape. Of two halves the first has one of these digits.
        is_long = data[last + 1 : last + 2] == b"u"
        is_half = is_long and data[last + 2 : last + 4].lower() in (b"d8", b"d9", b"da", b"db")
        if not is_half and last + (6 if is_long else 2) <= place:
            return place
    return at + _PART


def _least_chars(data: bytes, begin: int, end: int) -> int:
    chars = 0
    for at in range(begin, end, _PART):
        part = data[at : min(at + _PART, end)]
        # An escape is one character of six like \u4e2d, or of two. Two like \ud83e are one.
        escaped = part.count(b"\\") - part.count(b"\\\\") + 4 * part.count(b"\\u")
        halves = part.count(b"\\ud") + part.count(b"\\uD")
        # One may be cut in two here.
        chars += len(part.decode(errors="ignore")) - escaped - (halves + 1) // 2 - 5
        pause()
    return chars


_Form = Literal["url", "base64", "any"]


def _places(body: Any) -> Iterator[tuple[dict[str, Any], str, _Form]]:
    """The fields of a body, in any of the APIs, in which nothing but an image or a document stands: the object, its
    field, and the form that it takes there."""
    if not isinstance(body, dict):
        return
    rest = [item for name in ("messages", "input") for item in _objects(body.get(name))]
    seen = 0
    while rest:
        part = rest.pop()
        seen += 1
        if not seen % 1024:
            pause()
        kind, source = part.get("type"), part.get("source")
        if kind == "tool_result" or "role" in part:
            rest += _objects(part.get("content"))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            rest += _objects(part.get("output"))
        elif kind in ("image_url", "input_image"):
            url = part.get("image_url")
            yield (url, "url", "url") if isinstance(url, dict) else (part, "image_url", "url")
        elif kind == "file" and isinstance(part.get("file"), dict):
            yield part["file"], "file_data", "any"
        elif kind == "input_file":
            yield part, "file_data", "any"
            yield part, "file_url", "url"
        elif kind in ("image", "document") and isinstance(source, dict):
            if source.get("type") == "content":
                rest += _objects(source.get("content"))
            elif source.get("type") == "base64":
                yield source, "data", "base64"
            else:
                yield source, "url", "url"


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _long_strings(data: bytes) -> Iterator[tuple[int, int]]:
    """Where long strings begin behind their quote, and where they end before it."""
    at = 0
    while at + _WINDOW <= len(data):
        if data.find(b'"', at, at + _WINDOW) >= 0:
            at += _WINDOW
            continue
        begin, end = data.rfind(b'"', 0, at) + 1, data.find(b'"', at + _WINDOW)
        if end < 0:
            return
        if begin and end - begin >= _LONG:
            yield begin, end
        at = end - end % _WINDOW + _WINDOW
