"""The head of an ordinary response, read in one step.

http.client reads a head line by line and parses it as an e-mail, with over a hundred calls of functions
(docs/performance.md). Nearly all heads from Kimi are alike: status 200, HTTP/1.1, fields of one line each, and one
read brings all of it. Every other head is left to http.client. Knows no connection.
"""

import re
from http.client import HTTPMessage
from typing import NamedTuple

# More are a protocol error, and http.client says so.
_MOST_FIELDS = 100
# More digits are no length; Python refuses to read thousands of them.
_MOST_DIGITS = 18

# A field's name is a token (RFC 9110, 5.6.2).
_FIELD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r\n"
_match_head = re.compile(rf"HTTP/1\.1 200 ([^\r\n]*)\r\n((?:{_FIELD})*)\r\n".encode()).match
_find_fields = re.compile(r"([^:\r\n]+):[ \t]*([^\r\n]*)\r\n").findall


class _Fields(HTTPMessage):
    def items(self) -> list[tuple[str, str]]:
        """As they are: ``Message`` looks for bytes that are no text, and there are none in Latin-1."""
        return list(self.raw_items())


class Head(NamedTuple):
    """``size``: its bytes, the empty line included. ``length``: of the body, None where that is in HTTP chunks or
    ends with the connection."""

    size: int
    reason: str
    fields: HTTPMessage
    is_chunked: bool
    length: int | None
    # The connection ends with the response.
    will_close: bool


def ordinary_head(data: bytes) -> Head | None:
    """The head that ``data`` begins with; None where it is not complete, or not an ordinary one."""
    match = _match_head(data)
    if match is None:
        return None
    fields = _Fields()
    values: dict[str, str] = {}
    pairs = _find_fields(match[2].decode("latin-1"))
    if len(pairs) > _MOST_FIELDS:
        return None
    for name, value in pairs:
        fields.set_raw(name, value)
        # As http.client does: the first one counts.
        values.setdefault(name.lower(), value)
    is_chunked = values.get("transfer-encoding", "").lower() == "chunked"
    length = None
    if not is_chunked and (digits := values.get("content-length")):
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
            return None
        length = int(digits)
    will_close = "close" in values.get("connection", "").lower() or not (is_chunked or length is not None)
    return Head(match.end(), match[1].decode("latin-1").strip(), fields, is_chunked, length, will_close)
