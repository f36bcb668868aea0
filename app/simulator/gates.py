"""Waiting without polling: gates that hold an answer until a test opens them, and a bell that signals changes.

Knows names and counts only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


class Bell:
    """Wakes all waiting tasks when the state has changed, so that they check their conditions again."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    def ring(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for `condition`. Returns whether it became true within `timeout_s` seconds."""
        rung = asyncio.Event()
        self._listeners.add(rung)
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    rung.clear()
                    await rung.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._listeners.discard(rung)


@dataclass(slots=True)
class Gate:
    """A point at which answers wait until a test opens it. It is never closed again."""

    arrived: int = 0
    waiting: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class Gates:
    """Gates by name. A gate is created when its name is first used."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._gates: dict[str, Gate] = {}

    def __getitem__(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate())

    def arrive(self, name: str) -> Gate:
        """Counts a new answer at the gate. The caller then waits for `opened` and calls `leave`."""
        gate = self[name]
        gate.arrived += 1
        gate.waiting += 1
        self._bell.ring()
        return gate

    def leave(self, gate: Gate) -> None:
        gate.waiting -= 1
        self._bell.ring()

    def open_all(self) -> None:
        for gate in self._gates.values():
            gate.opened.set()

    def counts(self) -> dict[str, dict[str, int]]:
        return {name: {"arrived": g.arrived, "waiting": g.waiting} for name, g in self._gates.items()}
