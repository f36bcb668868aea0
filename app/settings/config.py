"""The settings: names of environment variables, units, defaults, and what is invalid.

The only file that reads the environment. Must never know who uses a value.
"""

import contextlib
import functools
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from app.chat import CitationStyle
from app.settings.credentials import Credential, CredentialError, parse_credentials

# Where .env is looked for, and what the path of a database begins from.
_HOME = Path(__file__).absolute().parent.parent.parent


class ConfigError(Exception):
    """A setting that cannot be used. One line: its name, what is wrong, the accepted form."""


class _SecretFound(ValueError):
    """A value, of a setting that is none, which holds a secret: it is not shown."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients may send, and what its owner calls it."""

    name: str | None
    secret: str = field(repr=False)


def _setting(name: str, default: str | None, about: str) -> Any:
    secret = name in ("KIMI_TOKENS", "GATEWAY_API_KEYS", "DATABASE_URL", "GATEWAY_SECRET")
    return field(repr=not secret, metadata={"name": name, "default": default, "about": about})


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set; made by ``Config.from_env`` and never changed afterwards."""

    credentials: tuple[Credential, ...] = _setting(
        "KIMI_TOKENS", None, "Kimi tokens, comma-separated; `name=token` gives one a label. Required."
    )
    api_keys: tuple[ApiKey, ...] = _setting(
        "GATEWAY_API_KEYS",
        "",
        "Keys that clients must send, comma-separated; `name=key` gives one a name. Unset, and none added by "
        "`flask --app wsgi keys add`: any key is accepted, from this machine only.",
    )
    host: str = _setting("HOST", "127.0.0.1", "Address that gunicorn listens on.")
    port: int = _setting("PORT", "8000", "Port that gunicorn listens on.")
    workers: int = _setting("WEB_CONCURRENCY", "2", "gunicorn worker processes; one per core is plenty.")
    database_url: str = _setting(
        "DATABASE_URL",
        "sqlite:///data/gateway.db",
        "Where conversations and tokens are kept: a file, or postgresql+psycopg://user:password@host/database.",
    )
    kimi_base_url: str = _setting(
        "KIMI_BASE_URL", "https://www.kimi.com", "The Kimi site. https://www.kimi.ai outside mainland China."
    )
    kimi_auth_url: str = _setting(
        "KIMI_AUTH_URL", "https://auth.kimi.com", "Where tokens are refreshed. https://auth.kimi.ai for kimi.ai."
    )
    gateway_secret: str | None = _setting(
        "GATEWAY_SECRET", "", "A password of your own that seals the refreshed tokens in the database."
    )
    kimi_protocol: str = _setting(
        "KIMI_PROTOCOL",
        "auto",
        "auto, sse (the older protocol only) or connect (the newer only).",
    )
    keep_chats: bool = _setting(
        "KIMI_KEEP_CHATS", "0", "1 keeps the Kimi chats of stateless requests instead of deleting them."
    )
    heartbeat_s: float = _setting(
        "HEARTBEAT_S", "15", "Seconds of silence after which a waiting client is sent an SSE comment."
    )
    commit_after_s: float = _setting(
        "COMMIT_AFTER_S",
        "10",
        "Seconds without an answer after which a stream's headers go out all the same.",
    )
    connect_timeout_s: float = _setting("CONNECT_TIMEOUT_S", "10", "Seconds to wait for a connection to Kimi.")
    first_event_timeout_s: float = _setting(
        "FIRST_EVENT_TIMEOUT_S", "120", "Seconds to wait for the first sign of an answer from Kimi."
    )
    idle_timeout_s: float = _setting(
        "IDLE_TIMEOUT_S", "120", "Seconds of complete silence in the middle of an answer."
    )
    total_timeout_s: float = _setting("TOTAL_TIMEOUT_S", "1800", "Seconds that one answer may take in all.")
    max_continuations: int = _setting(
        "MAX_CONTINUATIONS", "3", "How often an answer that Kimi cut at its length limit is continued."
    )
    account_max_streams: int = _setting(
        "ACCOUNT_MAX_STREAMS", "2", "Answers that one Kimi account gives at the same time; 0: any number."
    )
    account_min_interval_s: float = _setting(
        "ACCOUNT_MIN_INTERVAL_S", "0", "Seconds, with some chance added, between two turns of one account."
    )
    queue_wait_s: float = _setting(
        "QUEUE_WAIT_S", "30", "Seconds that a request waits for a free account before it is told 429."
    )
    queue_max: int = _setting(
        "QUEUE_MAX", "500", "Requests that may wait for an account, all together; one more is told 429 at once."
    )
    failover_s: float = _setting(
        "FAILOVER_S", "60", "Seconds after which a request that has failed is not tried on another account."
    )
    retry_backoff_s: float = _setting(
        "RETRY_BACKOFF_S", "1", "Seconds, more or less, before the one new try where Kimi as a whole has failed."
    )
    max_conversations: int = _setting(
        "MAX_CONVERSATIONS", "10000", "Conversations that one API key may have; a new one more is told 429."
    )
    conversation_max_age_days: float = _setting(
        "CONVERSATION_MAX_AGE_DAYS",
        "0",
        "Days without a turn after which a conversation and its Kimi chat are deleted; 0: never.",
    )
    store_transcripts: bool = _setting(
        "STORE_TRANSCRIPTS",
        "0",
        "1 keeps what was said in conversations, sealed, so that one whose Kimi chat is lost can go on. "
        "Needs GATEWAY_SECRET.",
    )
    citations: CitationStyle = _setting(
        "CITATIONS",
        "both",
        "What a reference to a web page becomes: annotations, markdown (a link in the text), both, or off "
        "(Kimi's own markers).",
    )
    conversation_wait_s: float = _setting(
        "CONVERSATION_WAIT_S",
        "15",
        "Seconds that a turn waits for an earlier turn of its conversation before it is told 409.",
    )
    lease_s: float = _setting(
        "LEASE_S", "10", "Seconds after which everything that a killed worker held is free again."
    )
    max_body_bytes: int = _setting("MAX_BODY_BYTES", "16777216", "Largest request body, in bytes.")
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS",
        "*",
        "Origins whose pages may call the gateway from a browser, comma-separated; without GATEWAY_API_KEYS only "
        "those named here and those of this machine are served.",
    )
    strict_params: bool = _setting(
        "STRICT_PARAMS", "0", "1 refuses parameters that have no effect here instead of naming them in a header."
    )
    log_level: str = _setting("LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.")

    @property
    def secrets(self) -> list[str]:
        """Everything that must never be seen."""
        tokens = [token for credential in self.credentials for token in credential.secrets]
        own = [self.gateway_secret] if self.gateway_secret else []
        return [*tokens, *(key.secret for key in self.api_keys), *own, *_passwords(self.database_url)]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Config":
        """Reads and checks every setting; raises ConfigError for the first that cannot be used."""
        values = {f.name: _read(env, f.metadata["name"], f.metadata["default"], f.name) for f in fields(cls)}
        config = cls(**values)
        config.check_bind([config.host])
        config.check_transcripts()
        return config

    @classmethod
    def examine(cls, env: Mapping[str, str]) -> "Examination":
        """Reads every setting as ``from_env`` does, and says all that is wrong with them; raises nothing."""
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for f in fields(cls):
            name, default = f.metadata["name"], f.metadata["default"]
            try:
                values[f.name] = _read(env, name, default, f.name)
            except ConfigError as e:
                wrong[name] = str(e)
                values[f.name] = () if default is None else _read({}, name, default, f.name)
        config = cls(**values)
        if "GATEWAY_API_KEYS" not in wrong:
            try:
                config.check_bind([config.host])
            except ConfigError as e:
                wrong["HOST"] = str(e)
        if "GATEWAY_SECRET" not in wrong:
            try:
                config.check_transcripts()
            except ConfigError as e:
                wrong["STORE_TRANSCRIPTS"] = str(e)
        # GATEWAY_INTERFACE belongs to CGI.
        known = {"GATEWAY_INTERFACE", *(f.metadata["name"] for f in fields(cls))}
        unknown = sorted(name for name in env if name.startswith(("KIMI_", "GATEWAY_")) and name not in known)
        return Examination(config, wrong, tuple(unknown))

    def check_transcripts(self) -> None:
        """Refuses to keep message text where anybody could read it."""
        if self.store_transcripts and not self.gateway_secret:
            raise ConfigError("STORE_TRANSCRIPTS=1 keeps message text, which GATEWAY_SECRET must seal: set it, too")

    def check_bind(self, hosts: list[str]) -> None:
        """Refuses to listen beyond this machine when any key would be accepted."""
        for host in hosts:
            if not self.api_keys and not is_loopback(host):
                raise ConfigError(
                    f"HOST={host} can be reached from other machines, but GATEWAY_API_KEYS is not set, "
                    "so anybody could use your Kimi accounts: set GATEWAY_API_KEYS, or HOST=127.0.0.1"
                )


@dataclass(frozen=True, slots=True)
class Examination:
    """``config`` has the default in the place of each setting that cannot be used (KIMI_TOKENS: none).

    ``wrong``: a sentence for each of those, by name. ``unknown``: what is set, looks like ours, and is not.
    """

    config: Config
    wrong: Mapping[str, str]
    unknown: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether an address (or the name localhost) can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def load_env_file() -> None:
    """Puts the settings of ``.env`` into the environment, where they are not yet; raises ConfigError.

    The file is the nearest one, from the folder of the gateway upwards.
    """
    # A process that renews a token inherits the environment and is to start quickly.
    from dotenv import load_dotenv
    from dotenv.parser import parse_stream

    # Not left to dotenv: where the server is no Python program (mod_wsgi, uWSGI) it looks in the working directory.
    file = next((file for folder in (_HOME, *_HOME.parents) if (file := folder / ".env").is_file()), None)
    if file is None:
        return
    try:
        with file.open(encoding="utf-8") as lines:
            bad = [binding.original.line for binding in parse_stream(lines) if binding.error]
        if bad:
            raise ConfigError(
                f".env, line {bad[0]}: expected NAME=value; a value with spaces, quotes or # stands in single quotes"
            )
        load_dotenv(file)
    except OSError as e:
        raise ConfigError(f".env cannot be read: {e.strerror}") from None
    except ValueError:
        # UnicodeDecodeError is one; of UTF-16 without its mark come zero bytes, which no environment takes.
        raise ConfigError(".env is not UTF-8: save .env as UTF-8") from None


def describe_settings() -> list[tuple[str, str | None, str]]:
    """Name, default (None: required) and meaning of every setting, in order of the documentation."""
    return [(f.metadata["name"], f.metadata["default"], f.metadata["about"]) for f in fields(Config)]


def _read(env: Mapping[str, str], name: str, default: str | None, key: str) -> Any:
    text = env.get(name, "").strip() or default
    if text is None:
        raise ConfigError(f"{name} is not set: paste at least one Kimi token (README, 'Get a token')")
    try:
        return _PARSERS[key](text)
    except CredentialError as e:
        raise ConfigError(f"{name}: {e}") from None
    except ValueError as e:
        shown = "" if key in _SECRET or isinstance(e, _SecretFound) else f"={text}"
        raise ConfigError(f"{name}{shown}: {e}") from None


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    return _number(lowest, highest, "a number of seconds")


def _number(lowest: float, highest: float, what: str = "a number") -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not lowest <= value <= highest:
            raise ValueError(f"expected {what} from {lowest:g} to {highest:g}")
        return value

    return parse


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]+", text) or not lowest <= int(text) <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _switch(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("expected 1 or 0")


def _http_url(text: str) -> str:
    if "@" in text:
        raise _SecretFound("without user and password: expected an address such as https://www.kimi.com")
    try:
        parts = urlsplit(text)
        # Only who asks for the port is told that it cannot be one.
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    # urlsplit takes white space for a part of the name, or drops it.
    if not complete or parts.query or parts.fragment or re.search(r"\s", text):
        raise ValueError("expected an address such as https://www.kimi.com")
    return text.rstrip("/")


def _protocol(text: str) -> str:
    if text.lower() not in ("auto", "sse", "connect"):
        raise ValueError("expected auto, sse or connect")
    return text.lower()


def _citations(text: str) -> str:
    if text.lower() not in get_args(CitationStyle):
        raise ValueError("expected annotations, markdown, both or off")
    return text.lower()


def _database_url(text: str) -> str:
    if re.match(r"sqlite:///(?!:memory:).+", text):
        # Where the server runs in another folder it is the same file.
        return text if text.startswith("sqlite:////") else f"sqlite:///{_HOME}/{text.removeprefix('sqlite:///')}"
    # What providers of databases hand out names no driver; there is one here.
    url = re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", text)
    complete = False
    if url.startswith("postgresql+psycopg://"):
        parts = _split_as_sqlalchemy_does(url)
        with contextlib.suppress(ValueError):
            has_host = parts.hostname or "host" in parse_qs(parts.query)
            has_port = parts.port != 0 and not parts.netloc.endswith(":")
            complete = bool(re.match("/+[^/]", parts.path) and has_host and has_port)
    if not complete:
        raise ValueError("expected sqlite:///path/to/file.db or postgresql+psycopg://user:password@host/database")
    return url


# The host begins behind the first "@" (sqlalchemy.engine.url), for urlsplit behind the last one before a slash.
_SQLALCHEMY_SPLITS = re.compile(
    r"[^:]+://(?:[^:/]*(?::(?P<password>[^@]*))?@)?(?:\[(?P<ipv6>[^/?]+)\]|(?P<host>[^/:?]+))?"
)


def _split_as_sqlalchemy_does(url: str) -> SplitResult:
    """The parts of the URL of a server; raises ValueError where SQLAlchemy would find another password or host.

    It would tell a part of the password as the name of a host that is not found. It cannot be asked itself:
    gunicorn's master reads the settings, and must not load what gevent has yet to patch.
    """
    theirs = _SQLALCHEMY_SPLITS.match(url)
    try:
        # For SQLAlchemy there is no fragment.
        parts = urlsplit(url, allow_fragments=False)
        host = parts.hostname
    except ValueError:
        # Its text may have the password in it.
        theirs = None
    if (
        theirs is None
        or (theirs["password"] or "") != (parts.password or "")
        or (theirs["ipv6"] or theirs["host"] or "").lower() != (host or "")
    ):
        raise ValueError(
            "in the user name and the password, write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, "
            "[ as %5B, ] as %5D and % as %25"
        )
    return parts


def _passwords(database_url: str) -> list[str]:
    """The password in the URL: as it is, and as it is written there."""
    parts = urlsplit(database_url, allow_fragments=False)
    written = [parts.password or "", *parse_qs(parts.query).get("password", [])]
    return [password for text in written if text for password in dict.fromkeys((text, unquote(text)))]


def _keys(text: str) -> tuple[ApiKey, ...]:
    keys = tuple(_key(entry) for entry in (part.strip() for part in text.split(",")) if entry)
    if any(not key.secret.isascii() or not key.secret.isprintable() or " " in key.secret for key in keys):
        raise ValueError("a key is made of printable ASCII characters without spaces")
    names = [key.name for key in keys if key.name]
    if len(names) > len(set(names)):
        raise ValueError("two keys have the same name")
    return keys


def _key(entry: str) -> ApiKey:
    # The "=" at the end of a key in Base64 does not make a name of the key.
    named = re.fullmatch(r"([A-Za-z0-9._-]{1,64})=(.*[^=].*)", entry)
    return ApiKey(named[1], named[2]) if named else ApiKey(None, entry)


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin for origin in (part.strip().rstrip("/") for part in text.split(",")) if origin)
    # No name has a bracket or a star in it: flask-cors would take it for a pattern.
    if any(
        origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+-]*://[A-Za-z0-9._-]+(:[0-9]+)?", origin)
        for origin in origins
    ):
        raise ValueError("expected * or origins such as https://chat.example.com, comma-separated")
    return origins


def _secret(text: str) -> str | None:
    if text and len(text) < 12:
        raise ValueError("expected at least 12 characters; `openssl rand -hex 32` makes a good one")
    return text or None


def _host(text: str) -> str:
    if not re.fullmatch(r"\[?[0-9A-Za-z.:_-]+\]?", text):
        raise ValueError("expected an address such as 127.0.0.1, 0.0.0.0 or ::")
    # gunicorn wants IPv6 addresses in brackets.
    return f"[{text}]" if ":" in text and not text.startswith("[") else text


def _log_level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
    return text.upper()


_SECRET = ("credentials", "api_keys", "database_url", "gateway_secret")

_PARSERS: dict[str, Callable[[str], Any]] = {
    "credentials": parse_credentials,
    "api_keys": _keys,
    "host": _host,
    "port": _integer(0, 65535),
    "workers": _integer(1, 256),
    "database_url": _database_url,
    "kimi_base_url": _http_url,
    "kimi_auth_url": _http_url,
    "gateway_secret": _secret,
    "kimi_protocol": _protocol,
    "keep_chats": _switch,
    "heartbeat_s": _seconds(0.1, 3600),
    "commit_after_s": _seconds(0.05, 3600),
    "connect_timeout_s": _seconds(0.1, 600),
    "first_event_timeout_s": _seconds(0.1, 86400),
    "idle_timeout_s": _seconds(0.1, 86400),
    "total_timeout_s": _seconds(0.1, 86400),
    "max_continuations": _integer(0, 100),
    "account_max_streams": _integer(0, 1000),
    "account_min_interval_s": _seconds(0, 3600),
    "queue_wait_s": _seconds(0, 3600),
    "queue_max": _integer(0, 100_000),
    "failover_s": _seconds(0, 3600),
    "retry_backoff_s": _seconds(0, 60),
    "max_conversations": _integer(1, 100_000_000),
    "conversation_max_age_days": _number(0, 36_500),
    "store_transcripts": _switch,
    "citations": _citations,
    "conversation_wait_s": _seconds(0, 600),
    "lease_s": _seconds(0.5, 600),
    "max_body_bytes": _integer(1024, 1 << 31),
    "cors_origins": _origins,
    "strict_params": _switch,
    "log_level": _log_level,
}
