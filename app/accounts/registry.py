"""Which accounts there are: those of KIMI_TOKENS and those that were added by command or in the console.

An account is a Kimi user, wherever its token stands. If a token of the same user stands in both places, the last
change counts: an entry in the store notes the digests of the tokens that gateways had in KIMI_TOKENS when they
learned of it. A gateway that starts with another one was given it later. Knows neither how a token is used nor
whether it works.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from app import logs
from app.settings.credentials import Credential, credential_of
from app.settings.parsers import passwords_in
from app.settings.sites import Site, site_at
from app.store import AccountEntryRow, Store, TokenRow, Transaction
from app.upstreams.account import Account

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeclaredAccount:
    """``proxy``: what its requests go through, see ``Account.proxy``; ``own_proxy``: the same, if it is not that of
    the settings. ``in_settings``: it stands in KIMI_TOKENS. ``token_from``: which of its two tokens counts.
    ``is_readable``: False if another GATEWAY_SECRET has sealed its token, which is then missing.
    """

    credential: Credential
    site: Site
    proxy: str = field(default="", repr=False)
    own_proxy: str | None = field(default=None, repr=False)
    in_settings: bool = True
    token_from: Literal["settings", "added"] = "settings"
    added_at: float | None = None
    paused_at: float | None = None
    is_readable: bool = True

    @property
    def id(self) -> str:
        return self.credential.id

    @property
    def label(self) -> str:
        return self.credential.label

    @property
    def is_renewable(self) -> bool:
        return self.credential.refresh_token is not None


def account_of(c: Credential, site: Site, proxy: str, row: TokenRow | None = None) -> Account:
    """As it is used for a request. ``row``: its newest pair of tokens, if it has a refresh token."""
    token, expires_at = (row.access_token, row.expires_at) if row is not None else (c.access_token, c.expires_at)
    return Account(
        c.id,
        c.label,
        token or "",
        expires_at,
        row is not None,
        c.user_id,
        c.device_id,
        c.session_id,
        site.name,
        site.base_url,
        proxy,
    )


class Registry:
    """All accounts, as this process knows them. Safe for threads."""

    def __init__(
        self,
        settings: Sequence[Credential],
        site_of: Callable[[Credential], Site],
        store: Store,
        *,
        proxy: str = "",
        settles: bool = True,
        label_of: Callable[[str], str] = str,
    ) -> None:
        """``settings``: those of KIMI_TOKENS. ``site_of``: where an account lives. ``proxy``: KIMI_PROXY.
        ``settles``: a changed KIMI_TOKENS replaces tokens that were added before; a command that only looks leaves
        them. ``label_of``: what an account is called here that was added under a name. Raises StoreError.
        """
        self._settings = {credential.id: credential for credential in settings}
        self._site_of = site_of
        self._store = store
        self.proxy = proxy
        self._label_of = label_of
        self.settles = settles
        self._entries: dict[str, AccountEntryRow] = {}
        # Of the entries that are known; None: they were not read yet.
        self._revision: str | None = None
        self._accounts: Mapping[str, DeclaredAccount] = {}
        self._lock = threading.Lock()
        if settles:
            self._replace_older_tokens()
        self.look()

    @property
    def accounts(self) -> Mapping[str, DeclaredAccount]:
        """By their ids: those of KIMI_TOKENS first, in its order. A mapping that never changes: after a change there
        is another one."""
        return self._accounts

    @property
    def settings(self) -> Mapping[str, Credential]:
        """What stands in KIMI_TOKENS, by the ids of the accounts."""
        return self._settings

    def look(self) -> bool:
        """Learns what was changed in the store. Returns whether something was. Raises StoreError."""
        with self._lock:
            revision = self._store.account_entries.revision()
            if revision == self._revision:
                return False
            rows = self._store.account_entries.all(self._entries)
            self._entries = {row.account_id: row for row in rows}
            self._accounts = self._merged(rows)
        logs.learn_secrets(_secrets(rows))
        for row in rows:
            if not row.is_readable:
                log.warning(
                    "account_unreadable account=%s label=%r: another GATEWAY_SECRET", row.account_id, row.label
                )
        if self.settles:
            self._note_settings(rows)
        # At last: what has failed is done again.
        self._revision = revision
        return True

    def _merged(self, rows: Sequence[AccountEntryRow]) -> dict[str, DeclaredAccount]:
        found: dict[str, DeclaredAccount] = {}
        for credential in self._settings.values():
            row = self._entries.get(credential.id)
            found[credential.id] = self._declared(credential, row)
        labels = {account.label for account in found.values()}
        for row in rows:
            if row.account_id in found or row.source is None:
                continue
            label = self._label_of(row.label)
            while label in labels:
                # KIMI_TOKENS has another account of this name.
                label += "-2"
            labels.add(label)
            found[row.account_id] = self._declared(None, replace(row, label=label))
        return found

    def _declared(self, credential: Credential | None, row: AccountEntryRow | None) -> DeclaredAccount:
        """``credential``: what stands in KIMI_TOKENS. ``row``: the entry. One of them may be missing."""
        if row is None:
            assert credential is not None
            return DeclaredAccount(credential, self._site_of(credential), self.proxy)
        flags = replace(
            _NO_FLAGS,
            proxy=self.proxy if row.proxy is None else row.proxy,
            own_proxy=row.proxy,
            in_settings=credential is not None,
            added_at=row.added_at,
            paused_at=row.paused_at,
        )
        if row.source is None or (credential is not None and self._is_newer(credential, row)):
            assert credential is not None
            return replace(flags, credential=credential, site=self._site_of(credential), added_at=None)
        label = row.label if credential is None else credential.label
        site = site_at(row.site) if row.site else None
        added = credential_of(row.tokens, label, site) if row.tokens else Credential(row.account_id, label, site=site)
        return replace(
            flags, credential=added, site=self._site_of(added), token_from="added", is_readable=row.is_readable
        )

    def _is_newer(self, credential: Credential, row: AccountEntryRow) -> bool:
        """Whether KIMI_TOKENS was changed after the entry. One that settles has replaced such entries before."""
        return not self.settles and credential.source not in row.settings_seen

    def _replace_older_tokens(self) -> None:
        """Takes out of the store what was added before KIMI_TOKENS was changed."""
        for row in self._store.account_entries.all():
            credential = self._settings.get(row.account_id)
            if credential is None or row.source is None or credential.source in row.settings_seen:
                continue
            log.info("account_token_replaced account=%s label=%r by=KIMI_TOKENS", credential.id, credential.label)

            def work(tx: Transaction, row: AccountEntryRow = row, credential: Credential = credential) -> None:
                now = self._store.database.now()
                found = self._store.account_entries.find_in(tx, row.account_id)
                if found is None or found.source != row.source or credential.source in found.settings_seen:
                    return
                if found.paused_at is None and found.proxy is None:
                    self._store.account_entries.delete_in(tx, row.account_id, now)
                    return
                kept = replace(found, label="", source=None, settings_seen=(), tokens=(), site=None, added_at=None)
                self._store.account_entries.put_in(tx, kept, now)

            self._store.database.in_exclusive_transaction(work)

    def _note_settings(self, rows: Sequence[AccountEntryRow]) -> None:
        """Notes what KIMI_TOKENS has for accounts whose token was added meanwhile: it was there before."""
        for row in rows:
            credential = self._settings.get(row.account_id)
            if credential is None or row.source is None or credential.source in row.settings_seen:
                continue
            if not row.is_readable:
                continue

            def work(tx: Transaction, row: AccountEntryRow = row, digest: str = credential.source) -> None:
                found = self._store.account_entries.find_in(tx, row.account_id)
                if found is not None and found.source == row.source and digest not in found.settings_seen:
                    seen = (*found.settings_seen, digest)
                    now = self._store.database.now()
                    self._store.account_entries.put_in(tx, replace(found, settings_seen=seen), now)

            self._store.database.in_exclusive_transaction(work)


_NO_FLAGS = DeclaredAccount(Credential("", ""), site_at("https://www.kimi.com"))


def _secrets(rows: Iterable[AccountEntryRow]) -> list[str]:
    passwords = [password for row in rows if row.proxy for password in passwords_in(row.proxy)]
    return [*(token for row in rows for token in row.tokens), *passwords]
