"""Raw replies that a test queues: exact bytes, exact cuts, exact ending.

Knows bytes and gates; must never know either generation.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from app.simulator.gates import Gates
from app.simulator.http1 import Connection


@dataclass(slots=True)
class ScriptedReply:
    """A reply for the next requests whose path contains `match`."""

    match: str
    account: str
    times: int
    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    framing: str
    end: str
    gap_s: float
    wait_for: str
    wait_after: int


def parse_scripted(wish: dict[str, Any]) -> ScriptedReply:
    """The reply that a test describes in JSON; raises ValueError, KeyError or TypeError."""
    body = base64.b64decode(wish.get("body_base64", ""), validate=True)
    framing = str(wish.get("framing", "chunked"))
    if framing not in ("chunked", "close", "length"):
        raise ValueError(f"framing: expected chunked, close or length, got {framing!r}")
    headers = {str(name): str(value) for name, value in wish.get("headers", {}).items()}
    if framing == "length":
        headers.setdefault("Content-Length", str(len(body)))
    return ScriptedReply(
        match=str(wish["match"]),
        account=str(wish.get("account", "")),
        times=int(wish.get("times", 1)),
        status=int(wish.get("status", 200)),
        headers=headers,
        pieces=_cut(body, wish.get("cuts", [])),
        framing=framing,
        end=str(wish.get("end", "clean")),
        gap_s=float(wish.get("gap_s", 0)),
        wait_for=str(wish.get("wait_for") or ""),
        wait_after=int(wish.get("wait_after", 0)),
    )


def _cut(body: bytes, cuts: Sequence[int] | str) -> list[bytes]:
    if cuts == "each_byte":
        return [body[index : index + 1] for index in range(len(body))]
    if isinstance(cuts, str):
        raise ValueError(f'cuts: expected offsets or "each_byte", got {cuts!r}')
    edges = [0, *sorted(cuts), len(body)]
    return [body[start:end] for start, end in pairwise(edges) if start < end]


async def send_scripted(reply: ScriptedReply, connection: Connection, gates: Gates) -> None:
    """Sends the reply piece by piece; returns when it has ended as described."""
    connection.begin(reply.status, reply.headers, reply.framing)
    for number, piece in enumerate(reply.pieces):
        if number == reply.wait_after:
            await _pass(reply.wait_for, gates)
        await connection.write(piece)
        await asyncio.sleep(reply.gap_s)
    if reply.wait_after >= len(reply.pieces):
        await _pass(reply.wait_for, gates)
    await connection.end(reply.end)


async def _pass(name: str, gates: Gates) -> None:
    if not name:
        return
    gate = gates.arrive(name)
    try:
        await gate.opened.wait()
    finally:
        gates.leave(gate)
