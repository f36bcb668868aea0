"""The configured accounts, each with a token that works: their credentials in use, and when a token is renewed.

The token of an account with a refresh token is renewed ahead of its expiry and after a rejection. The newest pair is
in the store, where every worker finds it. Which account serves a request is decided in ``leases``. Must never know
how a token is sent or refreshed.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from app.accounts.standings import (
    ENDING,
    UNUSABLE,
    Language,
    Standing,
    model_standing,
    named_sentence,
    problem_of,
    standing_of,
)
from app.concurrency.periodic import every, in_steps
from app.errors import AccountRejected, ConversationLost, RenewalFailed
from app.settings.credentials import Credential, read_lifetime
from app.store import Store, StoreError, TokenRow, WrongSecret
from app.upstreams.account import Account

log = logging.getLogger(__name__)

# A token is renewed when a third of its life is left, but not earlier than this before its expiry. Seconds.
_RENEW_AHEAD_S = 300.0
# A token that expires within this time is not used for a new request. Seconds.
_MIN_REMAINING_S = 1.0
# How long a request waits for a renewal, by whatever process, and how often it looks. Long enough for the second
# service to answer where the first is silent, short enough to try another account afterwards (FAILOVER_S). Seconds.
_WAIT_S = 25.0
_LOOK_EVERY_S = 0.1
# The longest pause of the thread that renews ahead of time: it also sees what other workers have renewed. Seconds.
_MAX_SLEEP_S = 60.0

# How often a gateway says that its accounts are in its settings, and after which time those of none are deleted.
# Seconds. And how many in one transaction.
_SEE_EVERY_S = 600.0
_GONE_AFTER_S = 3600.0
_DELETED_AT_ONCE = 100

_RENEWAL_USELESS = "the renewed token does not work, or has expired already: is this machine's clock right?"


class Accounts:
    """The configured accounts. Safe for threads."""

    def __init__(
        self,
        credentials: Sequence[Credential],
        sites: Mapping[str, str],
        store: Store,
        renew: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """``sites``: account id → the name of its site. ``renew(account_id, version, wait_s)``: refreshes token pair
        ``version`` in another process. Returns when the new pair, or the error, is in the store, or after ``wait_s``
        seconds. Concurrent calls are safe: one of them refreshes.
        """
        self._credentials = {credential.id: credential for credential in credentials}
        self._sites = sites
        self._store = store
        self._renew = renew
        # Account id → the pair that this process last read. The store is asked again when a token no longer works.
        self._rows: dict[str, TokenRow] = {}
        # Account id → why this process cannot read the pair.
        self._unreadable: dict[str, str] = {}
        self._locks = {credential.id: threading.Lock() for credential in credentials}
        # Account id → renewals ahead of time that failed in a row.
        self._failures = dict.fromkeys(self._credentials, 0)
        self._see()
        for c in credentials:
            if c.refresh_token is not None:
                store.tokens.begin(c.id, c.source, c.access_token, c.refresh_token, c.expires_at)
                self._reload(c.id)
        for standing in self.standings():
            if standing.needs_owner:
                log.warning("account_needs_attention reason=%s", named_sentence(standing))

    def _see(self) -> None:
        self._store.accounts.add(list(self._credentials), self._store.database.now())

    def forget_gone(self) -> None:
        """Deletes the accounts that no gateway has in its settings any more."""
        self._see()
        before = self._store.database.now() - _GONE_AFTER_S
        in_steps(lambda: self._store.accounts.delete_unseen(before, _DELETED_AT_ONCE), _DELETED_AT_ONCE)

    @property
    def ids(self) -> list[str]:
        return list(self._credentials)

    def keep_fresh(self) -> None:
        """Starts renewing ahead of expiry, in the background, for as long as the process lives."""
        every(_SEE_EVERY_S, self.forget_gone, "accounts-gone", first_after_s=_SEE_EVERY_S)
        for account_id in self._rows:
            every(_MAX_SLEEP_S, partial(self._renew_ahead, account_id), f"renewal-of-{account_id}")

    def usable(self, sites: Collection[str] | None = None) -> dict[str, str]:
        """Account id → digest of its token, for the accounts of ``sites`` (None: of all) that may be used. Raises
        AccountRejected, which says what to do, where there is none."""
        there = [c for c in self._credentials.values() if sites is None or self._sites[c.id] in sites]
        usable = {c.id: c.source for c in there if self._problem(c) is None}
        if not usable:
            if sites is not None and not there:
                raise AccountRejected(f"no Kimi account of {' or '.join(sorted(sites))} is configured; add one")
            raise AccountRejected("no usable Kimi account. " + " ".join(self.problems()))
        return usable

    def has_site(self, site: str) -> bool:
        """Whether an account of the site is configured."""
        return site in self._sites.values()

    def usable_accounts(self) -> Iterator[Account]:
        """The accounts that may be used, each with a token that works. Those whose token cannot be renewed now are
        left out."""
        for account_id in self._credentials:
            with contextlib.suppress(AccountRejected, RenewalFailed):
                yield self.fresh(self.get(account_id))

    def require(self, account_id: str) -> dict[str, str]:
        """The account of a conversation, in the form of ``usable``.

        Raises ConversationLost where it is not configured any more, AccountRejected where it cannot be used.
        """
        self.get(account_id)
        return {account_id: self._credentials[account_id].source}

    def refused_token(self, account_id: str) -> str | None:
        """The digest of the account's token, which Kimi has rejected; None where the gateway renews that token
        itself."""
        credential = self._credentials[account_id]
        return credential.source if credential.refresh_token is None else None

    def get(self, account_id: str) -> Account:
        """Raises as ``require``."""
        credential = self._credentials.get(account_id)
        if credential is None:
            raise ConversationLost(
                "the Kimi account that this conversation was opened with is no longer in KIMI_TOKENS; "
                "put it back, send the whole history with the next message, or start a new conversation"
            )
        problem = self._problem(credential)
        if problem is not None:
            raise AccountRejected(named_sentence(problem))
        return self._account(credential)

    def is_revoked(self, account_id: str) -> bool:
        """Whether Kimi refuses the account's refresh token."""
        row = self._rows.get(account_id)
        return row is not None and row.revoked

    def fresh(self, account: Account) -> Account:
        """The account with a token that has not expired. Waits for a renewal where one is needed.

        Raises AccountRejected where Kimi refuses to renew, RenewalFailed where Kimi cannot be reached or is silent.
        """
        if not account.renewable or _works(account.token, account.expires_at, None):
            return account
        return self._renewed(account.id, None)

    def after_rejection(self, account: Account) -> Account:
        """The account with another token than the one that Kimi has just rejected. Raises as ``fresh``."""
        return self._renewed(account.id, account.token)

    def reload(self) -> None:
        """Reads what other processes have stored meanwhile."""
        for account_id in list(self._rows):
            with contextlib.suppress(RenewalFailed):
                self._reload(account_id)

    def problems(self, language: Language = "en") -> list[str]:
        """A sentence for each account that cannot be used, saying what to do."""
        return [named_sentence(standing, language) for standing in self.standings() if standing.kind in UNUSABLE]

    def standings(self) -> list[Standing]:
        """How each account stands, in the order of the settings. Models that an account may not be asked for now
        follow it, each as a standing of its own."""
        now = self._store.database.now()
        tokens = {c.id: c.source for c in self._credentials.values()}
        cooldowns = self._store.accounts.cooldowns(tokens, now)
        of_models: dict[str, list[Standing]] = {}
        for account_id, model, cooldown in self._store.accounts.model_cooldowns(now):
            if account_id in self._credentials:
                standing = model_standing(self._credentials[account_id], model, cooldown)
                of_models.setdefault(account_id, []).append(standing)
        found = []
        for c in self._credentials.values():
            row, unreadable = self._rows.get(c.id), self._unreadable.get(c.id)
            found += [standing_of(c, row, cooldowns.get(c.id), unreadable), *of_models.get(c.id, ())]
        return found

    def warnings(self, language: Language = "en") -> list[str]:
        """A sentence for each account that will stop working although it works now."""
        return [named_sentence(standing, language) for standing in self.standings() if standing.kind in ENDING]

    def has_usable(self) -> bool:
        return any(standing.kind not in UNUSABLE and not standing.model for standing in self.standings())

    def _problem(self, c: Credential) -> Standing | None:
        return problem_of(c, self._rows.get(c.id), self._unreadable.get(c.id))

    def _account(self, c: Credential) -> Account:
        row = self._rows.get(c.id)
        token, expires_at = (row.access_token, row.expires_at) if row else (c.access_token, c.expires_at)
        return Account(
            c.id,
            c.label,
            token or "",
            expires_at,
            row is not None,
            c.user_id,
            c.device_id,
            c.session_id,
            self._sites[c.id],
        )

    def _reload(self, account_id: str) -> TokenRow:
        """Raises RenewalFailed where a gateway with another secret has sealed the pair."""
        try:
            row = self._store.tokens.find(account_id)
        except WrongSecret as e:
            self._unreadable[account_id] = str(e)
            sealed = Standing("sealed", account_id, self._credentials[account_id].label, said=str(e))
            raise RenewalFailed(named_sentence(sealed)) from None
        self._unreadable.pop(account_id, None)
        assert row is not None, "begin was not called"
        self._rows[account_id] = row
        return row

    def _renewed(self, account_id: str, rejected: str | None) -> Account:
        """One renewal for all requests of this process that need it: they share its result, or its failure."""
        label, lock = self._credentials[account_id].label, self._locks[account_id]
        deadline = time.monotonic() + _WAIT_S
        began = self._reload(account_id)
        if not lock.acquire(timeout=_WAIT_S):
            raise RenewalFailed(f"{label}: the token was not renewed in time")
        try:
            row = self._reload(account_id)
            while not _works(row.access_token, row.expires_at, rejected):
                if row.revoked:
                    refused = Standing("needs_login", account_id, label, "refused", said=row.last_error or "")
                    raise AccountRejected(named_sentence(refused))
                if _has_failed_since(began, row):
                    raise RenewalFailed(f"{label}: the token could not be renewed ({row.last_error})")
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise RenewalFailed(f"{label}: the token was not renewed in time")
                self._let_renew(row, left_s)
                old, row = row, self._reload(account_id)
                if _was_useless(old, row, rejected):
                    raise RenewalFailed(f"{label}: {_RENEWAL_USELESS}")
            return self._account(self._credentials[account_id])
        finally:
            lock.release()

    def _let_renew(self, row: TokenRow, wait_s: float) -> None:
        if self._renew is not None and row.held_until <= self._store.database.now():
            self._renew(row.account_id, row.version, wait_s)
        else:
            time.sleep(_LOOK_EVERY_S)

    def _renew_ahead(self, account_id: str) -> float:
        """Renews the account's token if that is due. Returns the seconds until the next check."""
        # Counted as a failure until it is known to be none.
        self._failures[account_id] += 1
        try:
            wait_s = self._renew_if_due(account_id)
        except (RenewalFailed, StoreError) as e:
            log.warning("renewal_failed account=%s error=%s", account_id, e)
            wait_s = None
        if wait_s is None:
            wait_s = _retry_in_s(self._failures[account_id])
        else:
            self._failures[account_id] = 0
        return max(_LOOK_EVERY_S, min(wait_s, _MAX_SLEEP_S))

    def _renew_if_due(self, account_id: str) -> float | None:
        """The seconds until the next renewal is due; None where a renewal failed."""
        row = self._reload(account_id)
        # A revoked token cannot be renewed. It is checked again in case the account gets another one.
        wait_s = _MAX_SLEEP_S if row.revoked else _until_renewal(row)
        if wait_s > 0:
            return wait_s
        self._let_renew(row, _MAX_SLEEP_S)
        old, row = row, self._reload(account_id)
        if _was_useless(old, row, None):
            log.warning("renewal_useless account=%s error=%s", account_id, _RENEWAL_USELESS)
            return None
        return None if row.last_error else 0.0


def _works(token: str | None, expires_at: float | None, rejected: str | None) -> bool:
    return bool(token) and token != rejected and (expires_at is None or expires_at > time.time() + _MIN_REMAINING_S)


def _was_useless(old: TokenRow, row: TokenRow, rejected: str | None) -> bool:
    """Whether a renewal succeeded and brought a token that does not work: another one would do the same."""
    renewed = row.version > old.version and row.access_token is not None
    return renewed and not _works(row.access_token, row.expires_at, rejected)


def _has_failed_since(began: TokenRow, row: TokenRow) -> bool:
    """Whether a renewal has failed between two reads: there is an error, and the right to renew was taken and given
    back."""
    ended = row.held_until == 0 and (row.holder, row.held_until) != (began.holder, began.held_until)
    return ended and row.last_error is not None


def _until_renewal(row: TokenRow) -> float:
    """Seconds until the pair should be renewed, at random so that the workers do not all ask at once."""
    if row.access_token is None:
        return 0.0
    if row.expires_at is None:
        return _MAX_SLEEP_S
    left_s = row.expires_at - time.time()
    ahead_s = min(_RENEW_AHEAD_S, (read_lifetime(row.access_token) or _RENEW_AHEAD_S) / 3) * random.uniform(0.7, 1.3)
    return left_s - ahead_s


def _retry_in_s(failures: int) -> float:
    """The exponent is bounded: a service that is away for a day fails more often than a float can be doubled."""
    return min(_MAX_SLEEP_S, 2.0 ** min(failures, 6) * random.uniform(0.5, 1.5))
