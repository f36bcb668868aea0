"""Where threads of this process wait for something that another thread, or another process, will give back.

A thread is woken by the thread that gives back what it waits for. Other processes cannot wake it, so one thread looks
for all who wait, whatever their number. Works with and without gevent. Knows nothing of what is waited for.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from app.concurrency.periodic import Periodic, every

K = TypeVar("K", bound=Hashable)


class Place(Generic[K]):
    """The place of a thread that waits for ``key``.

    ``woken``: set when it should look whether its wait is over. ``is_served``: to be set when it has got what it
    waited for; otherwise the next one is woken when it leaves.
    """

    def __init__(self, key: K) -> None:
        self.key = key
        self.woken = threading.Event()
        self.is_served = False


class WaitingRoom(Generic[K]):
    """The threads that wait, in the order in which they came, by key.

    ``look``: gets all keys that are waited for, and returns those of them whose wait may be over. It is called every
    ``every_s`` seconds while someone waits. ``name``: of the thread that looks. ``one_at_a_time``: only the first of
    those who wait for a key can get it.
    """

    def __init__(
        self, look: Callable[[list[K]], Iterable[K]], every_s: float, name: str, *, one_at_a_time: bool
    ) -> None:
        self._look = look
        self._one_at_a_time = one_at_a_time
        self._every_s = every_s
        self._name = name
        # A dict instead of a list: whoever leaves may stand anywhere among a thousand.
        self._places: dict[K, dict[Place[K], None]] = {}
        self._lock = threading.Lock()
        self._some_wait = threading.Event()
        self._looker: Periodic | None = None

    def __repr__(self) -> str:
        return f"<WaitingRoom {self._name} keys={len(self._places)}>"

    def is_empty(self, key: K) -> bool:
        """Whether no one waits for this key."""
        return key not in self._places

    @contextmanager
    def place(self, key: K) -> Iterator[Place[K]]:
        """A place behind all others that wait for this key."""
        place = Place(key)
        with self._lock:
            self._places.setdefault(key, {})[place] = None
            self._some_wait.set()
            if self._looker is None:
                self._looker = every(self._every_s, self._look_for_all, self._name, first_after_s=self._every_s)
        try:
            yield place
        finally:
            self._leave(place)

    def is_first(self, place: Place[K]) -> bool:
        with self._lock:
            return next(iter(self._places[place.key])) is place

    def wake(self, key: K) -> None:
        """Wakes those who wait for this key, or the one who has waited for the longest time."""
        with self._lock:
            for place in self._places.get(key, ()):
                place.woken.set()
                if self._one_at_a_time:
                    return

    def _leave(self, place: Place[K]) -> None:
        with self._lock:
            places = self._places[place.key]
            was_first = next(iter(places)) is place
            del places[place]
            if places:
                if was_first and not place.is_served:
                    # It may have been woken when it was about to leave.
                    next(iter(places)).woken.set()
                return
            del self._places[place.key]
            if not self._places:
                self._some_wait.clear()

    def _look_for_all(self) -> None:
        """Waits first until someone waits."""
        self._some_wait.wait()
        with self._lock:
            keys = list(self._places)
        for key in self._look(keys) if keys else ():
            self.wake(key)
