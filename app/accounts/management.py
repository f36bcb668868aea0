"""What the owner does with accounts: list, add, pause, test, remove. Commands and console are two faces of it.

Speaks in values; the text of an error is the English of commands and logs, its ``code`` and ``values`` are for other
languages. Names of accounts are labels or ids. Must never know Flask, nor how Kimi is asked.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

from app.accounts.pool import Renewals, renews_at
from app.accounts.registry import DeclaredAccount, Registry, account_of
from app.accounts.standings import SEALED_BY_ANOTHER, Language, Standing, model_standing, standing_of
from app.settings.credentials import Credential, describe_level, read_expiry
from app.settings.parsers import proxy_url, without_password
from app.settings.pasted import Form, read_pasted
from app.settings.sites import Site
from app.store import AccountEntryRow, Store, TokenRow, TokenState, Transaction
from app.store.leases import BY_HAND, REJECTED, WHOLE_ACCOUNT, Cooldown
from app.upstreams.account import Account

log = logging.getLogger(__name__)

_LONGEST_REST_S = 30 * 86_400.0
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class AccountChangeError(Exception):
    """What was asked for cannot be done. ``values``: what the text contains, by name."""

    code: ClassVar[str]

    def __init__(self, message: str, **values: str) -> None:
        super().__init__(message)
        self.values = values


class UnknownAccount(AccountChangeError):
    code = "unknown_account"


class LabelTaken(AccountChangeError):
    code = "label_taken"


class LabelInvalid(AccountChangeError):
    code = "label_invalid"


class ProxyInvalid(AccountChangeError):
    code = "proxy_invalid"


class InSettings(AccountChangeError):
    code = "in_settings"


class SecretNeeded(AccountChangeError):
    code = "secret_needed"


class NotRenewable(AccountChangeError):
    code = "not_renewable"


class RestInvalid(AccountChangeError):
    code = "rest_invalid"


class Unreadable(AccountChangeError):
    code = "unreadable"


@dataclass(frozen=True, slots=True)
class ScopedCooldown:
    """``scope``: a model, empty for the whole account. ``until``: Unix seconds. ``failures``: in a row. ``cause``:
    see ``app.store.leases.Cooldown``."""

    scope: str
    until: float
    failures: int
    cause: str

    @property
    def cooldown(self) -> Cooldown:
        return Cooldown(self.until, self.failures, self.cause)


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """All that is known of an account. Times are Unix seconds, None where there is none or nobody knows."""

    id: str
    label: str
    site: str
    in_settings: bool
    """It stands in KIMI_TOKENS: it can be neither removed nor renamed here."""
    token_from: Literal["settings", "added"]
    """Where the token stands that counts now."""
    added_at: float | None
    paused_at: float | None
    proxy: str
    """Its own one, without user and password; empty if it has none."""
    level: str
    """Of membership, for people: ``free``, ``membership level 20``, or empty."""
    renewable: bool
    """It has a refresh token."""
    has_access_token: bool
    access_expires_at: float | None
    login_ends_at: float | None
    """When the newest refresh token expires."""
    renews_at: float | None
    """When the access token is renewed next, about."""
    renewing: bool
    """A renewal was asked for and has not ended."""
    revoked: bool
    """Kimi refuses the refresh token: a new login is needed."""
    last_error: str
    """Why the last renewal failed; empty after a success."""
    readable: bool
    """False: another GATEWAY_SECRET has sealed its tokens."""
    rejected: bool
    """Kimi has rejected the access token that it has."""
    cooldowns: tuple[ScopedCooldown, ...]
    """Those that have not ended."""
    standings: tuple[Standing, ...]
    """How it stands, for sentences; after that, the models that it is not asked for now."""
    streams: int
    """Turns that run on it now, of all workers."""
    capacity: int
    """How many may run; 0: any number."""
    pending_deletions: int
    """Chats at Kimi that are still to be deleted."""
    oldest_deletion_due_at: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a pasted text is. Times are Unix seconds, None where there is none or nobody knows."""

    account_id: str
    label: str
    """That of the text, that of the account if it is known, or a free one."""
    kind: Literal["refresh", "access", "both"]
    form: Form
    user_hint: str
    """The last four characters of the Kimi user's id; empty if the token does not say it."""
    site: str
    level: str
    access_expires_at: float | None
    login_ends_at: float | None
    """When the refresh token expires."""
    known_as: str
    """The label of the account that this user has already; empty if there is none."""
    in_settings: bool
    """That account stands in KIMI_TOKENS."""
    same_token: bool
    """That account has exactly this token."""
    sealed: bool
    """False: tokens are readable in the database, because there is no GATEWAY_SECRET."""
    refused: bool | None
    """Whether Kimi refuses the access token; None if it was not asked, or did not say."""


StepName = Literal["token", "models", "quota", "answer", "chat"]


@dataclass(frozen=True, slots=True)
class TrialStep:
    """A step of ``AccountManager.test``. ``found``: a sentence. ``code``: of our error, empty if it was none."""

    name: StepName
    mark: Literal["ok", "warning", "problem", "skipped"]
    found: str
    code: str = ""
    seconds: float | None = None


class Kimi(Protocol):
    """What the manager asks of Kimi: ``app.doctor.account_trial.AccountTrials``."""

    def refuses(self, account: Account) -> bool | None:
        """Whether Kimi refuses the access token; None if it cannot be reached, or does not say."""
        ...

    def try_out(self, account_id: str, language: Language) -> Iterator[TrialStep]: ...

    def quota(self, account_id: str) -> object | None:
        """See ``AccountManager.quota``."""
        ...


@dataclass(slots=True)
class _Facts:
    """What the store knows of an account beside its tokens."""

    cooldowns: list[ScopedCooldown] = field(default_factory=list)
    streams: int = 0
    pending_deletions: int = 0
    oldest_deletion_due_at: float | None = None


class AccountManager:
    """All changes of accounts. One object per process; safe for threads. All methods raise StoreError if the database
    fails; those with a ``name`` raise UnknownAccount if there is no such account, and return the account after the
    change."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        renewals: Renewals,
        kimi: Kimi,
        *,
        capacity: int,
        site_of: Callable[[Credential], Site],
        after_change: Callable[[], None] = lambda: None,
    ) -> None:
        """``capacity``: ACCOUNT_MAX_STREAMS. ``site_of``: where an account lives. ``after_change``: called at once
        after each change, so that this process need not look for it."""
        self._registry = registry
        self._store = store
        self._renewals = renewals
        self._kimi = kimi
        self._capacity = capacity
        self._site_of = site_of
        self._after_change = after_change
        # Pairs that were decrypted before, by account.
        self._pairs: dict[str, TokenRow] = {}

    # Reading

    def all(self) -> list[AccountStatus]:
        """All accounts: those of KIMI_TOKENS in its order, then the others in the order in which they were added."""
        self._registry.look()
        return self._statuses(list(self._registry.accounts.values()))

    def find(self, name: str) -> AccountStatus:
        return self._statuses([self._find(name)])[0]

    def check(self, text: str, *, ask: bool = True) -> list[Checked]:
        """What the text is: one item for each account. Changes nothing, and never sends a refresh token anywhere.

        ``ask``: shows access tokens to Kimi, which takes seconds. Raises CredentialError.
        """
        self._registry.look()
        free = self._free_labels()
        checked = []
        for pasted in read_pasted(text):
            c = pasted.credential
            known = self._registry.accounts.get(c.id)
            site = self._site_of(c)
            proxy = known.proxy if known is not None else self._registry.proxy
            if c.refresh_token is None:
                kind: Literal["refresh", "access", "both"] = "access"
            else:
                kind = "refresh" if c.access_token is None else "both"
            checked.append(
                Checked(
                    account_id=c.id,
                    label=c.label or (known.label if known else next(free)),
                    kind=kind,
                    form=pasted.form,
                    user_hint=c.user_hint,
                    site=site.name,
                    level=describe_level(c.access_token or c.refresh_token),
                    access_expires_at=c.expires_at,
                    login_ends_at=c.refresh_expires_at,
                    known_as=known.label if known else "",
                    in_settings=known is not None and known.in_settings,
                    same_token=known is not None and known.credential.source == c.source,
                    sealed=self._store.vault.seals,
                    refused=self._kimi.refuses(account_of(c, site, proxy)) if ask and c.access_token else None,
                )
            )
        return checked

    def test(self, name: str, language: Language = "en") -> Iterator[TrialStep]:
        """Tries the account as a turn would use it, step by step. Takes one short turn and deletes its chat. A token
        that is due is renewed first."""
        return self._kimi.try_out(self._find(name).id, language)

    def quota(self, name: str) -> object | None:
        """What Kimi says of the account's credits, an ``app.upstreams.kimi.quota.Quota``; None if it does not say. It
        is asked every ten minutes at most. Raises UpstreamError."""
        return self._kimi.quota(self._find(name).id)

    # Changes

    def add(self, text: str, *, label: str = "", proxy: str | None = None) -> list[AccountStatus]:
        """Adds the accounts whose tokens are in the text, or replaces the tokens of those that are there. The first
        access token of a refresh token comes later, from the renewal process.

        ``label``: for one account only; without it, that of the text, that of the account, or a free one. ``proxy``:
        None keeps what the account has. Raises CredentialError, LabelTaken, LabelInvalid, ProxyInvalid, SecretNeeded.
        """
        if self._store.database.is_server and not self._store.vault.seals:
            raise SecretNeeded(
                "others administer the database server: set GATEWAY_SECRET on all gateways, so that tokens are sealed"
            )
        added = [pasted.credential for pasted in read_pasted(text)]
        if label:
            if len(added) > 1:
                raise LabelInvalid(f"these are {len(added)} accounts: one name cannot be that of all", label=label)
            added = [replace(added[0], label=_valid_label(label))]
        proxy = None if proxy is None else _valid_proxy(proxy)
        self._registry.look()

        def work(tx: Transaction) -> None:
            free = self._free_labels()
            for credential in added:
                self._put(tx, credential, proxy, free)

        self._store.database.in_exclusive_transaction(work)
        for credential in added:
            log.info("account_added account=%s renewable=%s", credential.id, credential.refresh_token is not None)
        self._changed()
        return self._statuses([self._registry.accounts[c.id] for c in added if c.id in self._registry.accounts])

    def pause(self, name: str) -> AccountStatus:
        """The account gets no more turns, and its token is not renewed, until ``resume``. Turns that run go on."""
        now = self._store.database.now()
        return self._change(name, lambda row: replace(row, paused_at=row.paused_at or now), "account_paused")

    def resume(self, name: str) -> AccountStatus:
        return self._change(name, lambda row: replace(row, paused_at=None), "account_resumed")

    def wake(self, name: str) -> AccountStatus:
        """Uses the account again at once, whatever has happened to it: ends its cooldowns, and tries a token again
        that Kimi has rejected or refused to renew."""
        account = self._find(name)
        self._store.accounts.clear_refused(account.id)
        self._store.leases.delete_cooldowns(account.id)
        self._store.tokens.restore(account.id)
        log.info("account_woken account=%s", account.id)
        return self._statuses([account])[0]

    def rest(self, name: str, seconds: float) -> AccountStatus:
        """The account gets no new turns for so long, or until the end of a cooldown that lasts longer; ``wake`` ends
        it. Turns that run go on. Raises RestInvalid: for less than a minute or more than 30 days."""
        if not 60 <= seconds <= _LONGEST_REST_S:
            raise RestInvalid("an account rests for one minute to 30 days")
        account = self._find(name)

        def work(tx: Transaction) -> None:
            now = self._store.database.now()
            before = self._store.leases.cooldown(tx, account.id, WHOLE_ACCOUNT) or Cooldown(0.0, 0)
            if before.until < now + seconds and (before.cause != REJECTED or before.until <= now):
                # What failed before still counts.
                rest = Cooldown(now + seconds, before.failures, BY_HAND)
                self._store.leases.set_cooldown(tx, account.id, WHOLE_ACCOUNT, rest)

        self._store.database.in_exclusive_transaction(work)
        log.info("account_rests account=%s label=%r seconds=%.0f", account.id, account.label, seconds)
        return self._statuses([account])[0]

    def renew(self, name: str) -> AccountStatus:
        """Asks for the renewal of the token, in the background. Raises NotRenewable, RenewalFailed."""
        account = self._find(name)
        (state,) = self._store.tokens.states([account.id]) or (None,)
        if state is None or not account.is_renewable:
            raise NotRenewable(f"'{account.label}' has no refresh token", label=account.label)
        self._renewals.ask(account, state.version)
        return self._statuses([account])[0]

    def change(self, name: str, *, label: str | None = None, proxy: str | None = None) -> AccountStatus:
        """Changes the label or the proxy; None leaves it. An empty proxy means that of the settings.

        Raises LabelTaken, LabelInvalid, ProxyInvalid, and InSettings: for the label of an account of KIMI_TOKENS.
        """
        account = self._find(name)
        if label is not None and label != account.label:
            if account.in_settings:
                raise _in_settings(account)
            _valid_label(label)
        else:
            label = None
        own = None if proxy is None else _valid_proxy(proxy)

        def changed(row: AccountEntryRow) -> AccountEntryRow:
            row = row if label is None else replace(row, label=label)
            return row if own is None else replace(row, proxy=own or None)

        return self._change(account.id, changed, "account_changed")

    def remove(self, name: str) -> AccountStatus:
        """Deletes the account and its tokens. Returns what it was. Its conversations are lost unless their clients
        send the history. Raises InSettings: it stands in KIMI_TOKENS."""
        account = self._find(name)
        if account.in_settings:
            raise _in_settings(account)
        status = self._statuses([account])[0]

        def work(tx: Transaction) -> None:
            self._store.account_entries.delete_in(tx, account.id, self._store.database.now())
            self._store.tokens.delete_in(tx, account.id)
            self._store.uploads.delete_in(tx, account.id)

        self._store.database.in_exclusive_transaction(work)
        log.info("account_removed account=%s label=%r", account.id, account.label)
        self._changed()
        return status

    # How

    def _find(self, name: str) -> DeclaredAccount:
        self._registry.look()
        accounts = self._registry.accounts
        found = accounts.get(name) or next((a for a in accounts.values() if a.label == name), None)
        if found is None:
            names = ", ".join(f"'{account.label}'" for account in accounts.values()) or "none"
            raise UnknownAccount(f"there is no account called '{name[:64]}'; there is {names}", name=name[:64])
        return found

    def _put(self, tx: Transaction, c: Credential, proxy: str | None, free: Iterator[str]) -> None:
        entries, now = self._store.account_entries, self._store.database.now()
        found, settings = entries.find_in(tx, c.id), self._registry.settings.get(c.id)
        label = c.label or (found.label if found is not None else "") or (settings.label if settings else next(free))
        self._check_label(tx, c.id, label)
        if proxy is None and found is not None:
            _check_readable(found)
        row = AccountEntryRow(
            account_id=c.id,
            # That of KIMI_TOKENS counts where it stands there.
            label=label if _LABEL.fullmatch(label) else next(free),
            source=c.source,
            settings_seen=(settings.source,) if settings is not None else (),
            tokens=c.secrets,
            site=c.site.base_url if c.site is not None else None,
            proxy=(found.proxy if found is not None else None) if proxy is None else proxy or None,
            added_at=now,
            paused_at=found.paused_at if found is not None else None,
        )
        entries.put_in(tx, row, now)
        if c.refresh_token is not None:
            self._store.tokens.begin_in(tx, c.id, c.source, c.access_token, c.refresh_token, c.expires_at, now)
        else:
            self._store.tokens.delete_in(tx, c.id)

    def _change(self, name: str, change: Callable[[AccountEntryRow], AccountEntryRow], event: str) -> AccountStatus:
        account = self._find(name)

        def work(tx: Transaction) -> None:
            entries = self._store.account_entries
            row = entries.find_in(tx, account.id)
            if row is None:
                if not account.in_settings:
                    raise UnknownAccount(f"'{account.label}' was removed meanwhile", name=account.label)
                row = AccountEntryRow(account.id, "", None, (), (), None, None, None, None)
            _check_readable(row)
            changed = change(row)
            if changed.label != row.label:
                self._check_label(tx, account.id, changed.label)
            now = self._store.database.now()
            if changed.source is None and changed.paused_at is None and changed.proxy is None:
                # Nothing is left to be said of an account of KIMI_TOKENS.
                entries.delete_in(tx, account.id, now)
            elif changed != row:
                entries.put_in(tx, changed, now)

        self._store.database.in_exclusive_transaction(work)
        log.info("%s account=%s label=%r", event, account.id, account.label)
        self._changed()
        return self.find(account.id)

    def _changed(self) -> None:
        self._registry.look()
        self._after_change()

    def _check_label(self, tx: Transaction, account_id: str, label: str) -> None:
        in_settings = [c.id for c in self._registry.settings.values() if c.label == label]
        if set(in_settings + self._store.account_entries.labelled_in(tx, label)) - {account_id}:
            raise LabelTaken(f"there is an account called '{label}' already", label=label)

    def _free_labels(self) -> Iterator[str]:
        used = {account.label for account in self._registry.accounts.values()}
        number = len(used)
        while True:
            number += 1
            label = f"account-{number}"
            if label not in used:
                yield label

    def _statuses(self, accounts: Sequence[DeclaredAccount]) -> list[AccountStatus]:
        now = self._store.database.now()
        states = {state.account_id: state for state in self._store.tokens.states([a.id for a in accounts])}
        unreadable = self._decrypt(states)
        facts = self._facts(now)
        return [
            self._status(
                a, states.get(a.id), facts.get(a.id) or _Facts(), readable=a.is_readable and a.id not in unreadable
            )
            for a in accounts
        ]

    def _decrypt(self, states: dict[str, TokenState]) -> set[str]:
        """Decrypts the pairs that have changed. Returns the accounts whose pair cannot be read."""
        changed = []
        for state in states.values():
            known = self._pairs.get(state.account_id)
            if known is None or not state.is_of(known):
                changed.append(state.account_id)
        rows, unreadable = self._store.tokens.find_all(changed) if changed else ([], [])
        self._pairs.update({row.account_id: row for row in rows})
        for account_id in unreadable:
            self._pairs.pop(account_id, None)
        return set(unreadable)

    def _facts(self, now: float) -> dict[str, _Facts]:
        facts: dict[str, _Facts] = {}
        for row in self._store.accounts.all():
            facts[row["id"]] = _Facts(streams=row["streams"])
        tokens = {account.id: account.credential.source for account in self._registry.accounts.values()}
        whole = [(id_, WHOLE_ACCOUNT, one) for id_, one in self._store.accounts.cooldowns(tokens, now).items()]
        for account_id, scope, one in [*whole, *self._store.accounts.model_cooldowns(now)]:
            if account_id in facts:
                cooldown = ScopedCooldown(scope, one.until, one.failures, one.cause)
                facts[account_id].cooldowns.append(cooldown)
        for row in self._store.pending_deletions.by_account():
            found = facts.setdefault(row["account_id"], _Facts())
            found.pending_deletions, found.oldest_deletion_due_at = row["chats"], row["oldest"]
        return facts

    def _status(
        self, account: DeclaredAccount, state: TokenState | None, facts: _Facts, *, readable: bool
    ) -> AccountStatus:
        c = account.credential
        pair = self._pairs.get(account.id) if state is not None and account.is_renewable else None
        access = pair.access_token if pair is not None else c.access_token
        refresh = pair.refresh_token if pair is not None else c.refresh_token
        if account.paused_at is not None:
            standing = Standing("paused", account.id, account.label, since=account.paused_at)
        elif not readable:
            standing = Standing("sealed", account.id, account.label, said=SEALED_BY_ANOTHER)
        else:
            whole = next((one.cooldown for one in facts.cooldowns if one.scope == WHOLE_ACCOUNT), None)
            standing = standing_of(c, pair, whole)
        of_models = [model_standing(c, one.scope, one.cooldown) for one in facts.cooldowns if one.scope]
        return AccountStatus(
            id=account.id,
            label=account.label,
            site=account.site.name,
            in_settings=account.in_settings,
            token_from=account.token_from,
            added_at=account.added_at,
            paused_at=account.paused_at,
            proxy=without_password(account.own_proxy or ""),
            level=describe_level(access or refresh),
            renewable=account.is_renewable,
            has_access_token=access is not None,
            access_expires_at=pair.expires_at if pair is not None else c.expires_at,
            login_ends_at=read_expiry(refresh) if refresh else None,
            renews_at=renews_at(pair) if pair is not None else None,
            renewing=state is not None and state.is_wanted,
            revoked=state is not None and account.is_renewable and state.revoked,
            last_error=(state.last_error or "") if state is not None and account.is_renewable else "",
            readable=readable,
            rejected=any(one.cause == REJECTED for one in facts.cooldowns),
            cooldowns=tuple(facts.cooldowns),
            standings=(standing, *of_models),
            streams=facts.streams,
            capacity=self._capacity,
            pending_deletions=facts.pending_deletions,
            oldest_deletion_due_at=facts.oldest_deletion_due_at,
        )


def _in_settings(account: DeclaredAccount) -> InSettings:
    return InSettings(
        f"'{account.label}' stands in KIMI_TOKENS: take it out or rename it there and restart", label=account.label
    )


def _check_readable(row: AccountEntryRow) -> None:
    if not row.is_readable:
        raise Unreadable("another GATEWAY_SECRET has sealed this account: set that one, or add the account again")


def _valid_label(label: str) -> str:
    if not _LABEL.fullmatch(label):
        raise LabelInvalid("expected 1 to 32 of the characters A-Z a-z 0-9 . _ -", label=label[:64])
    return label


def _valid_proxy(proxy: str) -> str:
    try:
        return proxy_url(proxy)
    except ValueError as e:
        raise ProxyInvalid(str(e), reason=str(e)) from None
