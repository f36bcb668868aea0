"""One running simulator: the knobs in force, the world, the gates, the records, and the counts of streams.

Knows what the two generations and the control interface share. Must never know a wire shape of either.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from app.simulator.gates import Bell, Gates
from app.simulator.http1 import Connection, Request
from app.simulator.ids import Ids
from app.simulator.knobs import Knobs, turned
from app.simulator.records import Records
from app.simulator.replies import ScriptedReply
from app.simulator.tokens import SiteName
from app.simulator.tooling import Tooling
from app.simulator.world import Account, Chat, World

# The faults that strike elsewhere than in a turn when nobody says where.
_NATURAL_PLACES = {"anonymous_quota": ("create", "turn"), "refresh_400": ("refresh",)}


@dataclass(slots=True)
class Streams:
    """Counts of turns being answered."""

    open: int = 0
    total: int = 0
    most: int = 0


class Simulation:
    """All state of the process, except sockets."""

    def __init__(self, knobs: Knobs) -> None:
        self._first_knobs = knobs
        self._ids = Ids()
        self.bell = Bell()
        self.gates = Gates(self.bell)
        self.open_connections = 0
        self.total_connections = 0
        self.total_requests = 0
        self.records = Records()
        self.streams = Streams()
        self._forget_all()

    def _forget_all(self) -> None:
        self.knobs = self._first_knobs
        self.world = World(self._ids)
        self.scripted: list[ScriptedReply] = []
        self.streams = Streams(open=self.streams.open)
        self._busy: set[str] = set()
        self._failures: dict[object, int] = {}
        self.tooling = Tooling()
        # How often each fault has struck.
        self.struck: Counter[str] = Counter()
        self.records.clear()

    def reset(self) -> None:
        """As after the start; answers that wait at a gate are let on."""
        self.gates.open_all()
        self.gates = Gates(self.bell)
        self._forget_all()
        self.bell.ring()

    def turn_knobs(self, changes: Mapping[str, object]) -> None:
        """Changes the run's knobs; an empty mapping turns all back. Raises BadKnob."""
        self.knobs = turned(self.knobs, changes) if changes else self._first_knobs
        self._failures.pop(None, None)
        self.tooling = Tooling()

    def fault(
        self, place: str, account: Account | None, knobs: Knobs, words: Mapping[str, str], prompt: str = ""
    ) -> str:
        """The fault that strikes here and now, or nothing; counts it when it may strike only so often."""
        name = knobs.fail
        if not name or not self._strikes_at(place, knobs, words):
            return ""
        if knobs.fail_for and (account is None or account.name not in knobs.fail_for.split(",")):
            return ""
        source = (prompt, *sorted(words.items())) if "fail" in words else None
        struck = self._failures.get(source, 0)
        if knobs.fail_times and struck >= knobs.fail_times:
            return ""
        self._failures[source] = struck + 1
        self.struck[name] += 1
        return name

    def take_turn(self, name: str, times: int) -> bool:
        """Whether this is one of the first ``times`` occasions of what is called ``name``."""
        taken = self._failures.get(name, 0)
        self._failures[name] = taken + 1
        return taken < times

    @staticmethod
    def _strikes_at(place: str, knobs: Knobs, words: Mapping[str, str]) -> bool:
        if "fail" in words:
            return place == "turn"
        if knobs.fail_at:
            return knobs.fail_at in (place, "any")
        return place in _NATURAL_PLACES.get(knobs.fail, ("turn",))

    def slot(self, chat: Chat, knobs: Knobs) -> str:
        """The name of the place that a stream of this chat takes; empty where streams are not limited."""
        return {"chat": f"chat {chat.id}", "user": f"user {chat.owner.sub}", "none": ""}[knobs.slot_scope]

    def refuses(self, chat: Chat, knobs: Knobs) -> bool:
        """Whether another stream takes the chat's place now."""
        if self.slot(chat, knobs) not in self._busy:
            return False
        chat.collisions += chat.listening
        return True

    @contextmanager
    def streaming(self, account: Account | None) -> Iterator[None]:
        """Counts one answer while it is being given."""
        self.streams.open += 1
        self.streams.total += 1
        self.streams.most = max(self.streams.most, self.streams.open)
        if account:
            account.open_streams += 1
            account.max_open_streams = max(account.max_open_streams, account.open_streams)
        self.bell.ring()
        try:
            yield
        finally:
            self.streams.open -= 1
            if account:
                account.open_streams -= 1
            self.bell.ring()

    @contextmanager
    def occupying(self, slot: str, free_delay_s: float) -> Iterator[None]:
        """Holds a slot; it is free at once after a whole answer, later when the client left."""
        busy = self._busy
        if slot:
            busy.add(slot)
        delay_s = free_delay_s
        try:
            yield
            delay_s = 0.0
        finally:
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, busy.discard, slot)
            else:
                busy.discard(slot)


@dataclass(slots=True)
class Exchange:
    """One request on its way to a reply."""

    sim: Simulation
    connection: Connection
    request: Request
    account: Account | None = None

    def own_chat(self, chat_id: str) -> Chat | None:
        """The chat, if it exists and belongs to the caller."""
        chat = self.sim.world.chat(chat_id)
        return chat if chat and chat.owner is self.account else None

    @property
    def site(self) -> SiteName | None:
        """The site that the request has reached; None: one that takes tokens of both."""
        wanted = self.sim.knobs.site
        if wanted == "by_host":
            host = self.request.headers.get("host", "").partition(":")[0]
            return "kimi.ai" if host == "localhost" else "kimi.com"
        return None if wanted == "any" else cast(SiteName, wanted)

    def is_foreign(self, chat_id: str) -> bool:
        """Whether the chat exists and belongs to somebody else."""
        chat = self.sim.world.chat(chat_id)
        return chat is not None and chat.owner is not self.account
