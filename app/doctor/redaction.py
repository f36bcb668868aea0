"""Bytes of the wire with every text and id replaced: they decode as before and reveal nothing.

A text keeps its length in bytes, its white space, quotes and backslashes; every other character becomes a
stand-in of the same UTF-8 length. An id becomes another of the same length, the same one wherever it occurs.
Names that belong to the protocol stay. Knows JSON's tokens, SSE's lines and Connect's envelopes, also where
they are broken or cut. Must never know what any of it means.
"""

import re
import struct
import zlib
from dataclasses import dataclass, field

# Values of these keys are words of the protocol (kimi-protocol.md 3 and 5), as long as they look like words.
# Keys are compared in lower case and without underscores.
_PROTOCOL_KEYS = frozenset(
    {
        "event", "view", "type", "op", "mask", "status", "role", "scenario", "code", "reason", "severity", "stage",
        "errortype", "model", "kimiplusid", "bornfrom", "source", "agentmode", "reasoningeffort", "eventtype",
    }
)  # fmt: skip
_WORD = re.compile(rb"[A-Za-z][A-Za-z0-9_.:-]{0,63}")
# Where a frame's mask names several fields.
_FIELDS = re.compile(rb"[A-Za-z.,_]{1,300}")
_ENUM = re.compile(rb"(?=.{1,64}\Z)[A-Z]+(_[A-Z0-9]+)+")
_AGENT = re.compile(rb"[a-z-]{0,12}")
_KEY = re.compile(rb"[A-Za-z_][\w.]{0,63}")
# text_0_0: the ids of blocks.
_BLOCK = re.compile(rb"[a-z]+(_[0-9]{1,3})+|.{0,3}", re.DOTALL)

_TOKENS = re.compile(
    rb'"(?P<string>(?:[^"\\\r\n]|\\.)*)(?P<end>"|\\?(?=[\r\n]|\Z))'
    rb"|(?P<digits>[0-9]{7,})|(?P<word>[A-Za-z_]+)|(?P<wide>[\x80-\xff]+)",
)
_BARE_WORDS = frozenset({b"true", b"false", b"null", b"data", b"event", b"id", b"retry", b"DONE"})
_COLON = re.compile(rb"[ \t]*:")

_CHARACTERS = re.compile(
    rb"\\u[0-9a-fA-F]{4}|\\.|[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}"
    rb"|[\xf0-\xf4][\x80-\xbf]{3}|[\x80-\xff]",
    re.DOTALL,
)
_KEPT = '"\\/\x7f\ufffd'
_BOM = b"\xef\xbb\xbf"
_PREFIX = struct.Struct(">BI")


def redact_text(text: str) -> str:
    """What ``Redactor.redact`` makes of a text inside JSON, for a text that has been decoded."""
    return "".join(_stand_in(c) for c in text)


@dataclass(slots=True)
class Redactor:
    """Remembers which id became which; one object per recording."""

    _ids: dict[bytes, bytes] = field(default_factory=dict)

    def redact(self, data: bytes) -> bytes:
        """JSON, SSE, or any other text, of the same length."""
        key = b""

        def replaced(match: re.Match[bytes]) -> bytes:
            nonlocal key
            if match["string"] is not None:
                if _COLON.match(data, match.end()):
                    key = match["string"]
                    return match[0] if _KEY.fullmatch(key) else b'"' + _redact_string(key) + match["end"]
                return b'"' + self._value(key, match["string"]) + match["end"]
            if match["digits"] is not None:
                return b"1" * len(match[0])
            if match["word"] is not None:
                return match[0] if match[0] in _BARE_WORDS else b"x" * len(match[0])
            return match[0] if match.start() == 0 and match[0].startswith(_BOM) else _redact_string(match[0])

        return _TOKENS.sub(replaced, data)

    def redact_envelopes(self, data: bytes) -> bytes:
        """Connect's frames. Compressed ones are unpacked; one that cannot be unpacked stays one that cannot."""
        redacted, at = b"", 0
        while len(data) - at >= _PREFIX.size:
            flags, length = _PREFIX.unpack_from(data, at)
            payload = data[at + _PREFIX.size : at + _PREFIX.size + length]
            at += _PREFIX.size + length
            if flags & 1 and len(payload) == length:
                plain = _unpacked(payload)
                if plain is None:
                    redacted += _PREFIX.pack(flags, length) + b"x" * length
                    continue
                flags, payload, length = flags & ~1, plain, len(plain)
            redacted += _PREFIX.pack(flags, length) + self.redact(payload)
        return redacted + data[at:]

    def redact_path(self, path: str) -> str:
        """Segments that look like ids are replaced; a query is left out."""
        return "/".join(
            self._id(part.encode()).decode() if re.fullmatch(r"(?=.*[0-9])[\w-]{8,}", part, re.ASCII) else part
            for part in path.partition("?")[0].split("/")
        )

    def _value(self, key: bytes, value: bytes) -> bytes:
        name = key.lower().replace(b"_", b"").decode("ascii", "replace")
        shape = {"kimiplusid": _AGENT, "mask": _FIELDS}.get(name, _WORD)
        if name in _PROTOCOL_KEYS and shape.fullmatch(value):
            return value
        if name.endswith(("id", "ids")) and b"\\" not in value and value.isascii():
            return value if _BLOCK.fullmatch(value) else self._id(value)
        return value if name in ("name", "type") and _ENUM.fullmatch(value) else _redact_string(value)

    def _id(self, value: bytes) -> bytes:
        if value not in self._ids:
            self._ids[value] = (b"id%d" % (len(self._ids) + 1)).ljust(len(value), b"x")[: len(value)]
        return self._ids[value]


def _redact_string(data: bytes) -> bytes:
    return _CHARACTERS.sub(_redact_character, data)


def _redact_character(match: re.Match[bytes]) -> bytes:
    character = match[0]
    if character.startswith(b"\\u"):
        code = int(character[2:], 16)
        if 0xD800 <= code <= 0xDFFF:
            return b"\\ud83d" if code < 0xDC00 else b"\\ude00"
        return b"\\u%04x" % ord(_stand_in(chr(code)))
    if character.startswith(b"\\"):
        return character
    return _stand_in(character.decode("utf-8", "replace")).encode() if len(character) > 1 else _redact_byte(character)


def _redact_byte(byte: bytes) -> bytes:
    """What is not UTF-8 stays so: a replay must find the same fault."""
    return _stand_in(chr(byte[0])).encode() if byte[0] < 0x80 else b"\xff"


def _stand_in(character: str) -> str:
    if character <= " " or character in _KEPT:
        return character
    code = ord(character)
    return "x" if code < 0x80 else "é" if code < 0x800 else "字" if code < 0x10000 else "😀"


def _unpacked(payload: bytes) -> bytes | None:
    """None for what is not one whole member of gzip, or too large."""
    gzip = zlib.decompressobj(wbits=31)
    try:
        plain = gzip.decompress(payload, 1 << 20)
    except zlib.error:
        return None
    return plain if gzip.eof and not gzip.unused_data else None
