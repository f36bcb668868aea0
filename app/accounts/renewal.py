"""Renews the tokens of one account, in a process of its own: ``python -m app.accounts.renewal ACCOUNT VERSION``.

Why a process: between the moment when Kimi has rotated a refresh token and the moment when the new one is in
the store, a kill loses the login for good. A worker may be killed at any time (by the system, by gunicorn, by
a person). This process has a session of its own, ignores the signals that stop a gateway, lives for about a
second and does nothing else. docs/tokens.md says what that proves and what it does not.

Knows the order: acquire the right to renew, ask, store. Must never know how Kimi is asked.
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
from app.concurrency.periodic import every
from app.errors import AccountRejected, RenewalFailed, UpstreamError
from app.settings.config import Config
from app.settings.credentials import read_expiry
from app.store import Store, StoreError, TokenRow
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.token_refresh import KimiAuth, TokenPair

log = logging.getLogger(__name__)

# How long the right to renew lasts, unless it is extended: after a kill another process may renew then. Seconds.
_HOLD_S = 9.0

# How long storing a renewed pair is tried while the database is unavailable, and how often. Seconds.
_SAVE_S = 3600.0
_SAVE_EVERY_S = 1.0

# How long a process that takes the right over waits first: its predecessor may still store a pair. Seconds.
_PREDECESSOR_S = 2.0


def renew_in_a_process(account_id: str, version: int, wait_s: float) -> None:
    """Starts the process and waits for its end, for ``wait_s`` seconds at most; it then goes on alone. The new pair,
    or the error, is in the store. Raises RenewalFailed where no process can be started.
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
        # It is never killed. Its exit must be waited for, or a zombie stays.
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
    row = store.tokens.acquire(account_id, version, holder, now, now + _HOLD_S)
    if row is None:
        return  # another process renews it, or has renewed it
    every(_HOLD_S / 3, lambda: _keep_hold(store, account_id, holder), "renewal-hold", first_after_s=_HOLD_S / 3)
    if before is not None and before.held_until > 0:
        # The process that had the right was killed, or it has a new pair that it could not store until now.
        time.sleep(_PREDECESSOR_S)
        row = store.tokens.find(account_id)
        if row is None or row.version != version:
            return
    _renew(config, store, row)


def _renew(config: Config, store: Store, row: TokenRow) -> None:
    credential = next((c for c in config.credentials if c.id == row.account_id), None)
    if credential is None or row.refresh_token is None:
        return
    timeouts = Timeouts(config.connect_timeout_s, 20.0, 20.0)
    site = config.site_of(credential)
    auth = KimiAuth(KimiHttp(site.auth_url, timeouts), KimiHttp(site.base_url, timeouts))
    account = Account(
        id=credential.id,
        label=credential.label,
        token=row.refresh_token,
        expires_at=None,
        renewable=True,
        user_id=credential.user_id,
        device_id=credential.device_id,
        session_id=credential.session_id,
        site=site.name,
    )
    try:
        pair = auth.refresh(account)
    except UpstreamError as e:
        revoked = isinstance(e, AccountRejected)
        level = logging.ERROR if revoked else logging.WARNING
        log.log(level, "token_not_renewed account=%s label=%r error=%s", row.account_id, credential.label, e.message)
        store.tokens.save_error(row.account_id, row.version, e.message, revoked)
        return
    # It is stored before it can be used: workers read tokens from the store and from nowhere else.
    if _saved(store, row, pair):
        log.info("token_renewed account=%s label=%r", row.account_id, credential.label)


def _saved(store: Store, row: TokenRow, pair: TokenPair) -> bool:
    """Whether ``pair`` has replaced ``row``. Tried for an hour: nobody else has the new pair, and the old one is
    invalid."""
    expires_at = read_expiry(pair.access_token)
    deadline = time.monotonic() + _SAVE_S
    while True:
        try:
            return store.tokens.save(row.account_id, row.version, pair.access_token, pair.refresh_token, expires_at)
        except StoreError as e:
            if time.monotonic() > deadline:
                raise
            log.error("token_not_stored account=%s retry_in_s=%.0f error=%s", row.account_id, _SAVE_EVERY_S, e)
        time.sleep(_SAVE_EVERY_S)


def _keep_hold(store: Store, account_id: str, holder: str) -> None:
    store.tokens.extend(account_id, holder, store.database.now() + _HOLD_S)


if __name__ == "__main__":
    main()
