"""Gateways that several tests use, one after the other."""

from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from tests.running.gateway import Gateway
from tests.running.processes import wait_until
from tests.running.profiles import Profile
from tests.running.running import Running

# As it is shipped, with shorter waits.
SHIPPED = {
    "HEARTBEAT_S": "1",
    "FIRST_EVENT_TIMEOUT_S": "4",
    "IDLE_TIMEOUT_S": "4",
    "CONVERSATION_WAIT_S": "1",
    "QUEUE_WAIT_S": "4",
    "RETRY_BACKOFF_S": "0.05",
}
# Without patience: silence is a failure after a second.
QUICK = {
    "HEARTBEAT_S": "0.5",
    "FIRST_EVENT_TIMEOUT_S": "1",
    "IDLE_TIMEOUT_S": "1",
    "CONVERSATION_WAIT_S": "0.3",
    "LEASE_S": "1",
    "QUEUE_WAIT_S": "0.3",
    "RETRY_BACKOFF_S": "0.02",
}
# Reports every failure at once: no second try, no other account.
BLUNT = SHIPPED | {"FAILOVER_S": "0", "QUEUE_WAIT_S": "0.3"}

# At most so many run at the same time in each process of the tests: the one that was not used for longest is stopped.
_MOST = 8


class Share(Protocol):
    """The fixture ``shared_gateway``."""

    def __call__(self, *, users: str = ..., server: str = ..., **settings: str) -> Gateway: ...


class SharedGateways:
    """Gateways by their settings: who asks for the same ones gets the same gateway, as if it were new to him.

    For tests that neither end it nor look at all that it keeps; such a test starts its own by ``Running.gateway``.
    """

    def __init__(self, running: Running, upstream: str) -> None:
        self._running = running
        self._upstream = upstream
        self._started: OrderedDict[object, tuple[AbstractContextManager[Gateway], Gateway]] = OrderedDict()

    def get(self, profile: Profile, users: str, server: str, settings: dict[str, str]) -> Gateway:
        # What it has learnt of Kimi's models stays.
        key = (
            profile.protocol,
            profile.site,
            self._running.kind_of_database,
            users,
            server,
            *sorted(settings.items()),
        )
        if key not in self._started:
            while len(self._started) >= _MOST:
                self._stop(next(iter(self._started)))
            all_settings: dict[str, Any] = {"KIMI_PROTOCOL": profile.protocol, **settings}
            gateway = self._running.gateway(self._upstream, users=users, server=server, **all_settings)
            self._started[key] = (gateway, gateway.__enter__())
            self._started[key][1].wait_for_workers()
            if all_settings["KIMI_PROTOCOL"] != "sse":
                _wait_for_list(self._started[key][1])
        self._started.move_to_end(key)
        return replace(self._started[key][1].as_if_new(), model=profile.model)

    def close(self) -> None:
        while self._started:
            self._stop(next(iter(self._started)))

    def _stop(self, key: object) -> None:
        self._started.pop(key)[0].__exit__(None, None, None)


def _wait_for_list(gateway: Gateway) -> None:
    """Until it has asked Kimi for its list of models, which it does in the background.

    A later test may count what Kimi is asked, or spoil it.
    """
    wait_until(
        "it has asked for the list of models",
        lambda: gateway.tables.has_catalogue() or "catalogue_not_fetched" in gateway.log(),
    )
