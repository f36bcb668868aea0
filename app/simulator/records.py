"""What was asked of the simulator, for tests to read back.

Knows requests and how to show them without secrets: of any token only the last four characters are shown.
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

_KEPT = 5_000
_KEPT_TURNS = 200_000
_KEPT_BODY_BYTES = 1024 * 1024
_STARTED = time.monotonic()
_SECRET_HEADERS = ("authorization", "cookie")
_SECRET_FIELDS = ("refresh_token", "refreshToken")


@dataclass(slots=True)
class Record:
    """One request; rendered only when somebody reads it. Long bodies are not kept."""

    n: int
    request: Request
    body_bytes: int
    account: str
    t: float


@dataclass(frozen=True, slots=True)
class TakenTurn:
    """A question that was taken into a chat; kept also when the chat is deleted. ``n`` counts them."""

    n: int
    chat: str
    account: str
    message: str
    text: str


class Records:
    """The last requests and the last turns, oldest first."""

    def __init__(self) -> None:
        self._kept: deque[Record] = deque(maxlen=_KEPT)
        self._turns: deque[TakenTurn] = deque(maxlen=_KEPT_TURNS)
        self._count = 0
        self._turn_count = 0

    def add(self, request: Request, account: str) -> None:
        self._count += 1
        size = len(request.body)
        if size > _KEPT_BODY_BYTES:
            request = replace(request, body=b"")
        self._kept.append(Record(self._count, request, size, account, time.monotonic() - _STARTED))

    def add_turn(self, chat: str, account: str, message: str, text: str) -> None:
        self._turn_count += 1
        self._turns.append(TakenTurn(self._turn_count, chat, account, message, text))

    def turns(self, after: int) -> list[dict[str, object]]:
        """Those with a greater ``n``."""
        newer = itertools.takewhile(lambda turn: turn.n > after, reversed(self._turns))
        return [asdict(turn) for turn in newer][::-1]

    def clear(self) -> None:
        self._kept.clear()
        self._turns.clear()

    def shown(self, path_contains: str) -> list[dict[str, object]]:
        return [_shown(record) for record in self._kept if path_contains in record.request.path]


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
