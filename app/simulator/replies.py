"""Scripted replies, which a test queues: exact bytes, cuts and ending.

Knows bytes and gates. Must never know a protocol generation.
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


def parse_scripted(description: dict[str, Any]) -> ScriptedReply:
    """Parses the body of POST /_sim/script, see README.md. Raises ValueError, KeyError or TypeError."""
    body = base64.b64decode(description.get("body_base64", ""), validate=True)
    framing = str(description.get("framing", "chunked"))
    if framing not in ("chunked", "close", "length"):
        raise ValueError(f"framing: expected chunked, close or length, got {framing!r}")
    headers = {str(name): str(value) for name, value in description.get("headers", {}).items()}
    if framing == "length":
        headers.setdefault("Content-Length", str(len(body)))
    return ScriptedReply(
        match=str(description["match"]),
        account=str(description.get("account", "")),
        times=int(description.get("times", 1)),
        status=int(description.get("status", 200)),
        headers=headers,
        pieces=_cut(body, description.get("cuts", [])),
        framing=framing,
        end=str(description.get("end", "clean")),
        gap_s=float(description.get("gap_s", 0)),
        wait_for=str(description.get("wait_for") or ""),
        wait_after=int(description.get("wait_after", 0)),
    )


def _cut(body: bytes, cuts: Sequence[int] | str) -> list[bytes]:
    if cuts == "each_byte":
        return [body[index : index + 1] for index in range(len(body))]
    if isinstance(cuts, str):
        raise ValueError(f'cuts: expected offsets or "each_byte", got {cuts!r}')
    edges = [0, *sorted(cuts), len(body)]
    return [body[start:end] for start, end in pairwise(edges) if start < end]


async def send_scripted(reply: ScriptedReply, connection: Connection, gates: Gates) -> None:
    """Sends the reply piece by piece, and ends it as `end` says."""
    connection.begin(reply.status, reply.headers, reply.framing)
    for number, piece in enumerate(reply.pieces):
        if number == reply.wait_after:
            await _wait_at_gate(reply.wait_for, gates)
        await connection.write(piece)
        await asyncio.sleep(reply.gap_s)
    if reply.wait_after >= len(reply.pieces):
        await _wait_at_gate(reply.wait_for, gates)
    await connection.end(reply.end)


async def _wait_at_gate(name: str, gates: Gates) -> None:
    if not name:
        return
    gate = gates.arrive(name)
    try:
        await gate.opened.wait()
    finally:
        gates.leave(gate)
