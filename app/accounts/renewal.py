"""Renews tokens, in a process of its own: ``python -m app.accounts.renewal ROLE HOLDER``.

Why a process: between the moment when Kimi has rotated a refresh token and the moment when the new one is in
the store, a kill loses the login for good. A worker may be killed at any time (by the system, by gunicorn, by
a person). This process has a session of its own, ignores the signals that stop a gateway, and does nothing else.
docs/tokens.md says what that proves and what it does not.

One process per machine renews the tokens of all accounts, for all workers and commands. They ask for renewals in the
store, with all that the process has to know of an account, and start it if none runs. It ends when nothing was asked
for a while. It reads no KIMI_TOKENS: accounts come and go while it runs.

Knows the order: acquire the right to renew, ask, store. Must never know how Kimi is asked.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from app import logs
from app.accounts.registry import DeclaredAccount
from app.concurrency.helper_process import python_command, python_environment
from app.concurrency.periodic import every
from app.errors import AccountRejected, RenewalFailed, UpstreamError
from app.settings.config import Config
from app.settings.credentials import read_expiry
from app.store import Store, StoreError, StoreUnusable, TokenRow, WantedRefresh, WrongSecret
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.token_refresh import KimiAuth, TokenPair

# Not __name__, which is __main__ in the process.
log = logging.getLogger("app.accounts.renewal")

# How long the right to renew a token, and the role of the process, last unless they are extended: after a kill
# another process may renew then. Seconds.
_HOLD_S = 9.0
# The same for the role of a process that starts: on a busy machine that takes some time. Seconds.
_START_S = 20.0
# How often it is checked that the process runs, while somebody waits for a renewal. Seconds.
_CHECK_EVERY_S = 0.5

# No process is started for so long after one that ended with an error, which its log line explains. Seconds.
_AFTER_ERROR_S = 20.0

# Renewals at the same time, how often the process looks for more, and how long it stays without any. Seconds.
_AT_ONCE = 16
_LOOK_EVERY_S = 0.05
_IDLE_S = 3.0

# How long storing a renewed pair is tried while the database is unavailable, and how often. Seconds.
_SAVE_S = 3600.0
_SAVE_EVERY_S = 1.0

# How long a process that takes the right over waits first: its predecessor may still store a pair. Seconds.
_PREDECESSOR_S = 2.0

# Settings that the process does not need, and that may be longer than the system allows for a variable of a new
# process (Linux: 128 KB).
_NOT_NEEDED = ("KIMI_TOKENS", "GATEWAY_API_KEYS", "HOST")


@dataclass(frozen=True, slots=True)
class Login:
    """What the process has to know of an account, apart from its tokens. Stored as JSON, sealed."""

    label: str
    site: str
    base_url: str
    auth_url: str
    proxy: str = field(repr=False)
    user_id: str | None = field(repr=False)
    device_id: str | None = field(repr=False)
    session_id: str | None = field(repr=False)


class RenewalProcess:
    """The process, as workers and commands see it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Those that seal tokens have another process than those that do not: one cannot read what the other stores.
        self._role = f"renewal at {socket.gethostname()}{', sealed' if store.tokens.sealed else ''}"
        self._checked_at = -_CHECK_EVERY_S
        # When a process ended with an error, in monotonic time.
        self._failed_at: float | None = None

    def ask(self, account: DeclaredAccount, version: int) -> None:
        """See ``pool.Renewals``."""
        c, site = account.credential, account.site
        login = Login(
            c.label, site.name, site.base_url, site.auth_url, account.proxy, c.user_id, c.device_id, c.session_id
        )
        self._store.tokens.want(account.id, version, self._role, json.dumps(asdict(login)))
        self._ensure()

    def _ensure(self) -> None:
        """Starts the process, unless one runs. It goes on alone."""
        if time.monotonic() - self._checked_at < _CHECK_EVERY_S:
            return
        if self._failed_at is not None and time.monotonic() - self._failed_at < _AFTER_ERROR_S:
            raise RenewalFailed("the process that renews tokens has ended with an error; see the log")
        holder, now = uuid.uuid4().hex, self._store.database.now()
        if self._store.roles.acquire(self._role, holder, now, now + _START_S):
            try:
                self._start(holder)
            except OSError as e:
                self._store.roles.release(self._role, holder)
                raise RenewalFailed(f"the process that renews a token could not be started: {e.strerror}") from e
        self._checked_at = time.monotonic()

    def _start(self, holder: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_NEEDED}
        process = subprocess.Popen(
            python_command("app.accounts.renewal", self._role, holder),
            env=python_environment(environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._accompany, args=(process, holder), name="renewal", daemon=True).start()

    def _accompany(self, process: "subprocess.Popen[bytes]", holder: str) -> None:
        """The process is never killed. Its exit must be waited for, or a zombie stays."""
        status = process.wait()
        # A signal that ended it is no error of its own.
        self._failed_at = time.monotonic() if status > 0 else None
        self._checked_at = -_CHECK_EVERY_S
        if status != 0:
            # Otherwise it has released its role itself.
            try:
                self._store.roles.release(self._role, holder)
            except StoreError as e:
                log.debug("renewal_role_not_released error=%s", e)


def main() -> None:
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(stop, signal.SIG_IGN)
    role, holder = sys.argv[1:]
    config = Config.from_env(os.environ)
    logs.configure(config.log_level, config.secrets)
    try:
        store = Store(config.database_url, config.gateway_secret, durable=True)
    except StoreUnusable as e:
        log.error("renewals_not_started error=%s", e)
        sys.exit(1)
    _Renewer(config, store, role, holder).run()
    store.close()


class _Renewer:
    """Renews what is asked for, until nothing was asked for a while, or whoever has started it is gone."""

    def __init__(self, config: Config, store: Store, role: str, holder: str) -> None:
        self._store = store
        self._role = role
        self._holder = holder
        self._timeouts = Timeouts(config.connect_timeout_s, 20.0, 20.0)
        self._parent = os.getppid()
        # By the addresses that are asked, and the proxy.
        self._services: dict[tuple[str, str, str], KimiAuth] = {}
        # Account id → the holder of its right to renew.
        self._running: dict[str, str] = {}
        self._has_role = True
        # Pairs that this process cannot read: another secret has sealed them.
        self._unreadable: set[tuple[str, int]] = set()

    def run(self) -> None:
        self._extend()
        every(_HOLD_S / 3, self._extend, "renewal-holds", first_after_s=_HOLD_S / 3)
        idle_since = time.monotonic()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while self._has_role:
                try:
                    # The end of a container waits for its last processes only for a while: what runs is completed,
                    # and what was only asked for is asked for again.
                    is_left = os.getppid() != self._parent
                    for wanted in [] if is_left else self._wanted():
                        if wanted.account_id not in self._running:
                            self._running[wanted.account_id] = uuid.uuid4().hex
                            pool.submit(self._renew, wanted)
                    if self._running:
                        idle_since = time.monotonic()
                    elif is_left or time.monotonic() - idle_since > _IDLE_S:
                        # Who asks from here on finds that no process has the role, and starts another one.
                        self._store.roles.release(self._role, self._holder)
                        self._has_role = not is_left and bool(self._wanted()) and self._acquire_again()
                except StoreError as e:
                    log.warning("renewals_not_found retry_in_s=%.0f error=%s", _SAVE_EVERY_S, e)
                    time.sleep(_SAVE_EVERY_S)
                time.sleep(_LOOK_EVERY_S)

    def _wanted(self) -> list[WantedRefresh]:
        wanted = self._store.tokens.wanted(self._role)
        return [one for one in wanted if (one.account_id, one.version) not in self._unreadable]

    def _acquire_again(self) -> bool:
        now = self._store.database.now()
        return self._store.roles.acquire(self._role, self._holder, now, now + _HOLD_S)

    def _extend(self) -> None:
        until = self._store.database.now() + _HOLD_S
        for account_id, holder in list(self._running.items()):
            self._store.tokens.extend(account_id, holder, until)
        if self._has_role and not self._store.roles.extend(self._role, self._holder, until):
            # It was frozen, and another process has taken over. What runs is completed.
            self._has_role = False

    def _renew(self, wanted: WantedRefresh) -> None:
        account_id = wanted.account_id
        try:
            if wanted.login is None:
                raise WrongSecret("another GATEWAY_SECRET has sealed what is known of the account")
            row = self._acquired(account_id, wanted.version, self._running[account_id])
            if row is None:
                # Another process renews it, or has renewed it.
                time.sleep(_CHECK_EVERY_S)
            else:
                self._ask_and_store(row, Login(**json.loads(wanted.login)))
        except StoreError as e:
            log.warning("token_not_renewed account=%s error=%s", account_id, e)
        except WrongSecret as e:
            log.error("token_not_renewed account=%s error=%s", account_id, e)
            self._unreadable.add((account_id, wanted.version))
        except Exception:  # the border of the thread
            log.exception("token_not_renewed account=%s", account_id)
            time.sleep(_SAVE_EVERY_S)
        finally:
            del self._running[account_id]

    def _acquired(self, account_id: str, version: int, holder: str) -> TokenRow | None:
        before, now = self._store.tokens.find(account_id), self._store.database.now()
        row = self._store.tokens.acquire(account_id, version, holder, now, now + _HOLD_S)
        if row is not None and before is not None and before.held_until > 0:
            # The process that had the right was killed, or it has a new pair that it could not store until now.
            time.sleep(_PREDECESSOR_S)
            row = self._store.tokens.find(account_id)
            if row is None or row.version != version:
                return None
        return row

    def _ask_and_store(self, row: TokenRow, login: Login) -> None:
        if row.refresh_token is None:
            return
        account = Account(
            id=row.account_id,
            label=login.label,
            token=row.refresh_token,
            expires_at=None,
            renewable=True,
            user_id=login.user_id,
            device_id=login.device_id,
            session_id=login.session_id,
            site=login.site,
        )
        try:
            pair = self._service(login).refresh(account)
        except UpstreamError as e:
            revoked = isinstance(e, AccountRejected)
            level = logging.ERROR if revoked else logging.WARNING
            log.log(level, "token_not_renewed account=%s label=%r error=%s", row.account_id, login.label, e.message)
            self._store.tokens.save_error(row.account_id, row.version, e.message, revoked)
            self._count(row, "refused" if revoked else "failed")
            return
        # It is stored before it can be used: workers read tokens from the store and from nowhere else.
        if self._saved(row, pair):
            log.info("token_renewed account=%s label=%r", row.account_id, login.label)
            self._count(row, "ok")

    def _count(self, row: TokenRow, outcome: str) -> None:
        """For ``/metrics``. What it counts is done: nothing may fail for it."""
        with contextlib.suppress(StoreError):
            self._store.ledger.count("kimi_gateway_refreshes", {"account": row.account_id, "outcome": outcome})

    def _service(self, login: Login) -> KimiAuth:
        key = (login.auth_url, login.base_url, login.proxy)
        if key not in self._services:
            auth, site = (KimiHttp(url, self._timeouts, proxy=login.proxy) for url in key[:2])
            self._services[key] = KimiAuth(auth, site)
        return self._services[key]

    def _saved(self, row: TokenRow, pair: TokenPair) -> bool:
        """Whether ``pair`` has replaced ``row``. Tried for an hour: nobody else has the new pair, and the old one is
        invalid.
        """
        expires_at = read_expiry(pair.access_token)
        deadline = time.monotonic() + _SAVE_S
        tokens = self._store.tokens
        while True:
            try:
                return tokens.save(row.account_id, row.version, pair.access_token, pair.refresh_token, expires_at)
            except StoreError as e:
                if time.monotonic() > deadline:
                    raise
                log.error("token_not_stored account=%s retry_in_s=%.0f error=%s", row.account_id, _SAVE_EVERY_S, e)
            time.sleep(_SAVE_EVERY_S)


if __name__ == "__main__":
    main()
