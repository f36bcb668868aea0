"""The database: what several workers must agree on, and what must survive them.

Knows SQL and its migrations. Must never know policy: what is fresh, who is next, what a client may do.
Holds no message text, and tokens only of accounts that are refreshed, sealed by ``vault``.
Every method is one short transaction; times are Unix seconds.
"""

import logging
import os
import random
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.vault import Vault, WrongSecret

log = logging.getLogger(__name__)

# How long a statement waits for other processes. Seconds.
_LOCKED_S = 10.0

_meta = sa.MetaData()

_accounts = sa.Table(
    "accounts",
    _meta,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("last_turn", sa.BigInteger, nullable=False),  # a counter shared by all: the lowest is next
)

_conversations = sa.Table(
    "conversations",
    _meta,
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("account_id", sa.String),
    sa.Column("upstream", sa.String),
    sa.Column("chat_id", sa.String),
    sa.Column("message_id", sa.String),
    sa.Column("system_digest", sa.String),
    sa.Column("turns", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("held_until", sa.Float, nullable=False),
)

_litter = sa.Table(
    "litter",
    _meta,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("chat_id", sa.String, primary_key=True),
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
)

_unrecognised = sa.Table(
    "unrecognised",
    _meta,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("last_seen_at", sa.Float, nullable=False),
)

_tokens = sa.Table(
    "tokens",
    _meta,
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),  # digest of the KIMI_TOKENS entry that this chain began with
    sa.Column("version", sa.Integer, nullable=False),  # counts the pairs; one more with every change
    sa.Column("access_token", sa.Text),
    sa.Column("refresh_token", sa.Text),
    sa.Column("expires_at", sa.Float),  # of the access token
    sa.Column("trouble", sa.String),  # why the last refresh failed
    sa.Column("dead", sa.Boolean, nullable=False),  # Kimi refuses the refresh token
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("held_until", sa.Float, nullable=False),
)

_facts = sa.Table(
    "facts",
    _meta,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

_kept = sa.Table(
    "kept",
    _meta,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("kept_at", sa.Float, nullable=False),
)

_schema = sa.Table("schema_version", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """What is known of a conversation. ``chat_id`` is None until Kimi has opened a chat for it."""

    owner: str
    id: str
    model: str
    account_id: str | None
    upstream: str | None
    chat_id: str | None
    message_id: str | None
    system_digest: str | None
    turns: int
    created_at: float
    updated_at: float
    holder: str
    held_until: float


@dataclass(frozen=True, slots=True)
class LitterRow:
    """A Kimi chat that is to be deleted."""

    upstream: str
    chat_id: str
    account_id: str
    tries: int


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The newest pair of an account that is refreshed, opened; see the table for the fields."""

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


@dataclass(frozen=True, slots=True)
class UnrecognisedRow:
    """Something that an upstream said ``times`` times and that we do not know."""

    upstream: str
    kind: str
    times: int
    last_seen_at: float


# The statements, built once: building one costs more than running it.

_P = sa.bindparam

_ADD_ACCOUNT = insert(_accounts).values(id=_P("id"), last_turn=0).on_conflict_do_nothing()

_NEXT_ACCOUNT = (
    sa.update(_accounts)
    .where(
        _accounts.c.id
        == sa.select(_accounts.c.id)
        .where(_accounts.c.id.in_(_P("ids", expanding=True)))
        .order_by(_accounts.c.last_turn, _accounts.c.id)
        .limit(1)
        .scalar_subquery()
    )
    .values(last_turn=sa.select(sa.func.max(_accounts.c.last_turn)).scalar_subquery() + 1)
    .returning(_accounts.c.id)
)

_CHECK_WRITABLE = sa.update(_accounts).where(sa.false()).values(last_turn=0)

_HOLD = (
    insert(_conversations)
    .values(
        owner=_P("owner"),
        id=_P("id"),
        model=_P("model"),
        turns=0,
        created_at=_P("now"),
        updated_at=_P("now"),
        holder=_P("holder"),
        held_until=_P("until"),
    )
    .on_conflict_do_update(
        index_elements=["owner", "id"],
        set_={"holder": _P("holder"), "held_until": _P("until")},
        where=_conversations.c.held_until <= _P("now"),
    )
    .returning(*_conversations.c)
)

_RENEW = (
    sa.update(_conversations)
    .where(_conversations.c.holder.in_(_P("holders", expanding=True)), _conversations.c.held_until > 0)
    .values(held_until=_P("until"))
)

_THIS_CONVERSATION = (_conversations.c.owner == _P("of_owner"), _conversations.c.id == _P("of_id"))
_MY_CONVERSATION = (*_THIS_CONVERSATION, _conversations.c.holder == _P("of_holder"))

_FIND_CONVERSATION = sa.select(*_conversations.c).where(*_THIS_CONVERSATION)
_SAVE_CONVERSATION = sa.update(_conversations).where(*_MY_CONVERSATION)
_DROP_CONVERSATION = sa.delete(_conversations).where(*_MY_CONVERSATION)

_ADD_LITTER = (
    insert(_litter)
    .values(
        upstream=_P("upstream"),
        chat_id=_P("chat_id"),
        account_id=_P("account_id"),
        due_at=_P("due_at"),
        tries=0,
    )
    .on_conflict_do_update(index_elements=["upstream", "chat_id"], set_={"due_at": _P("due_at"), "tries": 0})
)

_TAKE_LITTER = (
    sa.update(_litter)
    .where(
        _litter.c.chat_id
        == sa.select(_litter.c.chat_id)
        .where(_litter.c.due_at <= _P("now"), _litter.c.account_id.in_(_P("accounts", expanding=True)))
        .order_by(_litter.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    .values(due_at=_P("again_at"), tries=_litter.c.tries + 1)
    .returning(_litter.c.upstream, _litter.c.chat_id, _litter.c.account_id, _litter.c.tries)
)

_THIS_LITTER = (_litter.c.upstream == _P("of_upstream"), _litter.c.chat_id == _P("of_chat_id"))

_PUT_OFF_LITTER = sa.update(_litter).where(*_THIS_LITTER).values(tries=_P("tries"), due_at=_P("due_at"))
_DROP_LITTER = sa.delete(_litter).where(*_THIS_LITTER)

_COUNT_UNRECOGNISED = (
    insert(_unrecognised)
    .values(upstream=_P("upstream"), kind=_P("kind"), times=1, last_seen_at=_P("now"))
    .on_conflict_do_update(
        index_elements=["upstream", "kind"],
        set_={"times": _unrecognised.c.times + 1, "last_seen_at": _P("now")},
    )
)

_ALL_UNRECOGNISED = sa.select(*_unrecognised.c).order_by(_unrecognised.c.times.desc(), _unrecognised.c.kind)

_PUT_TOKENS = (
    insert(_tokens)
    .values(
        account_id=_P("account_id"),
        source=_P("source"),
        version=1,
        access_token=_P("access_token"),
        refresh_token=_P("refresh_token"),
        expires_at=_P("expires_at"),
        dead=False,
        holder="",
        held_until=0.0,
    )
    .on_conflict_do_update(
        index_elements=["account_id"],
        set_={
            "source": _P("source"),
            "version": _tokens.c.version + 1,
            "access_token": _P("access_token"),
            "refresh_token": _P("refresh_token"),
            "expires_at": _P("expires_at"),
            "trouble": None,
            "dead": False,
            "holder": "",
            "held_until": 0.0,
        },
        where=_tokens.c.source != _P("source"),
    )
)

_FIND_TOKENS = sa.select(*_tokens.c).where(_tokens.c.account_id == _P("of_id"))
_ALL_TOKENS = sa.select(*_tokens.c)
_HOLD_TOKENS = (
    sa.update(_tokens)
    .where(
        _tokens.c.account_id == _P("of_id"),
        _tokens.c.version == _P("of_version"),
        _tokens.c.dead == sa.false(),
        _tokens.c.held_until <= _P("now"),
    )
    .values(holder=_P("holder"), held_until=_P("until"))
    .returning(*_tokens.c)
)
_RENEW_TOKENS = (
    sa.update(_tokens)
    .where(_tokens.c.account_id == _P("of_id"), _tokens.c.holder == _P("of_holder"), _tokens.c.held_until > 0)
    .values(held_until=_P("until"))
)
_THIS_PAIR = (_tokens.c.account_id == _P("of_id"), _tokens.c.version == _P("of_version"))
_ADD_FACT = insert(_facts).values(name=_P("name"), value=_P("value")).on_conflict_do_nothing()
_FIND_FACT = sa.select(_facts.c.value).where(_facts.c.name == _P("of_name"))


_KEEP = (
    insert(_kept)
    .values(name=_P("name"), value=_P("value"), kept_at=_P("now"))
    .on_conflict_do_update(index_elements=["name"], set_={"value": _P("value"), "kept_at": _P("now")})
)
_KEPT = sa.select(_kept.c.value, _kept.c.kept_at).where(_kept.c.name == _P("of_name"))


class Store:
    """One database, opened once per process.

    Opening raises StoreUnusable; later, sqlalchemy.exc.SQLAlchemyError says that the database fails.
    """

    def __init__(self, url: str, secret: str | None = None, *, durable: bool = False) -> None:
        """``secret`` seals the tokens. ``durable``: what is written has reached the disk, at some cost."""
        try:
            self._open(url, secret, durable)
        except WrongSecret as e:
            raise StoreUnusable(f"GATEWAY_SECRET: {e}") from e
        except (OSError, SQLAlchemyError) as e:
            why = f"{type(e).__name__}: {_first_line(e)}"
            raise StoreUnusable(f"DATABASE_URL: the database cannot be opened ({why})") from e

    def _open(self, url: str, secret: str | None, durable: bool) -> None:
        database = sa.make_url(url).database
        if database:
            _create_private(Path(database))
        # Every statement is a transaction of its own; what must be atomic is one statement.
        self._engine = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", hide_parameters=True, connect_args={"timeout": 0.01}
        )
        sa.event.listen(self._engine, "connect", partial(_on_sqlite_connect, durable=durable))
        self._migrate()
        self._vault = Vault(secret, bytes.fromhex(self.fact("vault_salt", secrets.token_hex(16))))
        self._check_vault()

    def close(self) -> None:
        self._engine.dispose()

    @property
    def version(self) -> int:
        """How many migrations the database has seen: all that this gateway knows."""
        return len(_MIGRATIONS)

    @property
    def seals(self) -> bool:
        """Whether tokens are sealed."""
        return self._vault.seals

    def check_writable(self) -> None:
        """Raises where nothing can be written."""
        self._run(_CHECK_WRITABLE)

    # accounts

    def add_accounts(self, ids: Sequence[str]) -> None:
        for account_id in ids:
            self._run(_ADD_ACCOUNT, id=account_id)

    def next_account(self, ids: Sequence[str]) -> str:
        """The one of ``ids`` whose turn is longest ago; it goes to the end of the line. ``ids``: not empty."""
        row = self._row(_NEXT_ACCOUNT, ids=ids)
        assert row is not None, "add_accounts was not called"
        return str(row["id"])

    # conversations

    def hold_conversation(
        self, owner: str, conversation_id: str, model: str, holder: str, now: float, until: float
    ) -> ConversationRow | None:
        """Takes the conversation for one turn, making it if it is new; None while another holder has it."""
        row = self._row(_HOLD, owner=owner, id=conversation_id, model=model, holder=holder, now=now, until=until)
        return None if row is None else ConversationRow(**row)

    def renew_holds(self, holders: Sequence[str], until: float) -> None:
        self._run(_RENEW, holders=holders, until=until)

    def save_conversation(self, owner: str, conversation_id: str, held_by: str, /, **values: Any) -> bool:
        """Writes columns of a conversation that ``held_by`` has; False if it has it no longer."""
        query = _SAVE_CONVERSATION.values(values)
        return self._run(query, of_owner=owner, of_id=conversation_id, of_holder=held_by) > 0

    def drop_conversation(self, owner: str, conversation_id: str, held_by: str) -> None:
        self._run(_DROP_CONVERSATION, of_owner=owner, of_id=conversation_id, of_holder=held_by)

    def find_conversation(self, owner: str, conversation_id: str) -> ConversationRow | None:
        row = self._row(_FIND_CONVERSATION, of_owner=owner, of_id=conversation_id)
        return None if row is None else ConversationRow(**row)

    # tokens

    def put_tokens(
        self,
        account_id: str,
        source: str,
        access_token: str | None,
        refresh_token: str | None,
        expires_at: float | None,
    ) -> None:
        """Begins a chain of tokens, unless the one that is there began with the same ``source``."""
        self._run(
            _PUT_TOKENS,
            account_id=account_id,
            source=source,
            access_token=self._vault.seal(access_token),
            refresh_token=self._vault.seal(refresh_token),
            expires_at=expires_at,
        )

    def find_tokens(self, account_id: str) -> TokenRow | None:
        return self._token_row(self._row(_FIND_TOKENS, of_id=account_id))

    def hold_tokens(self, account_id: str, version: int, holder: str, now: float, until: float) -> TokenRow | None:
        """The right to refresh this version; None where another has it, or the pair is dead or no longer newest."""
        values = {"of_id": account_id, "of_version": version, "holder": holder, "now": now, "until": until}
        return self._token_row(self._row(_HOLD_TOKENS, **values))

    def renew_tokens_hold(self, account_id: str, holder: str, until: float) -> None:
        self._run(_RENEW_TOKENS, of_id=account_id, of_holder=holder, until=until)

    def save_tokens(
        self, account_id: str, version: int, access_token: str, refresh_token: str, expires_at: float | None
    ) -> bool:
        """Puts the next pair in the place of ``version`` and ends the hold; False where another pair is there."""
        query = (
            sa.update(_tokens)
            .where(*_THIS_PAIR)
            .values(
                version=version + 1,
                access_token=self._vault.seal(access_token),
                refresh_token=self._vault.seal(refresh_token),
                expires_at=expires_at,
                trouble=None,
                dead=False,
                held_until=0.0,
            )
        )
        return self._run(query, of_id=account_id, of_version=version) > 0

    def save_trouble(self, account_id: str, version: int, trouble: str, dead: bool) -> None:
        """The refresh of ``version`` failed; its hold ends."""
        query = sa.update(_tokens).where(*_THIS_PAIR).values(trouble=trouble, dead=dead, held_until=0.0)
        self._run(query, of_id=account_id, of_version=version)

    def fact(self, name: str, value: str) -> str:
        """The value that was first written under ``name``, by whichever process came first."""
        self._run(_ADD_FACT, name=name, value=value)
        row = self._row(_FIND_FACT, of_name=name)
        assert row is not None
        return str(row["value"])

    def _token_row(self, row: dict[str, Any] | None) -> TokenRow | None:
        if row is None:
            return None
        opened = {name: self._vault.open(row[name]) for name in ("access_token", "refresh_token")}
        return TokenRow(**{**row, **opened})

    def _check_vault(self) -> None:
        """Every sealed token can be opened; those from before there was a secret are sealed now."""
        rows = self._patiently(lambda db: [dict(row) for row in db.execute(_ALL_TOKENS).mappings()])
        for row in rows:
            opened = self._token_row(row)
            if self._vault.seals and opened is not None and opened.refresh_token == row["refresh_token"]:
                sealed = {name: self._vault.seal(row[name]) for name in ("access_token", "refresh_token")}
                query = sa.update(_tokens).where(*_THIS_PAIR).values(**sealed)
                self._run(query, of_id=row["account_id"], of_version=row["version"])

    # litter

    def add_litter(self, upstream: str, chat_id: str, account_id: str, due_at: float) -> None:
        """Notes a chat for deletion, or sets a new time for one that is noted."""
        self._run(_ADD_LITTER, upstream=upstream, chat_id=chat_id, account_id=account_id, due_at=due_at)

    def take_litter(self, account_ids: Sequence[str], now: float, again_at: float) -> LitterRow | None:
        """One chat that is due, put off until ``again_at`` so that no other worker takes it meanwhile."""
        row = self._row(_TAKE_LITTER, accounts=account_ids, now=now, again_at=again_at)
        return None if row is None else LitterRow(**row)

    def put_off_litter(self, upstream: str, chat_id: str, tries: int, due_at: float) -> None:
        self._run(_PUT_OFF_LITTER, of_upstream=upstream, of_chat_id=chat_id, tries=tries, due_at=due_at)

    def drop_litter(self, upstream: str, chat_id: str) -> None:
        self._run(_DROP_LITTER, of_upstream=upstream, of_chat_id=chat_id)

    # what upstreams said that we did not understand

    def count_unrecognised(self, upstream: str, kind: str, now: float) -> None:
        self._run(_COUNT_UNRECOGNISED, upstream=upstream, kind=kind, now=now)

    # what was learned and is worth keeping over a restart

    def keep(self, name: str, value: str, now: float) -> None:
        self._run(_KEEP, name=name, value=value, now=now)

    def kept(self, name: str) -> tuple[str, float] | None:
        """The value and when it was kept."""
        row = self._row(_KEPT, of_name=name)
        return None if row is None else (row["value"], row["kept_at"])

    def unrecognised(self) -> list[UnrecognisedRow]:
        """All that was ever met, the most frequent first."""
        rows = self._patiently(lambda db: db.execute(_ALL_UNRECOGNISED).mappings().all())
        return [UnrecognisedRow(**row) for row in rows]

    # machinery

    def _run(self, statement: sa.Executable, **values: Any) -> int:
        return int(self._patiently(lambda db: db.execute(statement, values).rowcount))

    def _row(self, statement: sa.Executable, **values: Any) -> dict[str, Any] | None:
        row = self._patiently(lambda db: db.execute(statement, values).mappings().first())
        return None if row is None else dict(row)

    def _patiently(self, work: Callable[[sa.Connection], Any]) -> Any:
        """``work`` on a connection, again and again while another process has the database locked.

        SQLite's own waiting would do, but it sleeps in C: a gevent worker would stand still with all its streams.
        """
        deadline = time.monotonic() + _LOCKED_S
        while True:
            try:
                with self._engine.connect() as db:
                    return work(db)
            except OperationalError as e:
                if "locked" not in str(e.orig) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.002, 0.02))

    def _migrate(self) -> None:
        """Brings the database to the newest version; several workers may start at once."""
        self._patiently(self._migrate_now)

    def _migrate_now(self, db: sa.Connection) -> None:
        # Kept in the file; switching to it may fail at once where another process is just opening it.
        db.exec_driver_sql("PRAGMA journal_mode=WAL")
        db.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            db.execute(sa.schema.CreateTable(_schema, if_not_exists=True))
            version = db.execute(sa.select(sa.func.max(_schema.c.version))).scalar() or 0
            if version > len(_MIGRATIONS):
                raise StoreUnusable(
                    f"DATABASE_URL: the database has version {version}, this gateway knows {len(_MIGRATIONS)}"
                )
            for number, migrate in enumerate(_MIGRATIONS[version:], start=version + 1):
                migrate(db)
                db.execute(sa.insert(_schema).values(version=number))
        except BaseException:
            db.exec_driver_sql("ROLLBACK")
            raise
        db.exec_driver_sql("COMMIT")


class StoreUnusable(Exception):
    """The database cannot be opened, or was written by a newer gateway."""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _m001_first_tables(db: sa.Connection) -> None:
    _meta.create_all(db, [_accounts, _conversations, _litter, _unrecognised])


def _m002_tokens(db: sa.Connection) -> None:
    _meta.create_all(db, [_tokens, _facts])


def _m003_kept(db: sa.Connection) -> None:
    _meta.create_all(db, [_kept])


# Applied in order, each once. A migration that has been released is never edited.
_MIGRATIONS = [_m001_first_tables, _m002_tokens, _m003_kept]


def _create_private(path: Path) -> None:
    """The file exists and only its owner can read it, before anything is written into it."""
    if str(path) == ":memory:":
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("other users of this machine may read the database file; chmod 600 it")


def _on_sqlite_connect(dbapi: Any, _record: Any, *, durable: bool) -> None:
    cursor = dbapi.cursor()
    # NORMAL in WAL mode: nothing is lost when a process is killed; a power cut may lose the last moment.
    cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    cursor.close()
