"""Records of the requests to the simulator, for tests.

Shows requests without secrets: only the last four characters of a token.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

from app.simulator.envelope import open_envelopes
from app.simulator.http1 import Request

_MAX_RECORDS = 5_000
_MAX_TURNS = 200_000
_MAX_BODY_BYTES = 1024 * 1024
_STARTED = time.monotonic()
_SECRET_HEADERS = ("authorization", "cookie")
_SECRET_FIELDS = ("refresh_token", "refreshToken")


@dataclass(slots=True)
class Record:
    """One request. Rendered only when it is read. ``t``: seconds since the start. Long bodies are not kept."""

    n: int
    request: Request
    body_bytes: int
    account: str
    t: float


@dataclass(frozen=True, slots=True)
class TakenTurn:
    """A question that was added to a chat. Kept also after the chat is deleted. ``n``: its number, from 1."""

    n: int
    chat: str
    account: str
    message: str
    text: str


class Records:
    """The last requests and the last turns, oldest first."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque(maxlen=_MAX_RECORDS)
        self._turns: deque[TakenTurn] = deque(maxlen=_MAX_TURNS)
        self._count = 0
        self._turn_count = 0

    def add(self, request: Request, account: str) -> None:
        self._count += 1
        size = len(request.body)
        if size > _MAX_BODY_BYTES:
            request = replace(request, body=b"")
        self._records.append(Record(self._count, request, size, account, time.monotonic() - _STARTED))

    def add_turn(self, chat: str, account: str, message: str, text: str) -> None:
        self._turn_count += 1
        self._turns.append(TakenTurn(self._turn_count, chat, account, message, text))

    def turns(self, after: int) -> list[dict[str, object]]:
        """The turns with a greater ``n`` than ``after``, as objects, oldest first."""
        newer = itertools.takewhile(lambda turn: turn.n > after, reversed(self._turns))
        return [asdict(turn) for turn in newer][::-1]

    def clear(self) -> None:
        self._records.clear()
        self._turns.clear()

    def shown(self, path_contains: str) -> list[dict[str, object]]:
        return [_shown(record) for record in self._records if path_contains in record.request.path]


def _shown(record: Record) -> dict[str, object]:
    request = record.request
    return {
        "n": record.n,
        "t": round(record.t, 6),
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "account": record.account,
        "headers": {k: v[-4:] if k in _SECRET_HEADERS else v for k, v in request.headers.items()},
        "body_bytes": record.body_bytes,
        **_shown_body(request),
    }


def _shown_body(request: Request) -> dict[str, object]:
    if not request.body:
        return {}
    if "connect" in request.headers.get("content-type", ""):
        return {"hex": request.body.hex(), "frames": _shown_frames(request.body)}
    try:
        return {"json": _without_secrets(json.loads(request.body))}
    except ValueError:
        return {"hex": request.body[:1024].hex()}


def _shown_frames(body: bytes) -> list[object]:
    try:
        return [json.loads(payload) for _, payload in open_envelopes(body)]
    except ValueError:
        return []


def _without_secrets(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    return {k: str(v)[-4:] if k in _SECRET_FIELDS else v for k, v in body.items()}
