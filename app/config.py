"""The settings: names of environment variables, units, defaults, and what is invalid.

The only file that reads the environment. Must never know who uses a value.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args
from urllib.parse import urlsplit

from app.chat import CitationStyle
from app.credentials import Credential, CredentialError, parse_credentials


class ConfigError(Exception):
    """A setting that cannot be used. One line: its name, what is wrong, the accepted form."""


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
        "DATABASE_URL", "sqlite:///data/gateway.db", "Where conversations are kept, as an SQLAlchemy URL."
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
        "LEASE_S", "10", "Seconds after which a conversation held by a killed worker is free again."
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
        return [
            *tokens,
            *(key.secret for key in self.api_keys),
            *([self.gateway_secret] if self.gateway_secret else []),
        ]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Config":
        """Reads and checks every setting; raises ConfigError for the first that cannot be used."""
        values = {f.name: _read(env, f.metadata["name"], f.metadata["default"], f.name) for f in fields(cls)}
        config = cls(**values)
        config.check_bind([config.host])
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
        # GATEWAY_INTERFACE belongs to CGI.
        known = {"GATEWAY_INTERFACE", *(f.metadata["name"] for f in fields(cls))}
        unknown = sorted(name for name in env if name.startswith(("KIMI_", "GATEWAY_")) and name not in known)
        return Examination(config, wrong, tuple(unknown))

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
        shown = f"={text}" if key not in _SECRET else ""
        raise ConfigError(f"{name}{shown}: {e}") from None


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not lowest <= value <= highest:
            raise ValueError(f"expected a number of seconds from {lowest:g} to {highest:g}")
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
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
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
    if not re.match(r"sqlite:///(?!:memory:).+", text):
        raise ValueError("expected sqlite:///path/to/file.db")
    return text


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
    "citations": _citations,
    "conversation_wait_s": _seconds(0, 600),
    "lease_s": _seconds(0.5, 600),
    "max_body_bytes": _integer(1024, 1 << 31),
    "cors_origins": _origins,
    "strict_params": _switch,
    "log_level": _log_level,
}
