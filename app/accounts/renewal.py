"""Renews the tokens of one account, in a process of its own: ``python -m app.accounts.renewal ACCOUNT VERSION``.

Why a process: between the moment when Kimi has rotated a refresh token and the moment when the new one is in
the store, a kill loses the account for good. A worker may be killed at any time (by the system, by gunicorn, by
a person); this process belongs to nobody's process group, ignores the signals that stop a gateway, lives for
about a second and does nothing else. docs/tokens.md says what that proves and what it does not.

Knows the order hold → ask → store. Must never know how Kimi is asked, nor SQL text.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

from app import logs
from app.concurrency.helper_process import python_command, python_environment
from app.errors import AccountRejected, RenewalFailed, UpstreamError
from app.settings.config import Config
from app.settings.credentials import read_expiry
from app.store import Store, StoreError, TokenRow
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.token_refresh import KimiAuth, TokenPair

log = logging.getLogger(__name__)

# Nobody else renews the account meanwhile; a process that is killed gives it back after so long. Seconds.
_HOLD_S = 9.0

# How long a database may be away that a renewed pair is to be stored in. Seconds.
_SAVE_S = 3600.0

# How often that is tried, and how long whoever takes over waits for it. Seconds.
_SAVE_EVERY_S = 1.0
_LATE_S = 2.0


def renew_in_a_process(account_id: str, version: int, wait_s: float) -> None:
    """Starts the process and waits for its end, or for ``wait_s``: then it goes on alone. What came of it is in the
    store.

    Raises RenewalFailed where the system has no process to give.
    """
    try:
        process = subprocess.Popen(
            python_command("app.accounts.renewal", account_id, str(version)),
            env=python_environment(os.environ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as e:
        raise RenewalFailed(f"the process that renews a token could not be started: {e.strerror}") from e
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        # Never ended from here. Somebody has to take note of its end, or the system keeps its entry.
        threading.Thread(target=process.wait, name="renewal", daemon=True).start()


def main() -> None:
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(stop, signal.SIG_IGN)
    account_id, version = sys.argv[1], int(sys.argv[2])
    config = Config.from_env(os.environ)
    logs.configure(config.log_level, config.secrets)
    store = Store(config.database_url, config.gateway_secret, durable=True)
    holder = uuid.uuid4().hex
    before, now = store.tokens.find(account_id), store.database.now()
    row = store.tokens.hold(account_id, version, holder, now, now + _HOLD_S)
    if row is None:
        return  # somebody else does it, or has done it
    threading.Thread(target=_keep_hold, args=(store, account_id, holder), daemon=True).start()
    if before is not None and before.held_until > 0:
        # Whoever had it was killed, or has the next pair and found no database to store it in, until now.
        time.sleep(_LATE_S)
        row = store.tokens.find(account_id)
        if row is None or row.version != version:
            return
    _renew(config, store, row)


def _renew(config: Config, store: Store, row: TokenRow) -> None:
    credential = next((c for c in config.credentials if c.id == row.account_id), None)
    if credential is None or row.refresh_token is None:
        return
    timeouts = Timeouts(config.connect_timeout_s, 20.0, 20.0)
    auth = KimiAuth(KimiHttp(config.kimi_auth_url, timeouts), KimiHttp(config.kimi_base_url, timeouts))
    account = Account(
        id=credential.id,
        label=credential.label,
        token=row.refresh_token,
        expires_at=None,
        renewable=True,
        user_id=credential.user_id,
        device_id=credential.device_id,
        session_id=credential.session_id,
    )
    try:
        pair = auth.refresh(account)
    except UpstreamError as e:
        dead = isinstance(e, AccountRejected)
        log.log(logging.ERROR if dead else logging.WARNING, "%s: not renewed: %s", credential.label, e.message)
        store.tokens.save_trouble(row.account_id, row.version, e.message, dead)
        return
    # Stored before anybody can use it: the only place where it is handed on is the store.
    if _saved(store, row, pair, credential.label):
        log.info("%s: renewed", credential.label)


def _saved(store: Store, row: TokenRow, pair: TokenPair, label: str) -> bool:
    """Whether ``pair`` follows ``row`` now. Tried for as long as that may help: nobody else has what Kimi has just
    given, and the one before it is worth nothing any more."""
    expires_at = read_expiry(pair.access_token)
    deadline = time.monotonic() + _SAVE_S
    while True:
        try:
            return store.tokens.save(row.account_id, row.version, pair.access_token, pair.refresh_token, expires_at)
        except StoreError as e:
            if time.monotonic() > deadline:
                raise
            log.error("%s: the renewed token could not be stored, which is tried again (%s)", label, e.driver_error)
        time.sleep(_SAVE_EVERY_S)


def _keep_hold(store: Store, account_id: str, holder: str) -> None:
    while True:
        time.sleep(_HOLD_S / 3)
        try:
            store.tokens.renew_hold(account_id, holder, store.database.now() + _HOLD_S)
        except StoreError:
            log.exception("the right to renew a token could not be kept; it will be tried again")


if __name__ == "__main__":
    main()
