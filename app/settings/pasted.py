"""Reads the tokens out of what people paste into one field: more forms than KIMI_TOKENS has.

Beside the forms of ``credentials``: a request that the browser has copied "as cURL" (for bash or cmd), as PowerShell
or as fetch, rows of the browser's storage, a JSON list, and one entry per line. Of a request only the address and the
values of Authorization and Cookie are read. Does not know what happens to a token.
"""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

import orjson

from app.settings.credentials import Credential, CredentialError, parse_credentials
from app.settings.sites import KIMI_AI, KIMI_COM, Site, is_at

Form = Literal["token", "cookie", "json", "curl", "powershell", "fetch"]

# The longest text that is read, in characters: hundreds of tokens.
MAX_CHARS = 1 << 20

_HAR = re.compile(r'\s*\{\s*"log"\s*:\s*\{')
_CURL = re.compile(r"\s*curl(\.exe)?\s", re.IGNORECASE)
_POWERSHELL = re.compile(r"\s*(\$session\s*=|Invoke-(WebRequest|RestMethod)\b)", re.IGNORECASE)
_FETCH = re.compile(r"\s*(await\s+)?fetch\s*\(")
# A row of the browser's storage or of its table of cookies: name, tab or colon or equals sign, value.
_ROW = re.compile(
    r"[\"']?(access_token|refresh_token|kimi-auth)[\"']?(?:\s*[:=]\s*|\s+)[\"']?([^\s\"',;]{8,})[\"']?,?\s*"
)
# One token that was broken into lines, as terminals and mail programs do.
_BROKEN_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
# What ``parse_credentials`` calls an account that has no name.
_UNNAMED = re.compile(r"account \d+")


@dataclass(frozen=True, slots=True)
class Pasted:
    """One account. Its credential has an empty label if the text names none."""

    credential: Credential
    form: Form


def read_pasted(text: str) -> list[Pasted]:
    """The accounts whose tokens stand in the text, at least one.

    Raises CredentialError: if there is no token in it, or something in it cannot be one. Codes beside those of
    ``parse_credentials``: ``too_long``, ``har``, ``request_without_token``.
    """
    if len(text) > MAX_CHARS:
        raise CredentialError("too_long", f"is longer than {MAX_CHARS} characters: paste only the tokens")
    if _HAR.match(text):
        raise CredentialError(
            "har",
            "is a HAR file, which holds much more than a token: copy one request as cURL, or only the token",
        )
    for form, pattern, read in _REQUESTS:
        if pattern.match(text):
            return _from_request(form, read(text))
    return [_pasted(credential, text) for entry in _entries(text) for credential in parse_credentials(entry)]


def _pasted(credential: Credential, text: str) -> Pasted:
    if _UNNAMED.fullmatch(credential.label):
        credential = replace(credential, label="")
    form: Form = "json" if "{" in text else "cookie" if "kimi-auth" in text else "token"
    return Pasted(credential, form)


def _entries(text: str) -> list[str]:
    """The text in pieces that ``parse_credentials`` takes: the end of a line separates entries, as a comma does."""
    text = text.strip()
    if text.startswith("["):
        try:
            items = orjson.loads(text)
            # A list of texts or of objects.
            return [",".join(item if isinstance(item, str) else orjson.dumps(item).decode() for item in items)]
        except (ValueError, orjson.JSONEncodeError):
            # The second is for what is nested deeper than orjson writes.
            raise CredentialError("broken_json", "begins like JSON but is not; paste it whole") from None
    lines = _lines(text)
    rows = [_ROW.fullmatch(line) for line in lines]
    if lines and all(rows):
        # The two tokens of one login.
        values = {row[1].replace("kimi-auth", "access_token"): row[2] for row in rows if row is not None}
        return [orjson.dumps(values).decode()]
    if _BROKEN_TOKEN.fullmatch("".join(lines)):
        return ["".join(lines)]
    return [",".join(line.rstrip(",") for line in lines)]


def _lines(text: str) -> list[str]:
    """Its lines that are not empty; those of one JSON object are one."""
    lines, depth = [""], 0
    for line in text.splitlines():
        lines[-1] = f"{lines[-1]}\n{line}" if depth > 0 else line.strip()
        depth = max(0, depth + line.count("{") - line.count("}"))
        if depth == 0 and lines[-1]:
            lines.append("")
    return [line for line in lines if line]


# Requests


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    authorization: str = ""
    cookies: str = ""


def _from_request(form: Form, request: _Request) -> list[Pasted]:
    cookie = re.search(r"(?:^|;)\s*kimi-auth=([^;\s]+)", request.cookies)
    token = re.sub(r"^bearer\s+", "", request.authorization.strip(), flags=re.IGNORECASE) or (
        cookie[1] if cookie else ""
    )
    if not token:
        raise CredentialError(
            "request_without_token",
            "is a request without a token: copy one that the page sends while you are logged in, and whose headers "
            "have Authorization; or paste the value of refresh_token",
        )
    site = _site(request.url)
    return [
        Pasted(replace(credential, label="", site=credential.site or (None if credential.home else site)), form)
        for credential in parse_credentials(token)
    ]


def _site(url: str) -> Site | None:
    """Kimi's site that was asked; None for another one."""
    try:
        urlsplit(url)
    except ValueError:
        return None
    return next((site for site in (KIMI_AI, KIMI_COM) if is_at(url, site.name)), None)


def _read_curl(text: str) -> _Request:
    url, authorization, cookies = "", "", ""
    for option, value in _curl_arguments(text):
        name, _, rest = value.partition(":")
        if option == "-H" and name.strip().lower() == "authorization":
            authorization = rest
        elif option == "-H" and name.strip().lower() == "cookie":
            cookies = rest
        elif option == "-b":
            cookies = value
        elif option in ("", "--url") and not url and re.match(r"https?://", value):
            url = value
    return _Request(url, authorization, cookies)


_CURL_OPTIONS = {"--header": "-H", "--cookie": "-b"}


def _curl_arguments(text: str) -> Iterator[tuple[str, str]]:
    """Options with their values, and arguments with an empty option. Values of other options look like arguments."""
    option = ""
    for word in _shell_words(text)[1:]:
        if option:
            yield option, word
            option = ""
        elif word[:2] in ("-H", "-b") and len(word) > 2:
            yield word[:2], word[2:]
        elif word in ("-H", "-b", "--url") or word in _CURL_OPTIONS:
            option = _CURL_OPTIONS.get(word, word)
        elif word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            yield _CURL_OPTIONS.get(name, name), value
        elif not word.startswith("-"):
            yield "", word


def _shell_words(text: str) -> list[str]:
    """The words of a command line for bash, or for Windows' cmd, where ^ makes the next character a plain one."""
    if re.search(r'\^(\r?\n|")|\^\s*$', text):
        text = re.sub(r"\^\r?\n", " ", text)
        text = re.sub(r"\^(.)", r"\1", text)
    text = re.sub(r"\\\r?\n", " ", text)
    # Bash's $'…', in which \' is an apostrophe.
    text = re.sub(r"\$'((?:[^'\\]|\\.)*)'", lambda m: shlex.quote(re.sub(r"\\(['\"\\])", r"\1", m[1])), text)
    # A quotation mark is missing where it was not copied to its end.
    for end in ("", "'", '"'):
        with contextlib.suppress(ValueError):
            return shlex.split(text + end)
    return text.split()


def _read_powershell(text: str) -> _Request:
    cookies = [f"{name}={value}" for name, value in re.findall(r'Cookie\(\s*"([^"]*)"\s*,\s*"([^"]*)"', text)]
    header = re.search(r'"cookie"\s*=\s*"([^"]*)"', text, re.IGNORECASE)
    authorization = re.search(r'"authorization"\s*=\s*"([^"]*)"', text, re.IGNORECASE)
    url = re.search(r'-Uri\s+"([^"]*)"', text, re.IGNORECASE)
    return _Request(
        url[1] if url else "",
        authorization[1] if authorization else "",
        "; ".join([*cookies, *([header[1]] if header else [])]),
    )


def _read_fetch(text: str) -> _Request:
    # The body comes behind the headers, and may contain anything.
    head = re.split(r"[\"']?body[\"']?\s*:", text, maxsplit=1)[0]
    found = {
        name.lower(): value
        for name, value in re.findall(
            r"[\"'](authorization|cookie)[\"']\s*:\s*[\"']([^\"']*)[\"']", head, re.IGNORECASE
        )
    }
    url = re.search(r"fetch\s*\(\s*[\"']([^\"']*)[\"']", head)
    return _Request(url[1] if url else "", found.get("authorization", ""), found.get("cookie", ""))


_REQUESTS: Sequence[tuple[Form, re.Pattern[str], Callable[[str], _Request]]] = (
    ("curl", _CURL, _read_curl),
    ("powershell", _POWERSHELL, _read_powershell),
    ("fetch", _FETCH, _read_fetch),
)
