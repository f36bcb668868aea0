"""What was said about accounts by command or in the console: accounts that were added, pauses, proxies.

Tokens and proxies are sealed by ``vault``. Knows neither KIMI_TOKENS nor whose word counts: that is for
``accounts.registry``.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import per_dialect
from app.store.tables import account_entries, cache
from app.store.vault import Vault, WrongSecret

# The name of the value in ``cache`` that is another one after each change of this table.
_REVISION = "account-entries-revision"


@dataclass(frozen=True, slots=True)
class AccountEntryRow:
    """An entry, decrypted. ``tables.account_entries`` describes the fields.

    ``tokens``: as they were added; empty if none were. ``is_readable``: False if another secret has sealed it;
    ``tokens`` and ``proxy`` are then empty.
    """

    account_id: str
    label: str
    source: str | None = field(repr=False)
    settings_seen: Sequence[str] = field(repr=False)
    tokens: Sequence[str] = field(repr=False)
    site: str | None
    proxy: str | None = field(repr=False)
    added_at: float | None
    paused_at: float | None
    version: str = ""
    is_readable: bool = True


_P = sa.bindparam

_ALL = sa.select(*account_entries.c).order_by(account_entries.c.added_at, account_entries.c.account_id)
_FIND = sa.select(*account_entries.c).where(account_entries.c.account_id == _P("of_id"))
_LABELLED = sa.select(account_entries.c.account_id).where(account_entries.c.label == _P("of_label"))
_PUT = per_dialect(
    lambda insert: (
        insert(account_entries)
        .values({column: _P(column.name) for column in account_entries.c})
        .on_conflict_do_update(
            index_elements=["account_id"],
            set_={column: _P(column.name) for column in account_entries.c if column.name != "account_id"},
        )
    )
)
_DELETE = sa.delete(account_entries).where(account_entries.c.account_id == _P("of_id"))
_SEAL = (
    sa.update(account_entries)
    .where(account_entries.c.account_id == _P("of_id"), account_entries.c.version == _P("of_version"))
    .values(login=_P("login"), proxy=_P("proxy"))
)
_FIND_REVISION = sa.select(cache.c.value).where(cache.c.name == _REVISION)
_SET_REVISION = per_dialect(
    lambda insert: (
        insert(cache)
        .values(name=_REVISION, value=_P("value"), kept_at=_P("now"))
        .on_conflict_do_update(index_elements=["name"], set_={"value": _P("value"), "kept_at": _P("now")})
    )
)


class AccountEntryRows:
    """The table ``account_entries``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        """Raises WrongSecret: if a sealed entry cannot be opened."""
        self._database = database
        self._vault = vault
        for row in database.rows(_ALL):
            vault.open(row["login"])
            vault.open(row["proxy"])

    def revision(self) -> str:
        """Another text after each change of any entry."""
        row = self._database.row(_FIND_REVISION)
        return "" if row is None else str(row["value"])

    def all(self, known: Mapping[str, AccountEntryRow] | None = None) -> list[AccountEntryRow]:
        """All entries, in the order in which they were added. ``known``: entries by account id that need not be
        decrypted again if they have not changed.
        """
        return [self._opened(row, (known or {}).get(row["account_id"])) for row in self._database.rows(_ALL)]

    def find_in(self, tx: Transaction, account_id: str) -> AccountEntryRow | None:
        row = tx.row(_FIND, of_id=account_id)
        return None if row is None else self._opened(row)

    def labelled_in(self, tx: Transaction, label: str) -> list[str]:
        """The ids of the accounts that have this label."""
        return [row["account_id"] for row in tx.rows(_LABELLED, of_label=label)]

    def put_in(self, tx: Transaction, row: AccountEntryRow, now: float) -> None:
        """Adds the entry, or replaces the one of this account. Its version is a new one."""
        assert row.is_readable, "what cannot be read cannot be written again"
        values: dict[str, Any] = {
            "account_id": row.account_id,
            "label": row.label,
            "source": row.source,
            "settings_seen": json.dumps(list(row.settings_seen)),
            "login": self._vault.seal(json.dumps(list(row.tokens))) if row.tokens else None,
            "site": row.site,
            "proxy": self._vault.seal(row.proxy),
            "added_at": row.added_at,
            "paused_at": row.paused_at,
        }
        tx.run(_PUT, **values, version=uuid.uuid4().hex)
        self._changed(tx, now)

    def delete_in(self, tx: Transaction, account_id: str, now: float) -> bool:
        """False if there is none."""
        deleted = tx.run(_DELETE, of_id=account_id) > 0
        if deleted:
            self._changed(tx, now)
        return deleted

    def seal(self) -> None:
        """Seals the entries that were stored before GATEWAY_SECRET was set."""
        if not self._vault.seals:
            return
        for row in self._database.rows(_ALL):
            login, proxy = self._vault.open(row["login"]), self._vault.open(row["proxy"])
            if (login, proxy) != (None, None) and (login == row["login"] or proxy == row["proxy"]):
                sealed = {"login": self._vault.seal(login), "proxy": self._vault.seal(proxy)}
                self._database.run(_SEAL, of_id=row["account_id"], of_version=row["version"], **sealed)

    def _changed(self, tx: Transaction, now: float) -> None:
        tx.run(_SET_REVISION, value=uuid.uuid4().hex, now=now)

    def _opened(self, row: Row, known: AccountEntryRow | None = None) -> AccountEntryRow:
        if known is not None and known.version == row["version"]:
            return known
        try:
            login, proxy, is_readable = self._vault.open(row["login"]), self._vault.open(row["proxy"]), True
        except WrongSecret:
            login, proxy, is_readable = None, None, False
        return AccountEntryRow(
            account_id=row["account_id"],
            label=row["label"],
            source=row["source"],
            settings_seen=tuple(json.loads(row["settings_seen"])),
            tokens=tuple(json.loads(login)) if login else (),
            site=row["site"],
            proxy=proxy,
            added_at=row["added_at"],
            paused_at=row["paused_at"],
            version=row["version"],
            is_readable=is_readable,
        )
