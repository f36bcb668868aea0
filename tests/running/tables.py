"""The gateway's tables, for what a test has to see or to change behind the gateway's back. The only place where tests
know their names.
"""

import time
from dataclasses import dataclass

from tests.running.databases import Database, SqliteDatabase


@dataclass(frozen=True)
class Cooldown:
    """``scope`` is empty for the whole account, else a model; ``seconds``: how much longer; ``failures`` in a row."""

    account_id: str
    scope: str
    seconds: float
    failures: int


@dataclass(frozen=True)
class ChatToDelete:
    """``tries`` were made so far, the next one is due in ``due_in_s``."""

    chat_id: str
    upstream: str
    tries: int
    due_in_s: float


@dataclass(frozen=True)
class Tables:
    """Of one database. What is written here counts for the gateway when it looks the next time."""

    database: Database

    # Accounts

    def cooldowns(self) -> list[Cooldown]:
        rows = self.database.run("SELECT account_id, scope, until, strikes FROM rests")
        return [Cooldown(account, scope, until - time.time(), failures) for account, scope, until, failures in rows]

    def let_cooldowns_end(self) -> None:
        """As if their time had passed; how often the accounts have failed stays."""
        self.database.run("UPDATE rests SET until = 1")

    def cool_all_accounts_down(self, seconds: float, failures: int = 1) -> None:
        """For so long from now on; a negative time means that they are about to come back."""
        self.database.run("DELETE FROM rests")
        self.database.run("DELETE FROM uploads")
        until = time.time() + seconds
        self.database.run(
            "INSERT INTO rests (account_id, scope, until, strikes) SELECT id, '', CAST(? AS FLOAT), ? FROM accounts",
            until,
            failures,
        )

    def refused_accounts(self) -> list[str]:
        """Ids of the accounts whose token Kimi has rejected."""
        return [row[0] for row in self.database.run("SELECT id FROM accounts WHERE refused IS NOT NULL")]

    def forget_what_accounts_did(self) -> None:
        """As if all of them had just been added."""
        self.database.run_all(
            "DELETE FROM rests",
            "DELETE FROM uploads",
            # A later test would see the search.
            "DELETE FROM lost_chats",
            "UPDATE accounts SET refused = NULL, next_at = 0 WHERE refused IS NOT NULL OR next_at != 0",
        )

    def put_next_turns_off(self, seconds: float) -> None:
        """As if the last turn of every account had been so much later."""
        self.database.run("UPDATE accounts SET next_at = next_at + ?", seconds)

    def running_turns(self) -> int:
        """How many turns hold an account."""
        return self._count("SELECT count(*) FROM leases")

    def questions_of_turns(self) -> list[tuple[str, float]]:
        """Of each turn that holds an account, the digests of what it asks, and when it began."""
        return list(self.database.run("SELECT question, started_at FROM leases ORDER BY id"))

    def uploads(self) -> int:
        """How many files of accounts are remembered."""
        return self._count("SELECT count(*) FROM uploads")

    def waiting_turns(self) -> int:
        """How many requests wait for an account."""
        return self._count("SELECT count(*) FROM line")

    def nothing_runs_or_waits(self) -> bool:
        return not self._count("SELECT (SELECT count(*) FROM leases) + (SELECT count(*) FROM line)")

    def make_accounts_unwritable(self) -> None:
        """A view in the place of the table: file permissions would not stop a test that runs as root."""
        self.database.run("DROP TABLE accounts")
        self.database.run("CREATE VIEW accounts AS SELECT 'x' AS id, 1 AS last_turn")

    def spoil_the_queue(self) -> None:
        """What the requests that wait want cannot be read any more, until ``mend_the_queue``."""
        self.database.run("ALTER TABLE wishes RENAME TO hidden_wishes")

    def mend_the_queue(self) -> None:
        self.database.run("ALTER TABLE hidden_wishes RENAME TO wishes")

    def held(self) -> list[tuple[str, bool]]:
        """What holds an account or waits for one: its kind, and whether its process is alive."""
        lives = "process_id IN (SELECT id FROM processes WHERE until > ? OR until < 0)"
        sql = " ".join(("SELECT 'turn',", lives, "FROM leases UNION ALL SELECT 'waiting',", lives, "FROM line"))
        return [(kind, bool(alive)) for kind, alive in self.database.run(sql, time.time(), time.time())]

    def leftovers(self) -> dict[str, int]:
        """Rows that belong to nothing, by their kind. For a gateway on which nothing runs."""
        wrong = {
            "wishes that no request has": "wishes WHERE id NOT IN (SELECT wish_id FROM line)",
            "uses of API keys": "api_key_uses",
            "turns of no open chat": "open_chat_turns WHERE chat_id NOT IN (SELECT chat_id FROM open_chats)",
            "accounts with a wrong number of streams": (
                "accounts WHERE streams <> (SELECT count(*) FROM leases WHERE account_id = accounts.id)"
            ),
        }
        counts = {kind: self._count(" ".join(("SELECT count(*) FROM", rows))) for kind, rows in wrong.items()}
        return {kind: number for kind, number in counts.items() if number}

    # Processes

    def living_processes(self) -> int:
        """A process that has nothing to do writes a negative value."""
        return self._count("SELECT count(*) FROM processes WHERE until > ? OR until < 0", time.time())

    def let_processes_be_dead(self) -> None:
        """As if others had found all of them dead: what they held is deleted."""
        # At once: a process that found one of its rows gone, and wrote it anew, would miss the next ones.
        self.database.run_all(
            "DELETE FROM processes", "DELETE FROM leases", "DELETE FROM line", "UPDATE accounts SET streams = 0"
        )

    def processes_live_until(self) -> float | None:
        """When the process that was heard of last will count as dead; None where there is none."""
        ((until,),) = self.database.run("SELECT max(abs(until)) FROM processes")
        return until if until is None else float(until)

    # Conversations

    def owners(self) -> set[str]:
        """Who has conversations."""
        return {row[0] for row in self.database.run("SELECT owner FROM conversations")}

    def conversations_in_use(self) -> list[str]:
        """Those that a turn of a living process holds."""
        sql = (
            "SELECT c.id FROM conversations c JOIN processes p ON p.id = c.process_id "
            "WHERE c.held_until > ? AND (p.until > ? OR p.until < 0)"
        )
        return [row[0] for row in self.database.run(sql, time.time(), time.time())]

    def chats_of_conversations(self) -> set[str]:
        return {row[0] for row in self.database.run("SELECT chat_id FROM conversations")}

    def let_conversation_age(self, conversation: str, seconds: float) -> None:
        self.database.run("UPDATE conversations SET updated_at = updated_at - ? WHERE id = ?", seconds, conversation)

    def forbid_ends_of_turns(self) -> None:
        """What is noted at the end of a turn fails, until ``allow_changes``, although the database lives."""
        self._forbid("UPDATE OF turns", fails=True)

    def forbid_deletions(self, *, fails: bool) -> None:
        """No conversation can be deleted, until ``allow_changes``. Without ``fails`` it is as if another request had
        taken each of them."""
        self._forbid("DELETE", fails=fails)

    def _forbid(self, change: str, *, fails: bool) -> None:
        if isinstance(self.database, SqliteDatabase):
            what = "FAIL, 'x'" if fails else "IGNORE"
            self.database.run(
                f"CREATE TRIGGER broken BEFORE {change} ON conversations BEGIN SELECT RAISE({what}); END"
            )
            return
        what = "RAISE EXCEPTION 'x'" if fails else "RETURN NULL"
        self.database.run(
            f"CREATE OR REPLACE FUNCTION fail() RETURNS trigger AS $$ BEGIN {what}; END $$ LANGUAGE plpgsql"
        )
        self.database.run(
            f"CREATE TRIGGER broken BEFORE {change} ON conversations FOR EACH ROW EXECUTE FUNCTION fail()"
        )

    def allow_changes(self) -> None:
        of = "" if isinstance(self.database, SqliteDatabase) else " ON conversations"
        self.database.run("DROP TRIGGER broken" + of)

    def transcript_lines(self, conversation: str) -> int:
        """How many are kept of it."""
        return self._count("SELECT count(*) FROM transcripts WHERE conversation_id = ?", conversation)

    # Chats that stay open

    def open_chats(self) -> int:
        """How many stateless requests may continue in."""
        return self._count("SELECT count(*) FROM open_chats")

    def open_chats_in_use(self) -> int:
        """How many of them a request has."""
        return self._count("SELECT count(*) FROM open_chats WHERE holder <> ''")

    def turns_of_open_chats(self) -> int:
        """How many turns can be found in them."""
        return self._count("SELECT count(*) FROM open_chat_turns")

    def forget_open_chats(self) -> None:
        """As if there had been none."""
        self.database.run("DELETE FROM open_chat_turns")
        self.database.run("DELETE FROM open_chats")

    def let_accounts_of_open_chats_cool_down(self, seconds: float) -> None:
        self.database.run(
            "INSERT INTO rests (account_id, scope, until, strikes) "
            "SELECT DISTINCT account_id, '', CAST(? AS FLOAT), 1 FROM open_chats",
            time.time() + seconds,
        )

    def let_open_chats_age(self, seconds: float) -> None:
        self.database.run("UPDATE open_chats SET used_at = used_at - ?", seconds)

    # Chats to delete

    def chats_to_delete(self) -> list[ChatToDelete]:
        """The most urgent first."""
        rows = self.database.run("SELECT chat_id, upstream, tries, due_at FROM litter ORDER BY due_at")
        return [ChatToDelete(chat, upstream, tries, due - time.time()) for chat, upstream, tries, due in rows]

    def lost_chats(self) -> int:
        return self._count("SELECT count(*) FROM lost_chats")

    def let_searches_be_due(self) -> None:
        """All lost chats are looked for now. A gateway that starts does it at once, others within a minute."""
        self.database.run("UPDATE lost_chats SET due_at = 1")

    def searches_are_due(self) -> bool:
        """Whether what ``let_searches_be_due`` wanted is not done yet."""
        return self._count("SELECT count(*) FROM lost_chats WHERE due_at = 1") > 0

    def conversations_whose_chat_is_to_be_deleted(self) -> int:
        return self._count("SELECT count(*) FROM litter WHERE chat_id IN (SELECT chat_id FROM conversations)")

    def let_deletions_be_due(self, *, first: str | None = None, tries: int | None = None) -> int:
        """All of them now, ``first`` (a chat or an upstream) before the others; ``tries``: as if so many had been
        made. How many there are."""
        before = len(self.chats_to_delete())
        self.database.run(
            "UPDATE litter SET due_at = CASE WHEN ? IN (chat_id, upstream) THEN 1 ELSE 2 END", first or ""
        )
        if tries is not None:
            self.database.run("UPDATE litter SET tries = ?", tries)
        return before

    def let_deletion_be_due(self, chat_id: str) -> None:
        """Of this one, and only just."""
        self.database.run("UPDATE litter SET due_at = ? WHERE chat_id = ?", time.time(), chat_id)

    def put_deletions_off(self) -> None:
        self.database.run("UPDATE litter SET due_at = due_at + 1000000")

    def forbid_notes_of_lost_chats(self) -> None:
        """Until ``allow_notes_of_lost_chats``."""
        self.database.run("ALTER TABLE lost_chats RENAME TO lost_chats_elsewhere")

    def allow_notes_of_lost_chats(self) -> None:
        self.database.run("ALTER TABLE lost_chats_elsewhere RENAME TO lost_chats")

    def forbid_notes_of_chats(self) -> None:
        """No chat can be noted for deletion any more, until ``allow_notes_of_chats``. SQLite."""
        self.database.run(
            "CREATE TRIGGER no_notes BEFORE INSERT ON litter BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )

    def allow_notes_of_chats(self) -> None:
        self.database.run("DROP TRIGGER no_notes")

    # Answers that are kept for repetitions

    def kept_answers(self) -> list[str | None]:
        """Sealed; None where the answer is still being made."""
        return [row[0] for row in self.database.run("SELECT content FROM recordings")]

    def let_answers_age(self, seconds: float) -> None:
        self.database.run("UPDATE recordings SET begun_at = begun_at - ?", seconds)

    # Login tokens and API keys

    def token_version(self) -> int:
        """Of the one account that is renewed: 1 is the pair of KIMI_TOKENS."""
        ((version,),) = self.database.run("SELECT version FROM tokens")
        return int(version)

    def let_renewals_time_out(self) -> None:
        """As if whoever renews a token had not been heard of for too long."""
        self.database.run("UPDATE tokens SET held_until = 1 WHERE held_until > 1")

    def refresh_token(self) -> str:
        """Of the one account that is renewed, as it is kept."""
        ((token,),) = self.database.run("SELECT refresh_token FROM tokens")
        return str(token)

    def keeps_plain_tokens(self) -> bool:
        """Whether tokens are kept in it that nobody asked to be sealed."""
        sql = "SELECT refresh_token FROM tokens UNION ALL SELECT login FROM account_entries WHERE login IS NOT NULL"
        rows = self.database.run(sql)
        return any(not token.startswith("fernet1:") for (token,) in rows)

    def added_accounts(self) -> list[tuple[str, bool, bool]]:
        """Of each account whose token was added by command: its name, whether that token is the one that its chain of
        pairs began with, and whether that token is sealed."""
        rows = self.database.run(
            "SELECT label, account_entries.source = tokens.source, account_entries.login FROM account_entries "
            "LEFT JOIN tokens USING (account_id) WHERE account_entries.source IS NOT NULL ORDER BY added_at"
        )
        return [(label, bool(begun), login.startswith("fernet1:")) for label, begun, login in rows]

    def spoil_added_accounts(self) -> None:
        """One is there, and nobody can read it."""
        self.database.run(
            "INSERT INTO account_entries (account_id, label, settings_seen, version) VALUES ('x', 'x', 'no JSON', '')"
        )
        self.database.run("INSERT INTO kept VALUES ('account-entries-revision', 'another', 1)")

    def chains_without_account(self) -> int:
        """How many chains of pairs no added account belongs to."""
        return self._count(
            "SELECT count(*) FROM tokens WHERE account_id NOT IN (SELECT account_id FROM account_entries)"
        )

    def reads_of_tokens(self) -> int:
        """How often they have been read so far, as PostgreSQL counts, which is a second late."""
        sql = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'tokens'"
        return self._count(sql)

    def let_key_expire(self, name: str, at: float = 1.0) -> None:
        self.database.run("UPDATE api_keys SET expires_at = ? WHERE name = ?", at, name)

    # Kimi's list of models

    def keep_a_catalogue(self, site: str, text: str) -> None:
        """As if this had been read far in the future."""
        self.database.run("INSERT INTO kept VALUES (?, ?, 1e12)", f"models@{site}", text)

    def has_catalogue(self) -> bool:
        return self._count("SELECT count(*) FROM kept WHERE name LIKE ?", "models@%") > 0

    def forget_facts(self) -> None:
        self.database.run_all("DELETE FROM facts", "DELETE FROM kept")

    def catalogue(self, site: str) -> str:
        ((text,),) = self.database.run("SELECT value FROM kept WHERE name = ?", f"models@{site}")
        return str(text)

    # All

    def make_times_later(self, seconds: float) -> None:
        """Of all that a day brings to nothing."""
        self.database.run("UPDATE recordings SET begun_at = begun_at + ?", seconds)
        self.database.run("UPDATE rests SET until = until + ?", seconds)
        self.database.run("UPDATE litter SET due_at = due_at + ?", seconds)

    # What Kimi said that the gateway does not know

    def unrecognised(self) -> set[tuple[str, str]]:
        """Upstream and kind."""
        return {(upstream, kind) for upstream, kind in self.database.run("SELECT upstream, kind FROM unrecognised")}

    def forbid_notes_of_unrecognised(self) -> None:
        self.database.run("ALTER TABLE unrecognised RENAME TO gone")

    def _count(self, sql: str, *values: object) -> int:
        ((count,),) = self.database.run(sql, *values)
        return int(count)
