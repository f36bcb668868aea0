"""The accounts with a token that works: which of them may be used, and when a token is renewed.

Which accounts there are says ``registry``, also while the gateway runs. The token of an account with a refresh token
is renewed ahead of its expiry and after a rejection. The newest pair is in the store, where every worker finds it.
Which account serves a request is decided in ``leases``. Must never know how a token is sent or refreshed.
"""

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.accounts.registry import DeclaredAccount, Registry, account_of
from app.accounts.standings import (
    ENDING,
    NO_ACCOUNT,
    OUT_OF_USE,
    SEALED_BY_ANOTHER,
    Language,
    Standing,
    model_standing,
    named_sentence,
    problem_of,
    standing_of,
)
from app.concurrency.periodic import Periodic, every, in_steps
from app.concurrency.waiting_room import WaitingRoom
from app.errors import AccountRejected, AccountUnavailable, ConversationLost, NoAccount, RenewalFailed
from app.settings.credentials import read_expiry
from app.settings.sites import Site
from app.store import Store, StoreError, TokenRow, TokenState, WrongSecret
from app.upstreams.account import Account

log = logging.getLogger(__name__)

# How often changes of the accounts are looked for: an added one is used after so long. Seconds.
_LOOK_FOR_ACCOUNTS_S = 2.0

# A token is renewed when a third of its life is left, but not earlier than this before its expiry. Seconds.
_RENEW_AHEAD_S = 300.0
# The same for a token of which nobody knows how long it lives.
_RENEW_UNKNOWN_AHEAD_S = 60.0
# A token that expires within this time is not used for a new request. Seconds.
_MIN_REMAINING_S = 1.0
# How long a request waits for a renewal, by whatever process, and how often it looks. Long enough for the second
# service to answer where the first is silent, short enough to try another account afterwards (FAILOVER_S). Seconds.
_WAIT_S = 25.0
_LOOK_EVERY_S = 0.1
# How often it is made sure meanwhile that a process renews tokens. Seconds.
_CHECK_EVERY_S = 0.5
# The longest pause of the thread that renews ahead of time: it also sees what other workers have renewed. Seconds.
_MAX_SLEEP_S = 60.0
# How many renewals are asked for without a pause, and how long that is. Seconds.
_ASKED_AT_ONCE = 20
_PAUSE_S = 0.005

# How often a gateway says that it has its accounts, and after which time those of none are deleted. Seconds. And how
# many in one transaction.
_SEE_EVERY_S = 600.0
_GONE_AFTER_S = 3600.0
_DELETED_AT_ONCE = 100

_RENEWAL_USELESS = "the renewed token does not work, or has expired already: is this machine's clock right?"


class Renewals(Protocol):
    """What renews tokens: ``renewal.RenewalProcess``."""

    def ask(self, account: DeclaredAccount, version: int) -> None:
        """Asks for the renewal of this version of the account's pair, if it is the newest one, and makes sure that it
        is done. Returns before it is done. Safe to repeat. Raises RenewalFailed: if nothing can be started."""
        ...


@dataclass(frozen=True, slots=True)
class _Usable:
    """The accounts that may be used, from ``since`` on and before ``until`` (Unix seconds), as long as the accounts
    and their tokens are those of ``revision``."""

    accounts: Mapping[str, str]
    since: float
    until: float
    revision: int


class Accounts:
    """The configured accounts. Safe for threads."""

    def __init__(self, registry: Registry, store: Store, renewals: Renewals | None = None) -> None:
        """``renewals``: None if others renew tokens."""
        self._registry = registry
        self._store = store
        self._renewals = renewals
        # Account id → the pair that this process last read. The store is asked again when a token no longer works.
        self._rows: dict[str, TokenRow] = {}
        # Account id → why this process cannot read the pair.
        self._unreadable: dict[str, str] = {}
        # Counts the changes of all that.
        self._revision = 0
        # Names of sites → which accounts there may be used. With hundreds of them, to look at each takes as long as
        # many other steps of a request.
        self._usable: dict[frozenset[str] | None, _Usable] = {}
        self._locks: dict[str, threading.Lock] = {}
        # Those who wait for the renewal of an account.
        self._waiting: WaitingRoom[str] = WaitingRoom(
            self._settled, _LOOK_EVERY_S, "token-renewals", one_at_a_time=False
        )
        self._ahead: dict[str, _Ahead] = {}
        self._renewer: Periodic | None = None
        # The accounts, and those of them whose token is renewed.
        self._accounts: Mapping[str, DeclaredAccount] = {}
        self._renewable: list[str] = []
        self._taking_over = threading.Lock()
        # The last look for changes failed.
        self._is_failing = False
        self._begin_chains()
        self.take_over()
        if not self._accounts:
            log.warning("%s", NO_ACCOUNT["en"])
        for standing in self.standings():
            if standing.needs_owner:
                log.warning("account_needs_attention reason=%s", named_sentence(standing))

    def _begin_chains(self) -> None:
        """Stores the refresh tokens of KIMI_TOKENS that are new there. A command that only looks replaces none."""
        given = [a for a in self._registry.accounts.values() if a.token_from == "settings" and a.is_renewable]
        known = {state.account_id: state.source for state in self._store.tokens.states([a.id for a in given])}
        for c in (account.credential for account in given):
            if c.id not in known or (known[c.id] != c.source and self._registry.settles):
                self._store.tokens.begin(c.id, c.source, c.access_token, c.refresh_token, c.expires_at)

    def look_for_changes(self) -> None:
        """Learns of accounts that were added, changed or removed meanwhile. Raises StoreError."""
        self._registry.look()
        self.take_over()

    def _look(self) -> None:
        """As ``look_for_changes``. Where the database fails, what is known goes on to count."""
        try:
            self.look_for_changes()
        except StoreError as e:
            if not self._is_failing:
                log.warning("accounts_not_reloaded error=%s", e.driver_error)
            self._is_failing = True
        else:
            self._is_failing = False

    def take_over(self) -> None:
        """The accounts that the registry knows are used from now on. Raises StoreError."""
        # Others have it look, too.
        if self._accounts is self._registry.accounts:
            return
        with self._taking_over:
            accounts = self._registry.accounts
            self._store.accounts.add(list(accounts), self._store.database.now())
            renewable = [account.id for account in accounts.values() if account.is_renewable]
            rows, unreadable = self._store.tokens.find_all(renewable)
            for row in rows:
                self._read(row)
            self._unreadable = dict.fromkeys(unreadable, SEALED_BY_ANOTHER)
            self._accounts = accounts
            # A pair that is not there was deleted with its account just now.
            self._renewable = [id_ for id_ in renewable if id_ in self._rows or id_ in self._unreadable]
            for id_ in set(self._rows) - set(renewable):
                del self._rows[id_]
            self._revision += 1
        if self._renewer is not None:
            log.info("accounts_changed accounts=%d", len(accounts))
            self._renewer.wake()

    def forget_gone(self) -> None:
        """Deletes the accounts that no gateway has any more."""
        self._store.accounts.add(list(self._accounts), self._store.database.now())
        before = self._store.database.now() - _GONE_AFTER_S
        in_steps(lambda: self._store.accounts.delete_unseen(before, _DELETED_AT_ONCE), _DELETED_AT_ONCE)

    @property
    def ids(self) -> list[str]:
        """Of all accounts that may be asked for something, also of those that cannot be used now."""
        return [account.id for account in self._accounts.values() if account.paused_at is None]

    @property
    def all(self) -> Mapping[str, DeclaredAccount]:
        """All accounts by their ids."""
        return self._accounts

    def start(self) -> None:
        """Starts to look for changes of the accounts, and to renew ahead of expiry, for as long as the process
        lives."""
        every(_SEE_EVERY_S, self.forget_gone, "accounts-gone", first_after_s=_SEE_EVERY_S)
        every(_LOOK_FOR_ACCOUNTS_S, self._look, "accounts", first_after_s=_LOOK_FOR_ACCOUNTS_S)
        self._renewer = every(_MAX_SLEEP_S, self._renew_ahead, "renewals-ahead")

    def usable(self, sites: frozenset[str] | None = None) -> Mapping[str, str]:
        """Account id → digest of its token, for the accounts of ``sites`` (None: of all) that may be used. The same
        mapping while nothing has changed.

        Raises NoAccount: if there is no account at all. Raises AccountRejected, which says what to do: if none of
        them may be used.
        """
        now, known = time.time(), self._usable.get(sites)
        if known is not None and known.revision == self._revision and known.since <= now < known.until:
            return known.accounts
        revision, accounts = self._revision, self._accounts
        there = [a for a in accounts.values() if sites is None or a.site.name in sites]
        usable = {a.id: a.credential.source for a in there if self._problem(a) is None}
        if not usable:
            if not accounts:
                raise NoAccount(NO_ACCOUNT["en"])
            if sites is not None and not there:
                raise AccountRejected(
                    f"no Kimi account of {' or '.join(sorted(sites))} is configured; add one", code="no_account"
                )
            raise AccountRejected("no usable Kimi account. " + " ".join(self.problems()))
        ends = [end for id_ in usable if (end := self._expires_at(accounts[id_])) is not None and end > now]
        self._usable[sites] = _Usable(usable, now, min(ends, default=math.inf), revision)
        return usable

    def _expires_at(self, account: DeclaredAccount) -> float | None:
        """When its access token expires. Unix seconds; None if it does not say so."""
        row = self._rows.get(account.id)
        return account.credential.expires_at if row is None else row.expires_at

    def has_site(self, site: str) -> bool:
        """Whether there is an account of the site."""
        return any(account.site.name == site for account in self._accounts.values())

    @property
    def sites(self) -> Sequence[Site]:
        """Where the accounts live, each site once."""
        return tuple({account.site.name: account.site for account in self._accounts.values()}.values())

    @property
    def proxy(self) -> str:
        """What requests go through that no account makes."""
        return self._registry.proxy

    def usable_accounts(self) -> Iterator[Account]:
        """The accounts that may be used, each with a token that works. Those whose token cannot be renewed now are
        left out."""
        for account_id in list(self._accounts):
            with contextlib.suppress(AccountRejected, ConversationLost, RenewalFailed):
                yield self.fresh(self.get(account_id))

    def require(self, account_id: str) -> dict[str, str]:
        """The account of a conversation, in the form of ``usable``.

        Raises ConversationLost where there is no such account any more, AccountRejected where it cannot be used.
        """
        return {account_id: self._available(account_id).credential.source}

    def refused_token(self, account_id: str) -> str | None:
        """The digest of the account's token, which Kimi has rejected; None where the gateway renews that token
        itself, and where there is no such account any more."""
        account = self._accounts.get(account_id)
        return None if account is None or account.is_renewable else account.credential.source

    def get(self, account_id: str) -> Account:
        """Raises as ``require``."""
        return self._account(self._available(account_id))

    def _available(self, account_id: str) -> DeclaredAccount:
        """Raises as ``require``."""
        account = self._accounts.get(account_id)
        if account is None:
            raise ConversationLost(
                "the Kimi account that this conversation was opened with is not configured any more; "
                "add it again, send the whole history with the next message, or start a new conversation"
            )
        problem = self._problem(account)
        if problem is not None:
            raise (AccountUnavailable if problem.kind == "paused" else AccountRejected)(named_sentence(problem))
        return account

    def leased(self, account_id: str) -> Account:
        """The account of a turn that has waited for it. Raises AccountRejected, or AccountUnavailable where the
        account was paused or removed meanwhile."""
        try:
            return self.get(account_id)
        except ConversationLost:
            raise AccountUnavailable("the Kimi account was removed while the request waited for it") from None

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
        self.look_for_changes()
        for state in self._store.tokens.states(self._renewable):
            with contextlib.suppress(RenewalFailed):
                self._reload_changed(state)

    def problems(self, language: Language = "en") -> list[str]:
        """A sentence for each account that cannot be used, saying what to do; one sentence if there is no account."""
        if not self._accounts:
            return [NO_ACCOUNT[language]]
        return [named_sentence(standing, language) for standing in self.standings() if standing.kind in OUT_OF_USE]

    def standings(self) -> list[Standing]:
        """How each account stands, in the order of ``all``. Models that an account may not be asked for now follow
        it, each as a standing of its own."""
        now, accounts = self._store.database.now(), self._accounts
        tokens = {account.id: account.credential.source for account in accounts.values()}
        cooldowns = self._store.accounts.cooldowns(tokens, now)
        of_models: dict[str, list[Standing]] = {}
        for account_id, model, cooldown in self._store.accounts.model_cooldowns(now):
            if account_id in accounts:
                standing = model_standing(accounts[account_id].credential, model, cooldown)
                of_models.setdefault(account_id, []).append(standing)
        found = []
        for account in accounts.values():
            standing = self._problem(account) or standing_of(
                account.credential, self._rows.get(account.id), cooldowns.get(account.id)
            )
            found += [standing, *of_models.get(account.id, ())]
        return found

    def labels(self) -> dict[str, str]:
        """Account id → name."""
        return {account.id: account.label for account in self._accounts.values()}

    def expiries(self) -> dict[str, tuple[float | None, float | None]]:
        """Account id → when its access token expires, and when its login ends if it is not used. Unix seconds."""
        found = {}
        for account in self._accounts.values():
            row, credential = self._rows.get(account.id), account.credential
            refresh_token = row.refresh_token if row is not None else credential.refresh_token
            ends = read_expiry(refresh_token) if refresh_token is not None else None
            found[account.id] = (row.expires_at if row is not None else credential.expires_at, ends)
        return found

    def warnings(self, language: Language = "en") -> list[str]:
        """A sentence for each account that will stop working although it works now."""
        return [named_sentence(standing, language) for standing in self.standings() if standing.kind in ENDING]

    def has_usable(self) -> bool:
        return any(standing.kind not in OUT_OF_USE and not standing.model for standing in self.standings())

    def row(self, account_id: str) -> TokenRow | None:
        """The account's pair as this process last read it; None for one that nothing renews."""
        return self._rows.get(account_id)

    def _problem(self, account: DeclaredAccount) -> Standing | None:
        if account.paused_at is not None:
            return Standing("paused", account.id, account.label, since=account.paused_at)
        if not account.is_readable:
            return Standing("sealed", account.id, account.label, said=SEALED_BY_ANOTHER)
        return problem_of(account.credential, self._rows.get(account.id), self._unreadable.get(account.id))

    def _account(self, account: DeclaredAccount) -> Account:
        return account_of(account.credential, account.site, account.proxy, self._rows.get(account.id))

    def _declared(self, account_id: str) -> DeclaredAccount:
        """Raises RenewalFailed: if the account was removed meanwhile."""
        account = self._accounts.get(account_id)
        if account is None:
            raise RenewalFailed("the account was removed meanwhile")
        return account

    def _reload(self, account_id: str) -> TokenRow:
        """Raises RenewalFailed: if a gateway with another secret has sealed the pair, or the account was removed."""
        label = self._declared(account_id).label
        try:
            row = self._store.tokens.find(account_id)
        except WrongSecret as e:
            self._unreadable[account_id] = str(e)
            self._revision += 1
            sealed = Standing("sealed", account_id, label, said=str(e))
            raise RenewalFailed(named_sentence(sealed)) from None
        if row is None:
            raise RenewalFailed(f"{label}: the account was removed meanwhile")
        self._unreadable.pop(account_id, None)
        self._read(row)
        return row

    def _reload_changed(self, state: TokenState) -> None:
        """Raises as ``_reload``."""
        row = self._rows.get(state.account_id)
        if row is None or not state.is_of(row):
            self._reload(state.account_id)

    def _read(self, row: TokenRow) -> None:
        self._rows[row.account_id] = row
        self._revision += 1

    def _renewed(self, account_id: str, rejected: str | None) -> Account:
        """One renewal for all requests of this process that need it: they share its result, or its failure."""
        label = self._declared(account_id).label
        lock = self._locks.setdefault(account_id, threading.Lock())
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
            return self._account(self._declared(account_id))
        finally:
            lock.release()

    def _let_renew(self, row: TokenRow, wait_s: float) -> None:
        """Asks for the renewal of this pair and waits a moment for its end. Raises RenewalFailed: if nothing can be
        started."""
        with self._waiting.place(row.account_id) as place:
            if self._renewals is not None:
                self._renewals.ask(self._declared(row.account_id), row.version)
            place.woken.wait(min(wait_s, _CHECK_EVERY_S))

    def _settled(self, account_ids: list[str]) -> list[str]:
        """Those of these accounts whose renewal has succeeded or failed."""
        return [state.account_id for state in self._store.tokens.states(account_ids) if not state.is_wanted]

    # Ahead of time

    def _renew_ahead(self) -> float:
        """Asks for the renewals that are due. Returns the seconds until the next look."""
        now = time.monotonic()
        accounts = self._accounts
        wait_s = _MAX_SLEEP_S
        asked = 0
        for state in self._store.tokens.states(self._renewable):
            account = accounts.get(state.account_id)
            if account is None or account.paused_at is not None:
                continue
            due_in_s = self._due_in_s(state, now)
            if due_in_s <= 0 and self._renewals is not None:
                self._ahead_of(account.id).asked = state.version
                try:
                    self._renewals.ask(account, state.version)
                except RenewalFailed as e:
                    log.warning("renewal_failed account=%s error=%s", account.id, e)
                    self._ahead_of(account.id).failed(now)
                due_in_s = _CHECK_EVERY_S
                asked += 1
                if asked % _ASKED_AT_ONCE == 0:
                    time.sleep(_PAUSE_S)
            wait_s = min(wait_s, due_in_s)
        return max(_LOOK_EVERY_S, wait_s)

    def _due_in_s(self, state: TokenState, now: float) -> float:
        """The seconds until this account is to be looked at again; 0 or less if its renewal is due, or if it was
        asked for and has to be done."""
        account_id, ahead = state.account_id, self._ahead_of(state.account_id)
        try:
            self._reload_changed(state)
        except RenewalFailed as e:
            log.warning("renewal_failed account=%s error=%s", account_id, e)
            ahead.failed(now)
            return ahead.retry_at - now
        if state.is_wanted:
            # At once, unless nothing could be started just now.
            return max(0.0, ahead.retry_at - now)
        row = self._rows.get(account_id)
        if row is None:
            # It was removed just now.
            return _MAX_SLEEP_S
        if ahead.asked is not None:
            if row.version == ahead.asked:
                ahead.failed(now)
            elif not _works(row.access_token, row.expires_at, None):
                log.warning("renewal_useless account=%s error=%s", account_id, _RENEWAL_USELESS)
                ahead.failed(now)
            else:
                ahead.succeeded()
        # A revoked token cannot be renewed. It is checked again in case the account gets another one.
        return _MAX_SLEEP_S if row.revoked else max(_until_renewal(row), ahead.retry_at - now)

    def _ahead_of(self, account_id: str) -> "_Ahead":
        return self._ahead.setdefault(account_id, _Ahead())


@dataclass(slots=True)
class _Ahead:
    """The renewals of one account ahead of time.

    ``asked``: the version of the pair whose renewal was asked for. ``failures``: in a row. ``retry_at``: in monotonic
    seconds.
    """

    asked: int | None = None
    failures: int = 0
    retry_at: float = 0.0

    def failed(self, now: float) -> None:
        self.asked = None
        self.failures += 1
        self.retry_at = now + _retry_in_s(self.failures)

    def succeeded(self) -> None:
        self.asked, self.failures, self.retry_at = None, 0, 0.0


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


def renews_at(row: TokenRow) -> float | None:
    """When the pair is renewed, about, in Unix seconds; None where it does not say when it expires."""
    if row.expires_at is None:
        return None
    return row.expires_at - _ahead_s(row)


def _ahead_s(row: TokenRow) -> float:
    """How long before its expiry the pair is renewed. What it says of its own beginning (``iat``) does not count: a
    token without that, or with a wrong one, would be renewed again and again."""
    if row.expires_at is None or row.stored_at is None:
        return _RENEW_UNKNOWN_AHEAD_S
    return min(_RENEW_AHEAD_S, max(0.0, row.expires_at - row.stored_at) / 3)


def _until_renewal(row: TokenRow) -> float:
    """Seconds until the pair should be renewed, at random so that the workers do not all ask at once."""
    if row.access_token is None:
        return 0.0
    if row.expires_at is None:
        return _MAX_SLEEP_S
    return row.expires_at - time.time() - _ahead_s(row) * random.uniform(0.7, 1.3)


def _retry_in_s(failures: int) -> float:
    """The exponent is bounded: a service that is away for a day fails more often than a float can be doubled."""
    return min(_MAX_SLEEP_S, 2.0 ** min(failures, 6) * random.uniform(0.5, 1.5))
