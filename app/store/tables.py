"""All tables of the database, declared once. ``migrations`` creates them; a test compares the two.

The names in quotes are those of the database and never change. Some are older than the words that Python uses: the
variable then says what the table holds today. Times are Unix seconds. Knows no statement and no policy.
"""

import sqlalchemy as sa

METADATA = sa.MetaData()

# How many migrations have been applied: the highest number counts.
schema_version = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, nullable=False))

# The Kimi accounts, as all workers know them.
accounts = sa.Table(
    "accounts",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("last_turn", sa.BigInteger, nullable=False),  # number of its latest stream, counted over all accounts
    sa.Column("next_at", sa.Float, nullable=False, server_default=sa.text("0")),  # earliest start of its next stream
    sa.Column("refused", sa.String),  # digest of the token that Kimi has rejected
    sa.Column("streams", sa.Integer, nullable=False, server_default=sa.text("0")),  # its rows in ``leases``
    # When a gateway last had it.
    sa.Column("seen_at", sa.Float, nullable=False, server_default=sa.text("0")),
    # In the order in which they are used.
    sa.Index("accounts_by_use", "streams", "last_turn", "id"),
    sa.Index("accounts_by_turn", "last_turn"),
)

# The newest token pair of each account that is refreshed.
tokens = sa.Table(
    "tokens",
    METADATA,
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column(
        "source", sa.String, nullable=False
    ),  # digest of the KIMI_TOKENS entry that the chain of pairs began with
    sa.Column("version", sa.Integer, nullable=False),  # number of the pair in its chain; grows with every change
    sa.Column("access_token", sa.Text),  # sealed
    sa.Column("refresh_token", sa.Text),  # sealed
    sa.Column("expires_at", sa.Float),  # of the access token
    sa.Column("trouble", sa.String),  # why the last refresh failed
    sa.Column("dead", sa.Boolean, nullable=False),  # Kimi refuses the refresh token
    sa.Column("holder", sa.String, nullable=False),  # random id of the process that may refresh it
    sa.Column("held_until", sa.Float, nullable=False),
    # The version that is to be refreshed, if it is still the newest one, and the role of the process that does it.
    sa.Column("wanted", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("wanted_of", sa.String, nullable=False, server_default=""),
    sa.Column("login", sa.Text),  # JSON, sealed: what that process needs to know of the account
    sa.Column("stored_at", sa.Float),  # when this pair was stored; NULL for those of older gateways
)

# What was said about accounts by command or in the console. Accounts of KIMI_TOKENS have a row only if something was.
account_entries = sa.Table(
    "account_entries",
    METADATA,
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column("label", sa.String, nullable=False),  # empty: that of KIMI_TOKENS
    # Digest of the token that was added here; NULL if the token is that of KIMI_TOKENS.
    sa.Column("source", sa.String),
    # JSON list: the digests that KIMI_TOKENS had for this account when a gateway learned of that token.
    sa.Column("settings_seen", sa.Text, nullable=False),
    sa.Column("login", sa.Text),  # JSON, sealed: the tokens as they were added
    sa.Column("site", sa.String),  # base URL; NULL: it follows from the settings and the token
    sa.Column("proxy", sa.Text),  # URL, sealed; NULL: that of the settings
    sa.Column("added_at", sa.Float),
    sa.Column("paused_at", sa.Float),  # NULL: it is not paused
    sa.Column("version", sa.String, nullable=False),  # random, another one after each change
)

# Work that one process does for all, and which process that is.
roles = sa.Table(
    "roles",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("holder", sa.String, nullable=False),  # random id of the process
    sa.Column("held_until", sa.Float, nullable=False),
)

# Processes that count as alive. What a process holds in other tables is valid until then.
processes = sa.Table(
    "processes",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("until", sa.Float, nullable=False),  # changes with each renewal; negative if it rests
    # What it is doing, for people: JSON, see ``ledger.live``. NULL for older gateways.
    sa.Column("state", sa.Text),
)

# Streams that run on an account.
leases = sa.Table(
    "leases",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("process_id", sa.String, nullable=False),
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("scope", sa.String, nullable=False),  # the model
    sa.Column("is_probe", sa.Boolean, nullable=False),  # the first stream after a cooldown
    sa.Column("waited", sa.Boolean, nullable=False),  # its request waits in the queue and does not know yet
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ends_at", sa.Float, nullable=False),
    sa.Column("question", sa.String),  # digests of what it asks in a new chat; NULL: it opens none
    sa.Index("leases_of_an_account", "account_id", "scope", "started_at"),
    # Partial ones: a stream that begins at once is in neither.
    sa.Index(
        "leases_that_waited", "process_id", sqlite_where=sa.text("waited = 1"), postgresql_where=sa.text("waited")
    ),
    sa.Index(
        "probes_of_a_model",
        "scope",
        "started_at",
        sqlite_where=sa.text("is_probe = 1"),
        postgresql_where=sa.text("is_probe"),
    ),
)

# Requests that wait for an account.
queue = sa.Table(
    "line",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("process_id", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),  # the API key
    sa.Column("wish_id", sa.String, nullable=False),
    sa.Column("place", sa.BigInteger, nullable=False),  # its position; several requests may share one
    sa.Column("joined_at", sa.Float, nullable=False),
    sa.Column("ends_at", sa.Float, nullable=False),
    sa.Column("dropped", sa.Boolean, nullable=False),  # others needed its place; its request does not know yet
    sa.Column("question", sa.String),  # see leases
    sa.Index("line_in_order", "place", "joined_at", "id"),
    sa.Index("line_of_an_owner", "owner", "place"),
    sa.Index("line_of_a_wish", "wish_id", "place", "joined_at", "id"),
    sa.Index("line_of_a_process", "process_id", "dropped"),
)

# What requests in the queue wait for: most of them wait for the same. Rows that no request refers to are deleted.
wishes = sa.Table(
    "wishes",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),  # a digest of the rest
    sa.Column("scope", sa.String, nullable=False),  # the model
    sa.Column("account_id", sa.String),  # if only one account may serve, as for most conversations
    sa.Column("token", sa.String),  # digest of the token of that account
    sa.Column("accounts", sa.Text, nullable=False),  # JSON: account id → digest of its token
)

# Accounts, models of them, or models of all accounts that get no requests for a while after a failure.
cooldowns = sa.Table(
    "rests",
    METADATA,
    sa.Column("account_id", sa.String, primary_key=True),  # "" for all accounts
    sa.Column("scope", sa.String, primary_key=True),  # a model, or "" for the whole account
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("strikes", sa.Integer, nullable=False),  # failures in a row
    sa.Column("cause", sa.String, nullable=False, server_default=""),  # of the last failure, where it matters
)

conversations = sa.Table(
    "conversations",
    METADATA,
    sa.Column("owner", sa.String, primary_key=True),  # the API key
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("account_id", sa.String),
    sa.Column("upstream", sa.String),
    sa.Column("chat_id", sa.String),  # of Kimi; NULL until there is a chat
    sa.Column("message_id", sa.String),  # of Kimi's last message in it
    sa.Column("system_digest", sa.String),  # digest of the instructions that Kimi has read
    sa.Column("turns", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("holder", sa.String, nullable=False),  # random id of the turn that has the conversation
    sa.Column("held_until", sa.Float, nullable=False),
    sa.Column("process_id", sa.String, nullable=False, server_default=""),  # of the holder
    sa.Column("site", sa.String),  # of the account; NULL until there is a chat, and in rows of older gateways
    sa.Column("tools", sa.Text),  # what Kimi has read about functions, as JSON: the code of headings, a digest
    # Its turns: digests and ids of answers, no text. JSON, see ``conversations.branches``; NULL in rows of older
    # gateways.
    sa.Column("known_turns", sa.Text),
    # How it began, which decides how long it is kept: see ``store.conversations.Kind``.
    sa.Column("kind", sa.String, nullable=False, server_default="named"),
    sa.Index("conversations_by_age", "updated_at"),
    sa.Index("conversations_by_kind", "kind", "updated_at"),
)

# What was said in conversations, one row per message. Empty unless transcripts are switched on.
transcripts = sa.Table(
    "transcripts",
    METADATA,
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("conversation_id", sa.String, primary_key=True),
    sa.Column("turn", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),  # number of the message in its turn
    sa.Column("role", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),  # sealed
)

# Kimi chats of stateless requests that a later request may continue in. No text.
open_chats = sa.Table(
    "open_chats",
    METADATA,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("chat_id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),  # the API key
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("site", sa.String, nullable=False),  # of the account
    # Digests and ids of answers. JSON, see ``conversations.recognition``.
    sa.Column("turns", sa.Text, nullable=False),
    sa.Column("last_turn", sa.Integer, nullable=False),  # number of the newest of them
    sa.Column("used_at", sa.Float, nullable=False),
    sa.Column("holder", sa.String, nullable=False),  # random id of the request that has it now; "" for none
    sa.Column("process_id", sa.String, nullable=False),  # of the holder
    sa.Index("open_chats_of_an_owner", "owner", "used_at"),
    sa.Index("open_chats_by_use", "used_at"),
)

# By what a request repeats, the turns of open chats that it may follow.
open_chat_turns = sa.Table(
    "open_chat_turns",
    METADATA,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("chat_id", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # of the turn in its chat
    sa.Column("digest", sa.String, nullable=False),
    sa.Index("open_chat_turns_by_digest", "digest"),
)

# Kimi chats that are to be deleted.
pending_deletions = sa.Table(
    "litter",
    METADATA,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("chat_id", sa.String, primary_key=True),
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Index("litter_by_due_time", "due_at"),
    sa.Index("litter_by_chat", "chat_id"),
)

# Streams that have ended before Kimi named the chat which they may have opened.
lost_chats = sa.Table(
    "lost_chats",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),  # of the lease
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("question", sa.String, nullable=False),  # digests of what was asked
    sa.Column("began_at", sa.Float, nullable=False),  # the stream
    sa.Column("lost_at", sa.Float, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),  # when the chat is looked for
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Index("lost_chats_by_due_time", "due_at"),
)

# Answers to requests with an Idempotency-Key.
idempotent_answers = sa.Table(
    "recordings",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("request", sa.String, nullable=False),  # a digest
    sa.Column("process_id", sa.String, nullable=False),  # of the holder
    sa.Column("holder", sa.String, nullable=False),  # random id of the request that began the answer
    sa.Column("content", sa.Text),  # sealed; NULL until the answer is complete
    sa.Column("begun_at", sa.Float, nullable=False),
    sa.Column("owner", sa.String, nullable=False, server_default=""),  # the API key
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),  # of the content
    sa.Index("recordings_by_age", "begun_at"),
    # With the size, so that adding up reads no content.
    sa.Index("recordings_of_an_owner", "owner", "begun_at", "bytes"),
)

# API keys that were added by command. A revoked key stays.
api_keys = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
    sa.Column("per_minute", sa.Integer),  # requests in any minute; NULL for any number
    sa.Column("at_once", sa.Integer),  # requests at the same time; NULL for any number
    sa.Column(
        "version", sa.BigInteger, nullable=False, server_default=sa.text("0")
    ),  # grows with every change of any
    sa.Column("models", sa.Text),  # those that it may use, with commas, * for any characters; NULL for all
    sa.Column("tokens_per_day", sa.BigInteger),  # by our estimate, in any day of UTC; NULL for any number
    sa.Index("api_keys_by_version", "version"),
)

# Requests of API keys that have a limit of requests at the same time, while they run.
api_key_uses = sa.Table(
    "api_key_uses",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),  # of the key
    sa.Column("process_id", sa.String, nullable=False),
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("ends_at", sa.Float, nullable=False),  # the request runs until then at the latest
    sa.Index("api_key_uses_of_a_key", "digest", "began_at"),
)

# How many requests of an API key that has a limit per minute began in a second of the last minute.
api_key_seconds = sa.Table(
    "api_key_seconds",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),  # of the key
    sa.Column("second", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("newest_at", sa.Float, nullable=False),  # when the last of them began
    sa.Index("api_key_seconds_by_age", "second"),
)

# Links that let somebody into the console, once. Only digests are kept.
console_tickets = sa.Table(
    "console_tickets",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False),
)

# Browsers that are signed in to the console.
console_sessions = sa.Table(
    "console_sessions",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),  # of the cookie
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),  # of its last request, to the minute
    sa.Column("browser", sa.String, nullable=False),  # "Firefox, Linux"
    sa.Column("draft", sa.Text),  # sealed: what was pasted and not saved yet
    sa.Column("draft_until", sa.Float),
)

# Wrong passwords of the last minutes.
console_failures = sa.Table(
    "console_failures",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("address", sa.String, nullable=False),  # a keyed digest of the client's address
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("console_failures_by_age", "at"),
)

# Values that never change once written.
constants = sa.Table(
    "facts",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# Values that are replaced by newer ones.
cache = sa.Table(
    "kept",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("kept_at", sa.Float, nullable=False),
)

# Files that API keys have uploaded.
files = sa.Table(
    "files",
    METADATA,
    sa.Column("owner", sa.String, primary_key=True),  # the API key
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("media_type", sa.String, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String, nullable=False),  # SHA-256 of its bytes
    sa.Column("in_database", sa.Boolean, nullable=False),  # its bytes are in ``file_pieces``
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Index("files_of_an_owner", "owner", "created_at", "id"),
    sa.Index("files_by_id", "id"),
    sa.Index("files_by_end", "expires_at"),
)

# Their bytes, where they are kept in the database.
file_pieces = sa.Table(
    "file_pieces",
    METADATA,
    sa.Column("file_id", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("put_at", sa.Float, nullable=False),
)

# Files that an upstream has of an account.
uploads = sa.Table(
    "uploads",
    METADATA,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, primary_key=True),  # of its bytes and its name
    sa.Column("file_id", sa.String, nullable=False),  # of the upstream
    sa.Column("uploaded_at", sa.Float, nullable=False),
    sa.Index("uploads_by_age", "uploaded_at"),
)

# Frames and events of an upstream that this gateway does not know, counted.
unrecognised = sa.Table(
    "unrecognised",
    METADATA,
    sa.Column("upstream", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("last_seen_at", sa.Float, nullable=False),
)

# Requests to the public APIs that have ended. Nothing of what was said, and nothing that lets anybody in.
requests = sa.Table(
    "requests",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),  # begins with the time of its end: sorted by it
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("request_id", sa.String, nullable=False),  # the id that the client and the log know it by
    sa.Column("owner", sa.String, nullable=False),  # the API key; "" for none that is known
    sa.Column("api", sa.String, nullable=False),
    sa.Column("is_stream", sa.Integer, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("protocol", sa.String, nullable=False),
    sa.Column("account_id", sa.String, nullable=False),  # of the last attempt
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("ending", sa.String, nullable=False),  # a finish reason, "left", or the code of an error
    sa.Column("blame", sa.String, nullable=False),  # "" where it has not failed
    sa.Column("waited_ms", sa.Integer, nullable=False),
    sa.Column("first_ms", sa.Integer),
    sa.Column("total_ms", sa.Integer, nullable=False),
    sa.Column("longest_ms", sa.Integer),
    sa.Column("chars_in", sa.Integer, nullable=False),
    sa.Column("chars_out", sa.Integer, nullable=False),
    sa.Column("chars_thought", sa.Integer, nullable=False),
    sa.Column("tokens_in", sa.Integer),
    sa.Column("tokens_out", sa.Integer),
    sa.Column("tokens_thought", sa.Integer),
    sa.Column("flags", sa.Integer, nullable=False),
    sa.Column("conversation", sa.String, nullable=False),  # the beginning of a keyed digest
    sa.Column("client", sa.String, nullable=False),
    sa.Column("trace", sa.String, nullable=False),
    sa.Column("n", sa.Integer, nullable=False),  # how many requests the row stands for
    sa.Index("requests_by_request_id", "request_id"),
)

# The attempts of these requests, where there were several or the last one failed.
attempts = sa.Table(
    "attempts",
    METADATA,
    sa.Column("request", sa.String, primary_key=True),  # ``requests.id``
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("protocol", sa.String, nullable=False),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("blame", sa.String, nullable=False),
    sa.Column("ms", sa.Integer, nullable=False),
    sa.Column("cooldown_s", sa.Float, nullable=False),
)

# Sums of requests. Days are those of UTC, counted from 1970.
usage_days = sa.Table(
    "usage_days",
    METADATA,
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
    sa.Column("tokens_thought", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

# The same for each hour since 1970, of all together.
usage_hours = sa.Table(
    "usage_hours",
    METADATA,
    sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
)

# Counters that only grow, for ``/metrics``.
tallies = sa.Table(
    "tallies",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("labels", sa.String, primary_key=True),  # JSON
    sa.Column("n", sa.Float, nullable=False),
)

# The last step that each process has written into the tables above.
ledger_steps = sa.Table(
    "ledger_steps",
    METADATA,
    sa.Column("process_id", sa.String, primary_key=True),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("written_at", sa.Float, nullable=False),
)

# What the owner is told of by messages.
notifications = sa.Table(
    "notifications",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("is_on", sa.Boolean, nullable=False),  # it is so now
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False),  # the last value of ``is_on`` that the owner was told
    sa.Column("told_at", sa.Float, nullable=False),  # 0: never
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("try_at", sa.Float, nullable=False),  # not earlier
)
