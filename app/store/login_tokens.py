"""The newest token pair of each renewable account, sealed by ``vault``, and which process may refresh it.

Must never know how or when a token is refreshed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import listed, one_of, per_dialect
from app.store.tables import tokens
from app.store.vault import Vault, WrongSecret


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The newest token pair of an account, decrypted. ``tables.tokens`` describes the fields.

    ``last_error``: why the last refresh failed, None after a success. ``revoked``: Kimi refuses the refresh token.
    """

    account_id: str
    source: str = field(repr=False)
    version: int
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: float | None
    last_error: str | None
    revoked: bool
    holder: str
    held_until: float
    stored_at: float | None = None


@dataclass(frozen=True, slots=True)
class TokenState:
    """A pair without its tokens. ``is_wanted``: its refresh was asked for and has not ended."""

    account_id: str
    source: str
    version: int
    last_error: str | None
    revoked: bool
    is_wanted: bool

    def is_of(self, row: TokenRow) -> bool:
        """Whether the row, which was read before, is still what it was."""
        return (row.source, row.version, row.last_error, row.revoked) == (
            self.source,
            self.version,
            self.last_error,
            self.revoked,
        )


@dataclass(frozen=True, slots=True)
class WantedRefresh:
    """A refresh that was asked for. ``login``: see ``TokenRows.want``; None if this process cannot read it."""

    account_id: str
    version: int
    login: str | None = field(repr=False)


_P = sa.bindparam

# Columns whose names differ from TokenRow's.
_NEW_NAMES = {"trouble": "last_error", "dead": "revoked"}
_COLUMNS = [
    column.label(_NEW_NAMES.get(column.name, column.name))
    for column in tokens.c
    if column.name not in ("wanted", "wanted_of", "login")
]

_BEGIN = per_dialect(
    lambda insert: (
        insert(tokens)
        .values(
            account_id=_P("account_id"),
            source=_P("source"),
            version=1,
            access_token=_P("access_token"),
            refresh_token=_P("refresh_token"),
            expires_at=_P("expires_at"),
            dead=sa.false(),
            holder="",
            held_until=0.0,
            stored_at=_P("now"),
        )
        .on_conflict_do_update(
            index_elements=["account_id"],
            set_={
                "source": _P("source"),
                "version": tokens.c.version + 1,
                "access_token": _P("access_token"),
                "refresh_token": _P("refresh_token"),
                "expires_at": _P("expires_at"),
                "trouble": None,
                "dead": sa.false(),
                "holder": "",
                "held_until": 0.0,
                "stored_at": _P("now"),
            },
            where=tokens.c.source != _P("source"),
        )
    )
)

_FIND = sa.select(*_COLUMNS).where(tokens.c.account_id == _P("of_id"))
_ALL = sa.select(*_COLUMNS)
_SOME = _ALL.where(one_of(tokens.c.account_id, "ids"))
_IS_WANTED = sa.and_(tokens.c.wanted == tokens.c.version, tokens.c.dead == sa.false())
_STATES = sa.select(
    tokens.c.account_id,
    tokens.c.source,
    tokens.c.version,
    tokens.c.trouble.label("last_error"),
    tokens.c.dead.label("revoked"),
    _IS_WANTED.label("is_wanted"),
).where(one_of(tokens.c.account_id, "ids"))
_WANTED = sa.select(tokens.c.account_id, tokens.c.version, tokens.c.login).where(
    _IS_WANTED, tokens.c.wanted_of == _P("role")
)
_WANT = (
    sa.update(tokens)
    .where(
        tokens.c.account_id == _P("of_id"),
        tokens.c.version == _P("of_version"),
        tokens.c.dead == sa.false(),
        sa.or_(
            tokens.c.wanted != _P("of_version"),
            # Another process was asked, and does not refresh it: it cannot, or its machine is away.
            sa.and_(tokens.c.wanted_of != _P("role"), tokens.c.held_until <= _P("now")),
        ),
    )
    .values(wanted=_P("of_version"), wanted_of=_P("role"), login=_P("login"))
)
_DELETE = sa.delete(tokens).where(tokens.c.account_id == _P("of_id"))
_ACQUIRE = (
    sa.update(tokens)
    .where(
        tokens.c.account_id == _P("of_id"),
        tokens.c.version == _P("of_version"),
        tokens.c.dead == sa.false(),
        # The same holder again: its first attempt was committed, but the connection was lost before the result.
        sa.or_(tokens.c.held_until <= _P("now"), tokens.c.holder == _P("holder")),
    )
    .values(holder=_P("holder"), held_until=_P("until"))
    .returning(*_COLUMNS)
)
_EXTEND = (
    sa.update(tokens)
    .where(tokens.c.account_id == _P("of_id"), tokens.c.holder == _P("of_holder"), tokens.c.held_until > 0)
    .values(held_until=_P("until"))
)
_OF_VERSION = (tokens.c.account_id == _P("of_id"), tokens.c.version == _P("of_version"))
_SAVE = (
    sa.update(tokens)
    .where(
        tokens.c.account_id == _P("of_id"),
        sa.or_(
            tokens.c.version == _P("of_version"),
            # The same pair again: the first attempt was committed, but the connection was lost before the result.
            sa.and_(tokens.c.version == _P("version"), tokens.c.refresh_token == _P("refresh_token")),
        ),
    )
    .values(
        version=_P("version"),
        access_token=_P("access_token"),
        refresh_token=_P("refresh_token"),
        expires_at=_P("expires_at"),
        trouble=None,
        dead=sa.false(),
        held_until=0.0,
        login=None,
        stored_at=_P("now"),
    )
)
_SAVE_ERROR = (
    sa.update(tokens)
    .where(*_OF_VERSION)
    .values(trouble=_P("trouble"), dead=_P("dead"), held_until=0.0, wanted=0, login=None)
)
_RESTORE = (
    sa.update(tokens).where(tokens.c.account_id == _P("of_id"), tokens.c.dead).values(trouble=None, dead=sa.false())
)
_SEAL = (
    sa.update(tokens)
    .where(*_OF_VERSION)
    # A refresh that was asked for is asked for again.
    .values(access_token=_P("access_token"), refresh_token=_P("refresh_token"), wanted=0, login=None)
)


class TokenRows:
    """The table ``tokens``."""

    def __init__(self, database: Database, vault: Vault) -> None:
        """Raises WrongSecret: if a sealed token cannot be opened."""
        self._database = database
        self._vault = vault
        for row in database.rows(_ALL):
            self._opened(row)

    @property
    def sealed(self) -> bool:
        """Whether tokens are encrypted."""
        return self._vault.seals

    def begin(
        self,
        account_id: str,
        source: str,
        access_token: str | None,
        refresh_token: str | None,
        expires_at: float | None,
    ) -> None:
        """Starts a new chain of token pairs, unless the stored chain started with the same ``source``."""
        now = self._database.now()
        self._database.with_retries(
            lambda tx: self.begin_in(tx, account_id, source, access_token, refresh_token, expires_at, now)
        )

    def begin_in(
        self,
        tx: Transaction,
        account_id: str,
        source: str,
        access_token: str | None,
        refresh_token: str | None,
        expires_at: float | None,
        now: float,
    ) -> None:
        """``begin`` as a part of a transaction."""
        pair = self._sealed(access_token, refresh_token)
        tx.run(_BEGIN, account_id=account_id, source=source, expires_at=expires_at, now=now, **pair)

    def delete_in(self, tx: Transaction, account_id: str) -> None:
        """Deletes the chain of an account, as a part of a transaction."""
        tx.run(_DELETE, of_id=account_id)

    def seal(self) -> None:
        """Seals the pairs that were stored before GATEWAY_SECRET was set.

        Only the gateway may call this. A command may have the secret while the gateway still runs without it.
        """
        for row in self._database.rows(_ALL):
            opened = self._opened(row)
            if self._vault.seals and opened is not None and opened.refresh_token == row["refresh_token"]:
                pair = self._sealed(row["access_token"], row["refresh_token"])
                self._database.run(_SEAL, of_id=row["account_id"], of_version=row["version"], **pair)

    def find(self, account_id: str) -> TokenRow | None:
        """Raises WrongSecret: if another process has sealed the pair with another secret."""
        return self._opened(self._database.row(_FIND, of_id=account_id))

    def find_all(self, account_ids: Sequence[str]) -> tuple[list[TokenRow], list[str]]:
        """The pairs of those of these accounts that have one, and the ids of the accounts whose pair another secret
        has sealed."""
        found, unreadable = [], []
        for row in self._database.rows(_SOME, ids=listed(account_ids)):
            try:
                opened = self._opened(row)
            except WrongSecret:
                unreadable.append(row["account_id"])
            else:
                assert opened is not None
                found.append(opened)
        return found, unreadable

    def states(self, account_ids: Sequence[str]) -> list[TokenState]:
        """Of those of these accounts that have a pair."""
        # SQLite has no booleans of its own.
        return [
            TokenState(**{**row, "revoked": bool(row["revoked"]), "is_wanted": bool(row["is_wanted"])})
            for row in self._database.rows(_STATES, ids=listed(account_ids))
        ]

    def want(self, account_id: str, version: int, role: str, login: str) -> None:
        """Asks the process that has this role for the refresh of this version of the pair, if it is the newest one
        and not revoked, and unless another process is just refreshing it. ``login``: what the process has to know of
        the account; it is sealed.
        """
        values = {"role": role, "login": self._vault.seal(login), "now": self._database.now()}
        self._database.run(_WANT, of_id=account_id, of_version=version, **values)

    def wanted(self, role: str) -> list[WantedRefresh]:
        """The refreshes that the process with this role was asked for."""
        return [
            WantedRefresh(row["account_id"], row["version"], self._readable(row["login"]))
            for row in self._database.rows(_WANTED, role=role)
        ]

    def acquire(self, account_id: str, version: int, holder: str, now: float, until: float) -> TokenRow | None:
        """Acquires the right to refresh this version of the pair.

        None if another process has it, if the pair is revoked, or if there is a newer one.
        """
        values = {"of_id": account_id, "of_version": version, "holder": holder, "now": now, "until": until}
        return self._opened(self._database.row(_ACQUIRE, **values))

    def extend(self, account_id: str, holder: str, until: float) -> None:
        """Extends the right of ``holder`` to refresh until ``until``, unless the holder has given it back."""
        self._database.run(_EXTEND, of_id=account_id, of_holder=holder, until=until)

    def save(
        self, account_id: str, version: int, access_token: str, refresh_token: str, expires_at: float | None
    ) -> bool:
        """Replaces ``version`` of the pair by the next version, and gives back the right to refresh.

        Returns False if another pair has already replaced it.
        """
        pair = self._sealed(access_token, refresh_token)
        which = {"of_id": account_id, "of_version": version}
        changed = {"version": version + 1, "expires_at": expires_at, "now": self._database.now()}
        return self._database.run(_SAVE, **which, **changed, **pair) > 0

    def save_error(self, account_id: str, version: int, error: str, revoked: bool) -> None:
        """Stores that the refresh of ``version`` failed, and gives back the right to refresh."""
        self._database.run(_SAVE_ERROR, of_id=account_id, of_version=version, trouble=error, dead=revoked)

    def restore(self, account_id: str) -> bool:
        """A refresh token that Kimi has refused is tried again. False if there is none."""
        return self._database.run(_RESTORE, of_id=account_id) > 0

    def _sealed(self, access_token: str | None, refresh_token: str | None) -> dict[str, str | None]:
        return {"access_token": self._vault.seal(access_token), "refresh_token": self._vault.seal(refresh_token)}

    def _readable(self, text: str | None) -> str | None:
        try:
            return self._vault.open(text)
        except WrongSecret:
            return None

    def _opened(self, row: Row | None) -> TokenRow | None:
        if row is None:
            return None
        opened: dict[str, Any] = {name: self._vault.open(row[name]) for name in ("access_token", "refresh_token")}
        # SQLite has no booleans of its own.
        return TokenRow(**{**row, **opened, "revoked": bool(row["revoked"])})
