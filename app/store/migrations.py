"""Creates the tables and brings those of older gateways up to date: migrations are applied in order, each once.

They are written in SQL that both databases understand, or for a server only, and not with the declarations in
``tables``: those change, but a migration that has been released is never edited. A change here needs the same change
in ``tables``.
"""

import logging

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.errors import StoreUnusable
from app.store.tables import schema_version

log = logging.getLogger(__name__)


class ServerOnly(str):
    """A statement for a database that is a server."""


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

_SITES = ("ALTER TABLE conversations ADD COLUMN site VARCHAR",)

_CAUSES = ("ALTER TABLE rests ADD COLUMN cause VARCHAR NOT NULL DEFAULT ''",)

_KEY_CHANGES = (
    "ALTER TABLE api_keys ADD COLUMN version BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX api_keys_by_version ON api_keys (version)",
    """CREATE TABLE api_key_seconds (
        digest VARCHAR NOT NULL, second BIGINT NOT NULL, requests INTEGER NOT NULL, newest_at FLOAT NOT NULL,
        PRIMARY KEY (digest, second))""",
    "CREATE INDEX api_key_seconds_by_age ON api_key_seconds (second)",
)

_ANSWER_SIZES = (
    "ALTER TABLE recordings ADD COLUMN owner VARCHAR NOT NULL DEFAULT ''",
    "ALTER TABLE recordings ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX recordings_of_an_owner ON recordings (owner, begun_at, bytes)",
)

_LEASE_COUNTS = (
    "ALTER TABLE accounts ADD COLUMN streams INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE accounts ADD COLUMN seen_at FLOAT NOT NULL DEFAULT 0",
    "CREATE INDEX accounts_by_use ON accounts (streams, last_turn, id)",
    "CREATE INDEX accounts_by_turn ON accounts (last_turn)",
    "CREATE INDEX leases_of_an_account ON leases (account_id, scope, started_at)",
    "CREATE INDEX leases_of_a_process ON leases (process_id, waited)",
    "CREATE INDEX leases_of_a_model ON leases (scope, started_at)",
    "CREATE INDEX leases_by_end ON leases (ends_at)",
    "UPDATE accounts SET streams = (SELECT count(*) FROM leases WHERE leases.account_id = accounts.id)",
    # The requests that waited in it ended with their gateway.
    "DROP TABLE line",
    """CREATE TABLE line (
        id VARCHAR NOT NULL PRIMARY KEY, process_id VARCHAR NOT NULL, owner VARCHAR NOT NULL,
        wish_id VARCHAR NOT NULL, place BIGINT NOT NULL, joined_at FLOAT NOT NULL, ends_at FLOAT NOT NULL,
        dropped BOOLEAN NOT NULL)""",
    "CREATE INDEX line_in_order ON line (place, joined_at, id)",
    "CREATE INDEX line_of_an_owner ON line (owner, place)",
    "CREATE INDEX line_of_a_wish ON line (wish_id, place, joined_at, id)",
    "CREATE INDEX line_of_a_process ON line (process_id, dropped)",
    """CREATE TABLE wishes (
        id VARCHAR NOT NULL PRIMARY KEY, scope VARCHAR NOT NULL, account_id VARCHAR, token VARCHAR,
        accounts TEXT NOT NULL)""",
    "CREATE INDEX litter_by_due_time ON litter (due_at)",
    "CREATE INDEX litter_by_chat ON litter (chat_id)",
)

_OPEN_CHATS = (
    """CREATE TABLE open_chats (
        upstream VARCHAR NOT NULL, chat_id VARCHAR NOT NULL, owner VARCHAR NOT NULL, account_id VARCHAR NOT NULL,
        site VARCHAR NOT NULL, turns TEXT NOT NULL, last_turn INTEGER NOT NULL,
        used_at FLOAT NOT NULL, holder VARCHAR NOT NULL, process_id VARCHAR NOT NULL,
        PRIMARY KEY (upstream, chat_id))""",
    "CREATE INDEX open_chats_of_an_owner ON open_chats (owner, used_at)",
    "CREATE INDEX open_chats_by_use ON open_chats (used_at)",
    """CREATE TABLE open_chat_turns (
        upstream VARCHAR NOT NULL, chat_id VARCHAR NOT NULL, number INTEGER NOT NULL, digest VARCHAR NOT NULL,
        PRIMARY KEY (upstream, chat_id, number))""",
    "CREATE INDEX open_chat_turns_by_digest ON open_chat_turns (digest)",
)

_REQUESTS = (
    "ALTER TABLE processes ADD COLUMN state TEXT",
    """CREATE TABLE requests (
        id VARCHAR NOT NULL PRIMARY KEY, ended_at FLOAT NOT NULL, request_id VARCHAR NOT NULL,
        owner VARCHAR NOT NULL, api VARCHAR NOT NULL, is_stream INTEGER NOT NULL, model VARCHAR NOT NULL,
        protocol VARCHAR NOT NULL, account_id VARCHAR NOT NULL, attempts INTEGER NOT NULL, status INTEGER NOT NULL,
        ending VARCHAR NOT NULL, blame VARCHAR NOT NULL, waited_ms INTEGER NOT NULL, first_ms INTEGER,
        total_ms INTEGER NOT NULL, longest_ms INTEGER, chars_in INTEGER NOT NULL, chars_out INTEGER NOT NULL,
        chars_thought INTEGER NOT NULL, tokens_in INTEGER, tokens_out INTEGER, tokens_thought INTEGER,
        flags INTEGER NOT NULL, conversation VARCHAR NOT NULL, client VARCHAR NOT NULL, trace VARCHAR NOT NULL,
        n INTEGER NOT NULL)""",
    "CREATE INDEX requests_by_request_id ON requests (request_id)",
    """CREATE TABLE attempts (
        request VARCHAR NOT NULL, number INTEGER NOT NULL, account_id VARCHAR NOT NULL, protocol VARCHAR NOT NULL,
        code VARCHAR NOT NULL, blame VARCHAR NOT NULL, ms INTEGER NOT NULL, cooldown_s FLOAT NOT NULL,
        PRIMARY KEY (request, number))""",
    """CREATE TABLE usage_days (
        day INTEGER NOT NULL, owner VARCHAR NOT NULL, model VARCHAR NOT NULL, account_id VARCHAR NOT NULL,
        requests BIGINT NOT NULL, failures BIGINT NOT NULL, tokens_in BIGINT NOT NULL, tokens_out BIGINT NOT NULL,
        tokens_thought BIGINT NOT NULL, seconds FLOAT NOT NULL, PRIMARY KEY (day, owner, model, account_id))""",
    """CREATE TABLE usage_hours (
        hour INTEGER NOT NULL PRIMARY KEY, requests BIGINT NOT NULL, failures BIGINT NOT NULL,
        tokens_in BIGINT NOT NULL, tokens_out BIGINT NOT NULL)""",
    """CREATE TABLE tallies (
        name VARCHAR NOT NULL, labels VARCHAR NOT NULL, n FLOAT NOT NULL, PRIMARY KEY (name, labels))""",
    """CREATE TABLE ledger_steps (
        process_id VARCHAR NOT NULL PRIMARY KEY, step BIGINT NOT NULL, written_at FLOAT NOT NULL)""",
)

_UPLOADS = (
    """CREATE TABLE uploads (
        upstream VARCHAR NOT NULL, account_id VARCHAR NOT NULL, digest VARCHAR NOT NULL, file_id VARCHAR NOT NULL,
        uploaded_at FLOAT NOT NULL, PRIMARY KEY (upstream, account_id, digest))""",
    "CREATE INDEX uploads_by_age ON uploads (uploaded_at)",
)

_RENEWALS = (
    "ALTER TABLE tokens ADD COLUMN wanted INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tokens ADD COLUMN wanted_of VARCHAR NOT NULL DEFAULT ''",
    "ALTER TABLE tokens ADD COLUMN login TEXT",
    "ALTER TABLE tokens ADD COLUMN stored_at FLOAT",
    "CREATE TABLE roles (name VARCHAR NOT NULL PRIMARY KEY, holder VARCHAR NOT NULL, held_until FLOAT NOT NULL)",
)

_ACCOUNT_ENTRIES = (
    """CREATE TABLE account_entries (
        account_id VARCHAR NOT NULL PRIMARY KEY, label VARCHAR NOT NULL, source VARCHAR, settings_seen TEXT NOT NULL,
        login TEXT, site VARCHAR, proxy TEXT, added_at FLOAT, paused_at FLOAT, version VARCHAR NOT NULL)""",
)

_CONSOLE = (
    "CREATE TABLE console_tickets (digest VARCHAR NOT NULL PRIMARY KEY, expires_at FLOAT NOT NULL)",
    """CREATE TABLE console_sessions (
        digest VARCHAR NOT NULL PRIMARY KEY, created_at FLOAT NOT NULL, seen_at FLOAT NOT NULL,
        browser VARCHAR NOT NULL, draft TEXT, draft_until FLOAT)""",
    """CREATE TABLE console_failures (
        id VARCHAR NOT NULL PRIMARY KEY, address VARCHAR NOT NULL, at FLOAT NOT NULL)""",
    "CREATE INDEX console_failures_by_age ON console_failures (at)",
)

_FILES = (
    """CREATE TABLE files (
        owner VARCHAR NOT NULL, id VARCHAR NOT NULL, name VARCHAR NOT NULL, purpose VARCHAR NOT NULL,
        media_type VARCHAR NOT NULL, bytes BIGINT NOT NULL, digest VARCHAR NOT NULL, in_database BOOLEAN NOT NULL,
        created_at FLOAT NOT NULL, expires_at FLOAT, PRIMARY KEY (owner, id))""",
    "CREATE INDEX files_of_an_owner ON files (owner, created_at, id)",
    "CREATE INDEX files_by_id ON files (id)",
    "CREATE INDEX files_by_end ON files (expires_at)",
    """CREATE TABLE file_pieces (
        file_id VARCHAR NOT NULL, number INTEGER NOT NULL, data {bytes} NOT NULL, put_at FLOAT NOT NULL,
        PRIMARY KEY (file_id, number))""",
)

# What ``store.leases`` does in a transaction of several statements where the database is a file. On a server each of
# them is a round trip. Their statements see what was committed before the lock was taken: each has a snapshot of its
# own (https://www.postgresql.org/docs/current/xfunc-volatility.html). The lock is that of ``dialects.postgresql``.
_LEASE_AT_ONCE = """CREATE FUNCTION lease_at_once(
            ticket VARCHAR, process VARCHAR, model VARCHAR, ids VARCHAR[], tokens VARCHAR[], began FLOAT,
            max_streams INTEGER, latest_next_at FLOAT, next_start FLOAT, ends FLOAT{parameter})
        RETURNS VARCHAR LANGUAGE plpgsql AS $$
        DECLARE
            chosen VARCHAR;
            rejected VARCHAR;
        BEGIN
            PERFORM pg_advisory_xact_lock(5204613377);
            SELECT account_id INTO chosen FROM leases WHERE id = ticket;
            IF FOUND THEN
                RETURN chosen;
            END IF;
            IF EXISTS (SELECT FROM line) THEN
                RETURN NULL;
            END IF;
            -- The first account that has room and does not cool down.
            IF cardinality(ids) = 1 THEN
                SELECT id, refused INTO chosen, rejected FROM accounts
                WHERE id = ids[1] AND streams < max_streams AND (next_at <= began OR next_at > latest_next_at);
            ELSE
                -- Not the id itself: the accounts are to be read in the order of their use.
                SELECT id, refused INTO chosen, rejected FROM accounts
                WHERE streams < max_streams AND (next_at <= began OR next_at > latest_next_at)
                    AND id || '' = ANY (ids)
                    AND NOT EXISTS (
                        SELECT FROM rests
                        WHERE account_id = accounts.id AND scope IN ('', model) AND rests.until > began
                            AND (cause <> 'rejected' OR refused = tokens[array_position(ids, accounts.id)]))
                ORDER BY streams, last_turn, id LIMIT 1;
            END IF;
            -- Of one whose cooldown is over, or whose token was rejected, more must be known.
            IF chosen IS NULL OR rejected = tokens[array_position(ids, chosen)]
                OR EXISTS (SELECT FROM rests WHERE account_id IN (chosen, '') AND scope IN ('', model)) THEN
                RETURN NULL;
            END IF;
            INSERT INTO leases (id, process_id, account_id, scope, is_probe, waited, started_at, ends_at{column})
            VALUES (ticket, process, chosen, model, FALSE, FALSE, began, ends{value});
            UPDATE accounts
            SET streams = streams + 1, last_turn = (SELECT max(last_turn) + 1 FROM accounts), next_at = next_start
            WHERE id = chosen;
            RETURN chosen;
        END $$"""


def _lease_at_once(parameter: str = "", column: str = "", value: str = "") -> ServerOnly:
    """The function for a lease, with what later forms of it have in addition."""
    sql = _LEASE_AT_ONCE.replace("{parameter}", parameter)
    return ServerOnly(sql.replace("{column}", column).replace("{value}", value))


_LEASE_FUNCTIONS = (
    _lease_at_once(),
    ServerOnly(
        """CREATE FUNCTION end_lease(ticket VARCHAR)
        RETURNS VOID LANGUAGE plpgsql AS $$
        DECLARE
            freed VARCHAR;
        BEGIN
            PERFORM pg_advisory_xact_lock(5204613377);
            DELETE FROM line WHERE id = ticket;
            DELETE FROM leases WHERE id = ticket RETURNING account_id INTO freed;
            IF FOUND THEN
                UPDATE accounts SET streams = streams - 1 WHERE id = freed AND streams > 0;
            END IF;
        END $$"""
    ),
)

_LOST_CHATS = (
    "ALTER TABLE leases ADD COLUMN question VARCHAR",
    "ALTER TABLE line ADD COLUMN question VARCHAR",
    """CREATE TABLE lost_chats (
        id VARCHAR NOT NULL PRIMARY KEY, account_id VARCHAR NOT NULL, question VARCHAR NOT NULL,
        began_at FLOAT NOT NULL, lost_at FLOAT NOT NULL, due_at FLOAT NOT NULL, tries INTEGER NOT NULL)""",
    "CREATE INDEX lost_chats_by_due_time ON lost_chats (due_at)",
    # The form of before stays, for older gateways beside this one.
    _lease_at_once(", asks VARCHAR", ", question", ", asks"),
)

# The same with fewer statements, and with a text in which the accounts and their tokens are found without being read:
# "\nid=token\nid=token\n". The forms of before stay, for older gateways beside this one.
_SHORT_LEASE_FUNCTIONS = (
    ServerOnly(
        r"""CREATE FUNCTION take_lease(
            ticket VARCHAR, process VARCHAR, model VARCHAR, only_id VARCHAR, wanted VARCHAR, began FLOAT,
            max_streams INTEGER, latest_next_at FLOAT, next_start FLOAT, ends FLOAT, asks VARCHAR)
        RETURNS VARCHAR LANGUAGE plpgsql AS $$
        DECLARE
            chosen VARCHAR;
            rejected VARCHAR;
            cools_down BOOLEAN;
        BEGIN
            PERFORM pg_advisory_xact_lock(5204613377);
            -- The first account that has room and does not cool down. None where somebody is in the queue.
            IF only_id IS NOT NULL THEN
                SELECT id, refused,
                    EXISTS (SELECT FROM rests WHERE account_id IN (accounts.id, '') AND scope IN ('', model))
                INTO chosen, rejected, cools_down FROM accounts
                WHERE id = only_id AND streams < max_streams AND (next_at <= began OR next_at > latest_next_at)
                    AND NOT EXISTS (SELECT FROM line);
            ELSE
                SELECT id, refused,
                    EXISTS (SELECT FROM rests WHERE account_id IN (accounts.id, '') AND scope IN ('', model))
                INTO chosen, rejected, cools_down FROM accounts
                WHERE streams < max_streams AND (next_at <= began OR next_at > latest_next_at)
                    AND strpos(wanted, E'\n' || id || '=') > 0
                    AND NOT EXISTS (
                        SELECT FROM rests
                        WHERE account_id = accounts.id AND scope IN ('', model) AND rests.until > began
                            AND (cause <> 'rejected' OR strpos(wanted, E'\n' || id || '=' || refused || E'\n') > 0))
                    AND NOT EXISTS (SELECT FROM line)
                ORDER BY streams, last_turn, id LIMIT 1;
            END IF;
            -- Of one whose cooldown is over, or whose token was rejected, more must be known.
            IF chosen IS NULL OR cools_down OR strpos(wanted, E'\n' || chosen || '=' || rejected || E'\n') > 0 THEN
                RETURN NULL;
            END IF;
            INSERT INTO leases (id, process_id, account_id, scope, is_probe, waited, started_at, ends_at, question)
            VALUES (ticket, process, chosen, model, FALSE, FALSE, began, ends, asks) ON CONFLICT (id) DO NOTHING;
            IF NOT FOUND THEN
                -- An earlier call was committed.
                RETURN (SELECT account_id FROM leases WHERE id = ticket);
            END IF;
            UPDATE accounts
            SET streams = streams + 1, last_turn = (SELECT max(last_turn) + 1 FROM accounts), next_at = next_start
            WHERE id = chosen;
            RETURN chosen;
        END $$"""
    ),
    ServerOnly(
        """CREATE FUNCTION join_line(
            ticket VARCHAR, process VARCHAR, key VARCHAR, wanted_id VARCHAR, began FLOAT, max_streams INTEGER,
            latest_next_at FLOAT, ends FLOAT, most INTEGER, asks VARCHAR)
        RETURNS BOOLEAN LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(5204613377);
            -- Nothing else is certain where an account may have room, or cools down, or where the queue is full.
            INSERT INTO line (id, process_id, owner, wish_id, place, joined_at, ends_at, dropped, question)
            SELECT ticket, process, key, wanted_id,
                coalesce(
                    (SELECT max(place) + 1 FROM line WHERE owner = key AND NOT dropped),
                    (SELECT min(place) FROM line WHERE NOT dropped),
                    0),
                began, ends, FALSE, asks
            WHERE EXISTS (SELECT FROM wishes WHERE id = wanted_id)
                AND NOT EXISTS (
                    SELECT FROM accounts
                    WHERE streams < max_streams AND (next_at <= began OR next_at > latest_next_at))
                AND NOT EXISTS (SELECT FROM rests WHERE rests.until > began)
                AND NOT EXISTS (SELECT FROM leases WHERE id = ticket)
                AND (SELECT count(*) FROM line WHERE NOT dropped) < most
            ON CONFLICT (id) DO NOTHING;
            -- An earlier call may have been committed.
            RETURN FOUND OR EXISTS (SELECT FROM line WHERE id = ticket);
        END $$"""
    ),
)

# Each index of leases is written at the beginning and at the end of every stream: most leases are now in one, beside
# that of their key. What reads all leases anyway, at the end of a process and twice a minute, needs none.
_LEASE_INDEXES = (
    "DROP INDEX leases_by_end",
    "DROP INDEX leases_of_a_process",
    "CREATE INDEX leases_that_waited ON leases (process_id) WHERE waited = {true}",
    "DROP INDEX leases_of_a_model",
    "CREATE INDEX probes_of_a_model ON leases (scope, started_at) WHERE is_probe = {true}",
)

# In the order in which they are applied. The number of the last one is the version of the database.
_MIGRATIONS = {
    "accounts, conversations, chats to delete, unknown frames": _FIRST_TABLES,
    "token pairs, constants": _TOKENS,
    "cache": _KEPT,
    "leases, queue, cooldowns, transcripts, idempotent answers": _LEASES,
    "API keys": _API_KEYS,
    "sites of conversations": _SITES,
    "causes of cooldowns": _CAUSES,
    "changes of API keys, their requests by second": _KEY_CHANGES,
    "owners and sizes of idempotent answers": _ANSWER_SIZES,
    "streams of each account, a queue that is read in parts": _LEASE_COUNTS,
    "functions in conversations": ("ALTER TABLE conversations ADD COLUMN tools TEXT",),
    "turns of conversations": ("ALTER TABLE conversations ADD COLUMN known_turns TEXT",),
    "chats of stateless requests that stay open": _OPEN_CHATS,
    "request log, sums of requests, states of processes": _REQUESTS,
    "links, sessions and failed logins of the console": _CONSOLE,
    "files that upstreams have": _UPLOADS,
    "files of API keys": _FILES,
    "token renewals that are asked for, work that one process does for all": _RENEWALS,
    "accounts that were added by command": _ACCOUNT_ENTRIES,
    "models and tokens of API keys": (
        "ALTER TABLE api_keys ADD COLUMN models TEXT",
        "ALTER TABLE api_keys ADD COLUMN tokens_per_day BIGINT",
    ),
    "messages to the owner": (
        """CREATE TABLE notifications (
            name VARCHAR NOT NULL PRIMARY KEY, is_on BOOLEAN NOT NULL, since FLOAT NOT NULL, told BOOLEAN NOT NULL,
            told_at FLOAT NOT NULL, tries INTEGER NOT NULL, try_at FLOAT NOT NULL)""",
    ),
    "conversations that Responses opened": (
        # Those of older gateways keep the age that was promised when they began.
        "ALTER TABLE conversations ADD COLUMN kind VARCHAR NOT NULL DEFAULT 'named'",
        "CREATE INDEX conversations_by_kind ON conversations (kind, updated_at)",
    ),
    "leases in one statement on a server": _LEASE_FUNCTIONS,
    "chats that were opened and never named": _LOST_CHATS,
    "shorter functions for leases, one for the queue": _SHORT_LEASE_FUNCTIONS,
    "fewer indexes of leases": _LEASE_INDEXES,
}

# How many migrations this gateway knows.
VERSION = len(_MIGRATIONS)

_FIND_VERSION = sa.select(sa.func.max(schema_version.c.version).label("version"))
_ADD_VERSION = sa.insert(schema_version).values(version=sa.bindparam("version"))


def migrate(database: Database) -> None:
    """Brings the database to the newest version; several workers may start at once.

    Raises StoreUnusable where a newer gateway has been there.
    """
    applied = database.in_exclusive_transaction(lambda tx: _migrate(tx, database))
    if applied:
        log.info("database_migrated version=%d applied=%r", VERSION, applied)


def _migrate(tx: Transaction, database: Database) -> list[str]:
    """Returns the names of the migrations that were applied. In them ``{bytes}`` stands for the type of bytes, and
    ``{true}`` for what a boolean column is compared with."""
    tx.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = tx.row(_FIND_VERSION)
    version = row["version"] or 0 if row else 0
    if version > VERSION:
        raise StoreUnusable(f"DATABASE_URL: the database has version {version}, this gateway knows {VERSION}")
    missing = list(_MIGRATIONS.items())[version:]
    for number, (_, statements) in enumerate(missing, start=version + 1):
        for sql in statements:
            if database.is_server or not isinstance(sql, ServerOnly):
                true = "true" if database.is_server else "1"
                tx.execute(sql.replace("{bytes}", database.bytes_type).replace("{true}", true))
        tx.run(_ADD_VERSION, version=number)
    return [name for name, _ in missing]
