"""A recording of the trial turns' HTTP requests and responses, which can be published and replayed by our tests.

A JSON document: for each turn the requests and responses in order, and the expected answer (``expected``, as in
``tests/data/wire/*.json``). A body is text if it is valid UTF-8, otherwise base64. Must never know a protocol.
"""

import base64
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.doctor.redaction import Redactor, redact_text
from app.doctor.trial_turn import Outcome

FORMAT = "kimi-gateway transcript 1"

# Headers without personal data. Of all others only the names are recorded.
_PLAIN_HEADERS = frozenset(
    {
        "content-type", "content-length", "transfer-encoding", "accept", "accept-encoding", "user-agent", "server",
        "connect-protocol-version", "x-msh-platform", "retry-after", "connection", "cache-control", "origin",
    }
)  # fmt: skip
_STREAMS = ("text/event-stream", "application/connect+json")


class LeakFound(Exception):
    """The transcript still contains private data, so it was not written."""


@dataclass(slots=True)
class _Exchange:
    request: bytes
    response: bytes = b""
    body: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Recorder:
    """Records turns. ``tap`` is passed to KimiHttp. ``begin`` and ``end`` are called before and after each turn."""

    _exchanges: list[_Exchange] = field(default_factory=list)
    _redactor: Redactor = field(default_factory=Redactor)
    turns: list[dict[str, Any]] = field(default_factory=list)

    def tap(self, kind: str, data: bytes) -> None:
        if kind == "request":
            self._exchanges.append(_Exchange(data))
        elif kind == "response":
            self._exchanges[-1].response = data
        else:
            self._exchanges[-1].body += data

    def begin(self) -> None:
        self._exchanges.clear()

    def end(self, upstream: str, model: str, outcome: Outcome) -> None:
        error = None if outcome.error is None else outcome.error.code
        expected = {
            "content": redact_text(outcome.content),
            "reasoning": redact_text(outcome.reasoning),
            "finish_reason": outcome.finish_reason,
            "error": error,
        }
        exchanges = [self._encode(exchange) for exchange in self._exchanges]
        self.turns.append({"upstream": upstream, "model": model, "expected": expected, "exchanges": exchanges})

    def write(self, path: Path, private: Sequence[str]) -> None:
        """Writes the document.

        Raises LeakFound: if it contains a token or one of the texts in ``private``. Raises OSError.
        """
        # Base64 would hide private texts. It can also look like a token: JSON at a multiple of three bytes becomes
        # "eyJ…". So the search uses the decoded bodies.
        readable = self._document(lambda body: body.decode("utf-8", "replace"))
        if "eyJ" in readable or any(word in readable for word in private):
            raise LeakFound
        path.write_text(self._document(lambda body: base64.b64encode(body).decode()), encoding="utf-8")

    def _document(self, encode_body: Callable[[bytes], str]) -> str:
        document = {"format": FORMAT, "turns": self.turns}
        return json.dumps(document, ensure_ascii=False, indent=1, default=encode_body) + "\n"

    def _encode(self, exchange: _Exchange) -> dict[str, Any]:
        head, _, body = exchange.request.partition(b"\n\n")
        line, headers = _parse(head)
        method, _, path = line.partition(" ")
        request: dict[str, Any] = {
            "method": method,
            "path": self._redactor.redact_path(path),
            "headers": _plain(headers),
        }
        request |= self._body(headers, body)
        if not exchange.response:
            return {"request": request, "response": None}
        status, headers = _parse(exchange.response)
        response = {"status": int(status), "headers": _plain(headers), "stream": _media_type(headers) in _STREAMS}
        return {"request": request, "response": response | self._body(headers, bytes(exchange.body))}

    def _body(self, headers: dict[str, str], body: bytes) -> dict[str, str | bytes]:
        """The body as text, or as bytes, which ``write`` encodes as base64."""
        connect = _media_type(headers) == "application/connect+json"
        redacted = self._redactor.redact_envelopes(body) if connect else self._redactor.redact(body)
        try:
            return {"body": redacted.decode()} if not connect else {"body_base64": redacted}
        except UnicodeDecodeError:
            return {"body_base64": redacted}


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    line, *rest = head.decode(errors="replace").strip("\n").split("\n")
    pairs = (header.partition(": ") for header in rest)
    return line, {name.lower(): value for name, _, value in pairs}


def _plain(headers: dict[str, str]) -> dict[str, str]:
    shown = {name: value if name in _PLAIN_HEADERS else "(not shown)" for name, value in headers.items()}
    if "location" in headers:
        # An invalid URL is not shown.
        with contextlib.suppress(ValueError):
            shown["location"] = urlsplit(headers["location"]).netloc.rpartition("@")[2]
    return shown


def _media_type(headers: dict[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
