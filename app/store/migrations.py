"""How the tables came to be as they are: applied in order, each once.

Written in words that every database of ours understands, and not by means of the tables of the other files:
those change, and a migration that has been released is never edited.
"""

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.errors import StoreUnusable

_FIRST_TABLES = (
    "CREATE TABLE accounts (id VARCHAR NOT NULL PRIMARY KEY, last_turn BIGINT NOT NULL)",
    """CREATE TABLE conversations (
        owner VARCHAR NOT NULL, id VARCHAR NOT NULL, model VARCHAR NOT NULL, account_id VARCHAR, upstream VARCHAR,
        chat_id VARCHAR, message_id VARCHAR, system_digest VARCHAR, turns INTEGER NOT NULL,
        created_at FLOAT NOT NULL, updated_at FLOAT NOT NULL, holder VARCHAR NOT NULL, held_until FLOAT NOT NULL,
        PRIMARY KEY (owner, id))""",
    """CREATE TABLE litter (
        upstream VARCHAR NOT NULL, chat_id VARCHAR NOT NULL, account_id VARCHAR NOT NULL, due_at FLOAT NOT NULL,
        tries INTEGER NOT NULL, PRIMARY KEY (upstream, chat_id))""",
    """CREATE TABLE unrecognised (
        upstream VARCHAR NOT NULL, kind VARCHAR NOT NULL, times INTEGER NOT NULL, last_seen_at FLOAT NOT NULL,
        PRIMARY KEY (upstream, kind))""",
)

_TOKENS = (
    """CREATE TABLE tokens (
        account_id VARCHAR NOT NULL PRIMARY KEY, source VARCHAR NOT NULL, version INTEGER NOT NULL,
        access_token TEXT, refresh_token TEXT, expires_at FLOAT, trouble VARCHAR, dead BOOLEAN NOT NULL,
        holder VARCHAR NOT NULL, held_until FLOAT NOT NULL)""",
    "CREATE TABLE facts (name VARCHAR NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
)

_KEPT = ("CREATE TABLE kept (name VARCHAR NOT NULL PRIMARY KEY, value TEXT NOT NULL, kept_at FLOAT NOT NULL)",)

_LEASES = (
    "CREATE TABLE processes (id VARCHAR NOT NULL PRIMARY KEY, until FLOAT NOT NULL)",
    "ALTER TABLE accounts ADD COLUMN next_at FLOAT NOT NULL DEFAULT 0",
    "ALTER TABLE accounts ADD COLUMN refused VARCHAR",
    """CREATE TABLE leases (
        id VARCHAR NOT NULL PRIMARY KEY, process_id VARCHAR NOT NULL, account_id VARCHAR NOT NULL,
        scope VARCHAR NOT NULL, is_probe BOOLEAN NOT NULL, waited BOOLEAN NOT NULL, started_at FLOAT NOT NULL,
        ends_at FLOAT NOT NULL)""",
    """CREATE TABLE line (
        id VARCHAR NOT NULL PRIMARY KEY, process_id VARCHAR NOT NULL, owner VARCHAR NOT NULL, scope VARCHAR NOT NULL,
        accounts TEXT NOT NULL, place BIGINT NOT NULL, joined_at FLOAT NOT NULL, ends_at FLOAT NOT NULL)""",
    """CREATE TABLE rests (
        account_id VARCHAR NOT NULL, scope VARCHAR NOT NULL, until FLOAT NOT NULL, strikes INTEGER NOT NULL,
        PRIMARY KEY (account_id, scope))""",
    # Who holds a conversation counts for as long as its process does.
    "ALTER TABLE conversations ADD COLUMN process_id VARCHAR NOT NULL DEFAULT ''",
    "CREATE INDEX conversations_by_age ON conversations (updated_at)",
    """CREATE TABLE transcripts (
        owner VARCHAR NOT NULL, conversation_id VARCHAR NOT NULL, turn INTEGER NOT NULL, line INTEGER NOT NULL,
        role VARCHAR NOT NULL, text TEXT NOT NULL, PRIMARY KEY (owner, conversation_id, turn, line))""",
    """CREATE TABLE recordings (
        id VARCHAR NOT NULL PRIMARY KEY, request VARCHAR NOT NULL, process_id VARCHAR NOT NULL,
        holder VARCHAR NOT NULL, content TEXT, begun_at FLOAT NOT NULL)""",
    "CREATE INDEX recordings_by_age ON recordings (begun_at)",
)

_API_KEYS = (
    """CREATE TABLE api_keys (
        digest VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, created_at FLOAT NOT NULL, expires_at FLOAT,
        revoked_at FLOAT, per_minute INTEGER, at_once INTEGER)""",
    """CREATE TABLE api_key_uses (
        id VARCHAR NOT NULL PRIMARY KEY, digest VARCHAR NOT NULL, process_id VARCHAR NOT NULL,
        began_at FLOAT NOT NULL, ends_at FLOAT NOT NULL)""",
    "CREATE INDEX api_key_uses_of_a_key ON api_key_uses (digest, began_at)",
)

_MIGRATIONS = (_FIRST_TABLES, _TOKENS, _KEPT, _LEASES, _API_KEYS)

# How many migrations this gateway knows.
VERSION = len(_MIGRATIONS)

_schema = sa.table("schema_version", sa.column("version", sa.Integer))
_FIND_VERSION = sa.select(sa.func.max(_schema.c.version).label("version"))
_ADD_VERSION = sa.insert(_schema).values(version=sa.bindparam("version"))


def migrate(database: Database) -> None:
    """Brings the database to the newest version; several workers may start at once.

    Raises StoreUnusable where a newer gateway has been there.
    """
    database.exclusively(_migrate)


def _migrate(tx: Transaction) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = tx.row(_FIND_VERSION)
    version = row["version"] or 0 if row else 0
    if version > VERSION:
        raise StoreUnusable(f"DATABASE_URL: the database has version {version}, this gateway knows {VERSION}")
    for number, migration in enumerate(_MIGRATIONS[version:], start=version + 1):
        for sql in migration:
            tx.execute(sql)
        tx.run(_ADD_VERSION, version=number)
