"""The newest token pairs of the accounts that are refreshed, sealed by ``vault``, and who may refresh them.

Must never know how or when a token is refreshed.
"""

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Row
from app.store.dialects import per_dialect
from app.store.tables import tokens
from app.store.vault import Vault


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The newest pair of an account that is refreshed, opened; see ``tables.tokens`` for the fields."""

    account_id: str
    source: str = field(repr=False)
    version: int
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: float | None
    trouble: str | None
    dead: bool
    holder: str
    held_until: float


_P = sa.bindparam

_PUT = per_dialect(
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
            },
            where=tokens.c.source != _P("source"),
        )
    )
)

_FIND = sa.select(*tokens.c).where(tokens.c.account_id == _P("of_id"))
_ALL = sa.select(*tokens.c)
_HOLD = (
    sa.update(tokens)
    .where(
        tokens.c.account_id == _P("of_id"),
        tokens.c.version == _P("of_version"),
        tokens.c.dead == sa.false(),
        # The holder itself: where its first attempt was done and only the word of it was lost.
        sa.or_(tokens.c.held_until <= _P("now"), tokens.c.holder == _P("holder")),
    )
    .values(holder=_P("holder"), held_until=_P("until"))
    .returning(*tokens.c)
)
_RENEW = (
    sa.update(tokens)
    .where(
        tokens.c.account_id == _P("of_id"),
        tokens.c.holder == _P("of_holder"),
        tokens.c.held_until > 0,
    )
    .values(held_until=_P("until"))
)
_THIS_PAIR = (tokens.c.account_id == _P("of_id"), tokens.c.version == _P("of_version"))
_SAVE = (
    sa.update(tokens)
    .where(
        tokens.c.account_id == _P("of_id"),
        sa.or_(
            tokens.c.version == _P("of_version"),
            # Done by a first attempt, and only the word of it was lost.
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
    )
)
_SAVE_TROUBLE = sa.update(tokens).where(*_THIS_PAIR).values(trouble=_P("trouble"), dead=_P("dead"), held_until=0.0)
_SEAL = (
    sa.update(tokens).where(*_THIS_PAIR).values(access_token=_P("access_token"), refresh_token=_P("refresh_token"))
)


class TokenRows:
    """The table of token pairs."""

    def __init__(self, database: Database, vault: Vault) -> None:
        """Raises WrongSecret where a sealed token cannot be opened."""
        self._database = database
        self._vault = vault
        for row in database.rows(_ALL):
            self._opened(row)

    @property
    def sealed(self) -> bool:
        return self._vault.seals

    def put(
        self,
        account_id: str,
        source: str,
        access_token: str | None,
        refresh_token: str | None,
        expires_at: float | None,
    ) -> None:
        """Begins a chain of tokens, unless the one that is there began with the same ``source``."""
        pair = self._sealed(access_token, refresh_token)
        self._database.run(_PUT, account_id=account_id, source=source, expires_at=expires_at, **pair)

    def seal(self) -> None:
        """Seals what is there from before there was a secret: for those who run the gateway, not for those who look
        at its database while it runs without that secret."""
        for row in self._database.rows(_ALL):
            opened = self._opened(row)
            if self._vault.seals and opened is not None and opened.refresh_token == row["refresh_token"]:
                pair = self._sealed(row["access_token"], row["refresh_token"])
                self._database.run(_SEAL, of_id=row["account_id"], of_version=row["version"], **pair)

    def find(self, account_id: str) -> TokenRow | None:
        """Raises WrongSecret where another process has sealed it with a secret that this one does not have."""
        return self._opened(self._database.row(_FIND, of_id=account_id))

    def hold(self, account_id: str, version: int, holder: str, now: float, until: float) -> TokenRow | None:
        """The right to refresh this version; None where another has it, or the pair is dead or no longer newest."""
        values = {"of_id": account_id, "of_version": version, "holder": holder, "now": now, "until": until}
        return self._opened(self._database.row(_HOLD, **values))

    def renew_hold(self, account_id: str, holder: str, until: float) -> None:
        self._database.run(_RENEW, of_id=account_id, of_holder=holder, until=until)

    def save(
        self, account_id: str, version: int, access_token: str, refresh_token: str, expires_at: float | None
    ) -> bool:
        """Puts the next pair in the place of ``version`` and ends the hold; False where another pair is there."""
        pair = self._sealed(access_token, refresh_token)
        which = {"of_id": account_id, "of_version": version}
        return self._database.run(_SAVE, **which, version=version + 1, expires_at=expires_at, **pair) > 0

    def save_trouble(self, account_id: str, version: int, trouble: str, dead: bool) -> None:
        """The refresh of ``version`` failed; its hold ends."""
        self._database.run(_SAVE_TROUBLE, of_id=account_id, of_version=version, trouble=trouble, dead=dead)

    def _sealed(self, access_token: str | None, refresh_token: str | None) -> dict[str, str | None]:
        return {"access_token": self._vault.seal(access_token), "refresh_token": self._vault.seal(refresh_token)}

    def _opened(self, row: Row | None) -> TokenRow | None:
        if row is None:
            return None
        opened: dict[str, Any] = {name: self._vault.open(row[name]) for name in ("access_token", "refresh_token")}
        # SQLite has no booleans of its own.
        return TokenRow(**{**row, **opened, "dead": bool(row["dead"])})
