"""Waiting without sleeping: gates that answers stop at, and a bell that rings when anything changes.

Knows names and counts only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


class Bell:
    """Wakes everyone who waits for a condition whenever something has changed."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    def ring(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition came true in time."""
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
    """A place where answers wait until a test lets them on; it stays open once opened."""

    arrived: int = 0
    waiting: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class Gates:
    """Gates by name, made when first spoken of."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._gates: dict[str, Gate] = {}

    def __getitem__(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate())

    def arrive(self, name: str) -> Gate:
        """Registers somebody who will now wait for `opened` and then `leave`."""
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
