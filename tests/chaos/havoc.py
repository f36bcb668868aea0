"""Who kills, restarts, and loses. Knows pids and knobs; must never know what is being asked.

Two hands: one on our own processes, one on Kimi. Both move by the seed; when they do depends on the machine.
"""

import contextlib
import random
import threading
import time

import requests

from tests.chaos.ledger import Ledger
from tests.chaos.plan import ACCOUNTS, RENEWABLE
from tests.chaos.site import Gateway, Site
from tests.running import mint, wait_until

_CYCLE_S = 60.0
_WORKER_EVERY_S = (3.0, 6.0)
_KIMI_EVERY_S = (1.0, 3.0)
_STARTS_IN_S = 90.0


class Killer:
    """Kills workers every few seconds, and once a minute a whole gateway and the database."""

    def __init__(self, site: Site, ledger: Ledger, seed: int, seconds: float, over: threading.Event) -> None:
        self.thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self._site = site
        self._ledger = ledger
        self._dice = random.Random(f"{seed}/killer")
        self._cycle_s = min(_CYCLE_S, seconds)
        # In a shorter run everything is closer together.
        self._worker_every_s = [every_s * self._cycle_s / _CYCLE_S for every_s in _WORKER_EVERY_S]
        self._over = over

    def _run(self) -> None:
        began = time.monotonic()
        gateway_at, database_at = self._cycle_s * 0.3, self._cycle_s * 0.6
        try:
            while not self._over.wait(self._dice.uniform(*self._worker_every_s)):
                passed = time.monotonic() - began
                if passed > gateway_at:
                    gateway_at += self._cycle_s
                    self._restart_gateway()
                elif passed > database_at:
                    database_at += self._cycle_s
                    self._restart_database()
                else:
                    self._kill_worker()
            # On a busy machine the time may be over before their turn has come.
            if gateway_at < self._cycle_s:
                self._restart_gateway()
            if database_at < self._cycle_s:
                self._restart_database()
        except Exception as e:  # noqa: BLE001  # the edge of the thread: whatever it is, the run has failed
            self._ledger.wrong(f"the killer broke: {type(e).__name__}: {e}")

    def _kill_worker(self) -> None:
        gateway = self._dice.choice(self._site.gateways)
        if not gateway.runs:
            self._ledger.wrong(f"gateway {gateway.name} has ended by itself")
            gateway.start()
        if gateway.kill_worker(self._dice.randrange(8)):
            self._ledger.count("workers killed")

    def _restart_gateway(self) -> None:
        gateway = self._dice.choice(self._site.gateways)
        gateway.kill()
        self._ledger.count("gateways killed and started again")
        self._over.wait(self._dice.uniform(0.0, 2.0))
        start(gateway)

    def _restart_database(self) -> None:
        cluster = self._site.cluster
        if cluster is None:
            return
        cluster.stop("immediate")
        self._ledger.count("database crashed and started again")
        if self._dice.random() < 0.5:
            self._kill_worker()
        self._over.wait(self._dice.uniform(0.0, 2.0))
        cluster.start()


def start(gateway: Gateway) -> None:
    gateway.start()
    wait_until(f"gateway {gateway.name} is back", gateway.answers, _STARTS_IN_S)


class Kimi:
    """Kimi's bad minutes: failures that strike whoever comes, and chats that it no longer knows."""

    def __init__(self, site: Site, ledger: Ledger, seed: int, over: threading.Event) -> None:
        self.thread = threading.Thread(target=self._run, name="kimi", daemon=True)
        self._site = site
        self._ledger = ledger
        self._dice = random.Random(f"{seed}/kimi")
        self._over = over

    def _run(self) -> None:
        try:
            while not self._over.wait(self._dice.uniform(*_KIMI_EVERY_S)):
                self._ledger.read_journal()
                self._lose_a_chat()
                self._site.simulator.knobs(**self._mood())
                self._over.wait(self._dice.uniform(0.3, 1.5))
                self.calm_down()
        except Exception as e:  # noqa: BLE001  # the edge of the thread: whatever it is, the run has failed
            self._ledger.wrong(f"the hand on Kimi broke: {type(e).__name__}: {e}")

    def calm_down(self) -> None:
        """Nothing goes wrong on purpose any more."""
        self._site.simulator.control("POST", "knobs", json={})

    def _mood(self) -> dict[str, str]:
        one = self._dice.choice(ACCOUNTS)
        moods = (
            {"fail": "http_503", "fail_at": "create", "fail_times": "3"},
            {"fail": "http_500", "fail_at": "delete", "fail_times": "5"},
            {"fail": "http_500", "fail_at": "refresh", "fail_times": "2"},
            {"fail": "http_429", "fail_at": "any", "fail_for": one, "retry_after": "2"},
            {"fail": "token_invalid", "fail_at": "any", "fail_for": self._dice.choice(RENEWABLE), "fail_times": "2"},
            {"fail": "token_invalid", "fail_for": ",".join(RENEWABLE), "fail_times": "2", "auth_in_stream": "1"},
            {"fail": "silent_headers", "fail_at": "create", "fail_times": "1"},
            {"fail": "html_200", "fail_at": "create", "fail_times": "2"},
            {"slot_free_delay_s": "0.5"},
            {"refresh_delay_s": "1"},
            {"first_delay_s": "0.5"},
        )
        return self._dice.choice(moods)

    def _lose_a_chat(self) -> None:
        """Its user deletes a chat at Kimi, behind our back."""
        going_on = {c.id for c in self._ledger.conversations if not c.gone}
        taken = [t for t in self._ledger.taken[-500:] if self._ledger.belongs.get(t.marks[-1]) in going_on]
        if not taken:
            return
        lost = self._dice.choice(taken)
        if delete_chat(self._site, lost.account, lost.chat):
            self._ledger.count("chats lost at Kimi")


def delete_chat(site: Site, account: str, chat: str) -> bool:
    """As the account's user would do it; False where there is no such chat any more."""
    headers = {"Authorization": f"Bearer {mint(account)}"}
    with contextlib.suppress(requests.ConnectionError):
        if "-" in chat:  # a UUID: Connect's
            url = f"{site.simulator.url}/apiv2/kimi.chat.v1.ChatService/DeleteChat"
            return requests.post(url, json={"chat_id": chat}, headers=headers, timeout=30).ok
        return requests.delete(f"{site.simulator.url}/api/chat/{chat}", headers=headers, timeout=30).ok
    return False
