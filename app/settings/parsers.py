"""Parsers for the values of settings. An error says what is expected.

Must never know the name of a setting.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

# Paths of SQLite files are relative to this folder, not to the working directory.
HOME = Path(__file__).absolute().parent.parent.parent


# Uploaded files may be kept there.
IN_DATABASE = "database"


class HiddenValueError(ValueError):
    """The value contains a secret although its setting is not secret. It must not be shown."""


@dataclass(frozen=True, slots=True)
class Parser:
    """``parse`` raises ValueError: if the text is not accepted. ``values``: the accepted values, for a table."""

    parse: Callable[[str], Any]
    values: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients may send."""

    name: str | None
    secret: str = field(repr=False)


def number(lowest: float, highest: float, what: str = "a number") -> Parser:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        # Also false for nan.
        if not lowest <= value <= highest:
            raise ValueError(f"expected {what} from {lowest:g} to {highest:g}")
        return value

    return Parser(parse, f"{lowest:g} … {highest:g}")


def seconds(lowest: float, highest: float) -> Parser:
    return number(lowest, highest, "a number of seconds")


def integer(lowest: int, highest: int) -> Parser:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]+", text) or not lowest <= int(text) <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return int(text)

    return Parser(parse, f"{lowest} … {highest}")


def choice(*choices: str) -> Parser:
    """One of ``choices``, which are all in upper case or all in lower case. The case of the text does not matter."""
    change_case = str.upper if choices[0].isupper() else str.lower

    def parse(text: str) -> str:
        if change_case(text) not in choices:
            raise ValueError(f"expected {', '.join(choices[:-1])} or {choices[-1]}")
        return change_case(text)

    return Parser(parse, ", ".join(f"`{word}`" for word in choices))


def switch() -> Parser:
    def parse(text: str) -> bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError("expected 1 or 0")

    return Parser(parse, "`0`, `1`")


def http_url(text: str) -> str:
    if "@" in text:
        raise HiddenValueError("without user and password: expected an address such as https://www.kimi.com")
    try:
        parts = urlsplit(text)
        # An invalid port raises ValueError when it is read.
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    # urlsplit keeps white space in the host, or removes it.
    if not complete or parts.query or parts.fragment or re.search(r"\s", text):
        raise ValueError("expected an address such as https://www.kimi.com")
    return text.rstrip("/")


def console_url(text: str) -> str:
    if not text:
        return ""
    url = http_url(text)
    if not url.endswith("/console"):
        raise ValueError("expected an address that ends with /console, such as https://kimi.example.org/console")
    return url


def hosts_with_ports(text: str) -> tuple[str, ...]:
    hosts = tuple(filter(None, (part.strip() for part in text.split(","))))
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65_536:
            raise ValueError("expected host:port, for example files.example:8080")
    return hosts


def folder(text: str) -> str:
    """An absolute path; a relative one is relative to ``HOME``, as that of a SQLite file is."""
    if not text or text == IN_DATABASE:
        return text
    if "\0" in text:
        raise ValueError("expected a folder, or database")
    return str(HOME / text)


def notify_url(text: str) -> str:
    """An address that messages are posted to. What follows its host may be a secret."""
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        # An invalid port raises ValueError when it is read.
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    if not complete or parts.fragment or not text.isascii() or re.search(r"\s", text):
        raise HiddenValueError("expected an address such as https://ntfy.sh/some-topic")
    return text


def secrets_in_address(url: str) -> list[str]:
    """The address, and what of it stands behind its host, where that is long enough to be a secret."""
    if not url:
        return []
    parts = urlsplit(url)
    rest = url.partition(parts.netloc)[2]
    return [url, *([rest] if len(rest) >= 8 else []), *passwords_in(url)]


_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")

# No proxy, whatever the environment says.
DIRECT = "direct"


def proxy_url(text: str) -> str:
    """The URL of a proxy, ``direct``, or nothing. An HTTP proxy may be written without ``http://``."""
    text = text.strip()
    if not text or text.lower() == DIRECT:
        return text.lower()
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        # An invalid port raises ValueError when it is read.
        complete = parts.scheme in _PROXY_SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    if not complete or parts.query or parts.fragment or parts.path not in ("", "/") or re.search(r"\s", url):
        raise HiddenValueError(
            "expected direct, or the URL of a proxy such as http://user:password@proxy.example:8080 or "
            "socks5h://127.0.0.1:1080; write special characters of the password as %40 and the like"
        )
    if parts.scheme in ("http", "https"):
        try:
            unquote(f"{parts.username}:{parts.password}").encode("latin-1")
        except UnicodeEncodeError:
            raise HiddenValueError(
                "the user and the password of an HTTP proxy can have Latin letters only (ISO 8859-1)"
            ) from None
    return url.rstrip("/")


def without_password(url: str) -> str:
    """A URL without its user name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def database_url(text: str) -> str:
    """Makes the path of a SQLite file absolute, and adds the installed driver to the URL of a PostgreSQL database."""
    if re.match(r"sqlite:///(?!:memory:).+", text):
        return text if text.startswith("sqlite:////") else f"sqlite:///{HOME}/{text.removeprefix('sqlite:///')}"
    # URLs from database providers name no driver.
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


# For SQLAlchemy the host begins after the first "@" (sqlalchemy.engine.url), for urlsplit after the last "@" before a
# slash.
_SQLALCHEMY_SPLITS = re.compile(
    r"[^:]+://(?:[^:/]*(?::(?P<password>[^@]*))?@)?(?:\[(?P<ipv6>[^/?]+)\]|(?P<host>[^/:?]+))?"
)


def _split_as_sqlalchemy_does(url: str) -> SplitResult:
    """The parts of the URL of a server.

    Raises ValueError: if SQLAlchemy would read another password or host. It would then show a part of the password in
    an error message, as the name of a host that cannot be found. SQLAlchemy's own parser cannot be used, because
    gunicorn's master reads the settings and must not import SQLAlchemy before gevent patches the standard library.
    """
    theirs = _SQLALCHEMY_SPLITS.match(url)
    try:
        # SQLAlchemy does not support fragments.
        parts = urlsplit(url, allow_fragments=False)
        host = parts.hostname
    except ValueError:
        # The text of this error may contain the password.
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


def passwords_in(url: str) -> list[str]:
    """The passwords in a URL, each as written and decoded."""
    parts = urlsplit(url, allow_fragments=False)
    written = [parts.password or "", *parse_qs(parts.query).get("password", [])]
    return [password for text in written if text for password in dict.fromkeys((text, unquote(text)))]


def api_keys(text: str) -> tuple[ApiKey, ...]:
    keys = tuple(_api_key(entry) for entry in (part.strip() for part in text.split(",")) if entry)
    if any(not key.secret.isascii() or not key.secret.isprintable() or " " in key.secret for key in keys):
        raise ValueError("a key is made of printable ASCII characters without spaces")
    names = [key.name for key in keys if key.name]
    if len(names) > len(set(names)):
        raise ValueError("two keys have the same name")
    return keys


def _api_key(entry: str) -> ApiKey:
    # A Base64 key may end with "=". The text before that is not a name.
    named = re.fullmatch(r"([A-Za-z0-9._-]{1,64})=(.*[^=].*)", entry)
    return ApiKey(named[1], named[2]) if named else ApiKey(None, entry)


def origins(text: str) -> tuple[str, ...]:
    found = tuple(origin for origin in (part.strip().rstrip("/") for part in text.split(",")) if origin)
    # flask-cors reads an origin with a bracket or a star as a pattern.
    if any(o != "*" and not re.fullmatch(r"[a-z][a-z0-9+-]*://[A-Za-z0-9._-]+(:[0-9]+)?", o) for o in found):
        raise ValueError("expected * or origins such as https://chat.example.com, comma-separated")
    return found


def secret(text: str) -> str | None:
    if text and len(text) < 12:
        raise ValueError("expected at least 12 characters; create one with `openssl rand -hex 32`")
    return text or None


def host(text: str) -> str:
    if not re.fullmatch(r"\[?[0-9A-Za-z.:_-]+\]?", text):
        raise ValueError("expected an address such as 127.0.0.1, 0.0.0.0 or ::")
    # gunicorn expects IPv6 addresses in brackets.
    return f"[{text}]" if ":" in text and not text.startswith("[") else text
