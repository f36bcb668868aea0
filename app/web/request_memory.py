"""The memory that the requests of this process may need, all together: what does not fit waits.

A request needs memory from the first byte of its body until its answer is complete: for the body, then for its text
as messages, as one prompt, and as it is sent to Kimi. No caller gets more than it leaves to the others. Short
requests have a part of their own, so that they do not wait for long ones.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable

from app.chat import Caller
from app.errors import ClientGone, GatewayOverloaded

# How often a request that waits looks whether its client has left. Seconds.
_TICK_S = 1.0


class Memory:
    """A number of bytes that requests share. One object per process and purpose."""

    def __init__(self, total: int, wait_s: float, *, one_may_take_all: bool = False) -> None:
        """``wait_s``: how long a request waits for room before it is refused. ``one_may_take_all``: one caller."""
        self._total = total
        self._one_may_take_all = one_may_take_all
        self._wait_s = wait_s
        self._used = 0
        self._used_by: Counter[str] = Counter()
        self._changed = threading.Condition()

    def reserve(self, caller: Caller, size: int) -> "Reservation":
        """Waits for room. Raises GatewayOverloaded: if there is none in time; ClientGone."""
        reservation = Reservation(self, caller)
        reservation.resize(size)
        return reservation

    def _change(self, caller: Caller, before: int, after: int) -> None:
        """``before``, ``after``: what one request has reserved."""
        owner = caller.owner
        with self._changed:
            if after > before and not self._fits(owner, after - before):
                self._wait(caller, after - before)
            self._used += after - before
            self._used_by[owner] += after - before
            if not self._used_by[owner]:
                del self._used_by[owner]
            if after < before:
                self._changed.notify_all()

    def _fits(self, owner: str, size: int) -> bool:
        own, others = self._used_by[owner], self._used - self._used_by[owner]
        if self._one_may_take_all or not own:
            # What is larger than all has to be alone.
            return own + others + size <= self._total or not own + others
        # The others leave at least as much as they take.
        return 2 * (own + size) + others <= self._total

    def _wait(self, caller: Caller, size: int) -> None:
        deadline = time.monotonic() + self._wait_s
        while not self._fits(caller.owner, size):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise GatewayOverloaded(
                    "the requests that run need all the memory that this gateway may use for them; try again later",
                    retry_after_s=5,
                )
            if caller.is_gone():
                raise ClientGone("the client left before its request was read")
            self._changed.wait(min(left_s, _TICK_S))


class Reservation:
    """What one request has reserved: until its response has ended, and everything else that holds it."""

    def __init__(self, memory: Memory, caller: Caller) -> None:
        self._memory = memory
        self._caller = caller
        self._size = 0
        self._holders = 1
        self._has_response_ended = False

    def resize(self, size: int) -> None:
        """Waits for room if it grows. Raises as ``reserve``."""
        self._memory._change(self._caller, self._size, size)
        self._size = size

    def hold(self) -> Callable[[], None]:
        """For what outlives the response. Returns what is to be called at its end."""
        self._holders += 1
        return self._release

    def end(self) -> None:
        """The response has ended. Safe to call again."""
        if not self._has_response_ended:
            self._has_response_ended = True
            self._release()

    def _release(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self.resize(0)


class RequestMemory:
    """Three parts, so that no request waits for another one that waits for it."""

    def __init__(self, total: int, wait_s: float) -> None:
        """``total``: of long requests that run; half as much is for short ones, and a quarter for what is read."""
        # Long bodies that are being read.
        self.bodies = Memory(total // 4, wait_s)
        # Long requests that were read and are answered.
        self.running = Memory(total, wait_s)
        # Short requests, from their first byte on.
        self.short = Memory(total // 2, wait_s, one_may_take_all=True)
