"""Parses KIMI_TOKENS, in the forms in which people paste tokens.

The forms of Kimi's tokens and the claims in them: ``kimi-protocol.md`` 1.5 and 2.1 (HS512 JWTs; ``typ`` access or
refresh; ``iat``; ``exp``; ``sub``; ``device_id``; ``ssid``), and since September 2026 ``kimi-protocol-2.md`` 5.8
(``iss`` account instead of user-center; ``aud``; ``membership``). The signature is not checked, only Kimi can do
that. Does not know how a token is sent, stored or chosen.
"""

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app.settings.parsers import http_url
from app.settings.sites import KIMI_COM, Site, named_site, site_at

# A label and its entry; a cookie, whose name may be longer. What precedes the `=` at the end of Base64 is no label.
_LABELLED = re.compile(r"([A-Za-z0-9_.-]{1,32})\s*=\s*(?!=)(.+)", re.DOTALL)
# What follows the last `@`, where that is no part of a cookie.
_AT_SITE = re.compile(r"(.+)@([^@;,\s]*)", re.DOTALL)
_COOKIE = re.compile(r"[^\s=;,]+\s*=\s*[^\s=]")


# The level of a free account.
FREE_LEVEL = 10


class CredentialError(ValueError):
    """An entry that cannot be a Kimi token. The text contains the number of the entry, not the entry.

    ``code``: a machine-readable name of what is wrong. ``entry``: the number of the entry, from 1; 0: none of them.
    """

    def __init__(self, code: str, message: str, entry: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.entry = entry


@dataclass(frozen=True, slots=True)
class Credential:
    """One configured account: an access token, a refresh token, or both."""

    id: str
    """The same for all tokens of one Kimi user. Can be logged."""
    label: str
    """The name of the account, for people."""
    access_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    """When the access token expires, in Unix seconds; None if it does not say so."""
    refresh_expires_at: float | None = None
    """As ``expires_at``, of the refresh token."""
    user_id: str | None = field(default=None, repr=False)
    device_id: str | None = field(default=None, repr=False)
    session_id: str | None = field(default=None, repr=False)
    site: Site | None = None
    """Where the account lives, as the entry says it (``token@kimi.ai``); None if it does not."""
    home: Site | None = None
    """The site that issued the tokens, as they say it; None if they do not."""

    @property
    def source(self) -> str:
        """A digest of the configured token: a new one means that the user has changed the setting."""
        return _digest(self.refresh_token or self.access_token or "")

    @property
    def hint(self) -> str:
        """The label and the last four characters of the token, by which its owner recognises it."""
        return f"{self.label} (…{(self.refresh_token or self.access_token or '')[-4:]})"

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(token for token in (self.access_token, self.refresh_token) if token)

    @property
    def user_hint(self) -> str:
        """The last four characters of the Kimi user's id, by which its owner recognises it; empty if unknown."""
        return (self.user_id or "")[-4:]


@functools.lru_cache(maxsize=10_000)
def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def parse_credentials(text: str) -> tuple[Credential, ...]:
    """The credentials in KIMI_TOKENS, in order. Raises CredentialError: for the first entry that is not a token.

    Entries are separated by commas; ``name=entry`` gives one a label, ``entry@site`` its site: kimi.com, kimi.ai, or
    a base URL. An entry is an access token, a refresh token,
    a cookie (``kimi-auth=...``, alone or among others), or the JSON of the browser's local storage
    (``{"access_token": ..., "refresh_token": ...}``). White space, quotes and ``Bearer `` around it are removed.
    Several entries of one Kimi user are one account: a refresh token is preferred to an access token, and of two of a
    kind the one that expires later.
    """
    entries = [entry for entry in (_clean(part) for part in _split(text)) if entry]
    if not entries:
        raise CredentialError("empty", "contains no token; paste at least one (README, 'Get a token')")
    credentials: dict[str, Credential] = {}
    labels: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        credential = _parse_entry(entry, number)
        other = credentials.get(credential.id)
        if other is not None and _preference(other) >= _preference(credential):
            continue
        if labels.setdefault(credential.label, credential.id) != credential.id:
            raise CredentialError("label_twice", f"the label '{credential.label}' is used twice", number)
        credentials[credential.id] = credential
    return tuple(credentials.values())


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, not verified; empty if the token is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3 or not token.startswith("eyJ"):
        return {}
    return _read_part(parts[1])


def _read_part(part: str) -> dict[str, Any]:
    """The object in a part of a JWT; empty if there is none."""
    try:
        found = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_expiry(token: str) -> float | None:
    """When a JWT expires, in Unix seconds; None if it does not say so."""
    return _number(read_claims(token), "exp")


def read_level(token: str) -> int | None:
    """The level of membership in a JWT (10: a free account); None if it does not say so."""
    membership = read_claims(token).get("membership")
    level = membership.get("level") if isinstance(membership, dict) else None
    return level if type(level) is int else None


def describe_level(token: str | None) -> str:
    """The level of membership in a JWT, for people; empty if it does not say so. Only one level is known."""
    level = read_level(token) if token else None
    return "" if level is None else "free" if level == FREE_LEVEL else f"membership level {level}"


def _home(claims: dict[str, Any]) -> Site | None:
    """The site that issued a token. Until August 2026 there was one, and ``iss`` was its user center."""
    audience = claims.get("aud")
    for name in audience if isinstance(audience, list) else [audience]:
        if isinstance(name, str) and (site := named_site(name)) is not None:
            return site
    return KIMI_COM if claims.get("iss") == "user-center" else None


def _preference(credential: Credential) -> tuple[bool, float]:
    refreshable = credential.refresh_token is not None
    return refreshable, (credential.refresh_expires_at if refreshable else credential.expires_at) or 0.0


def _split(text: str) -> Iterator[str]:
    """The entries: split at commas, except those in JSON and those in the value of a cookie."""
    entry: list[str] = []
    for piece in _pieces(text):
        if entry and (_ends_entry(entry[-1]) or _starts_entry(piece)):
            yield from _joined(entry)
            entry = []
        entry.append(piece)
    yield from _joined(entry)


def _pieces(text: str) -> Iterator[str]:
    """The text, split at commas except those in JSON."""
    depth, start = 0, 0
    for index, character in enumerate(text):
        if character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        elif character == "," and depth <= 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _ends_entry(piece: str) -> bool:
    """Whether a comma after ``piece`` ends the entry: it is neither in a token nor directly after a semicolon."""
    is_token = re.search(r"kimi-auth|\beyJ|\bcpmt_", piece.rpartition(";")[2], re.IGNORECASE)
    return is_token is not None or piece.rstrip(" \t\r\n\"'").endswith(";")


def _starts_entry(piece: str) -> bool:
    """Whether ``piece``, which follows a comma among cookies, can be an entry, possibly a mistyped one.

    A number is not one: the value of Baidu's cookie Hm_lvt_… (1.3) is a list of times.
    """
    piece = _clean(piece)
    first, more, _ = piece.partition(";")
    is_word = not more and re.match(r"(?=\S*[A-Za-z])[A-Za-z0-9_.=+/~-]{8}", piece)
    return piece.startswith("{") or "=" in first or bool(is_word)


def _joined(pieces: list[str]) -> list[str]:
    """The pieces joined to one entry if they are cookies, else the pieces."""
    entry = _clean(",".join(pieces))
    is_split = _looks_like_cookies(entry) and "=" in entry.partition(";")[0] and entry.count("kimi-auth") == 1
    return [entry] if is_split else pieces


def _parse_entry(entry: str, number: int) -> Credential:
    label = f"account {number}"
    named = _LABELLED.match(entry)
    if named and named[1].lower() != "kimi-auth" and _is_label(entry, _clean(named[2])):
        label, entry = named[1], _clean(named[2])
    entry, site = _split_site(entry, number)
    return credential_of([_checked(token, number) for token in _tokens_in(entry, number)], label, site)


def credential_of(tokens: Sequence[str], label: str, site: Site | None) -> Credential:
    """The account of these tokens, at least one: an access token, a refresh token, or both."""
    credential = Credential(_id(tokens), label, site=site)
    for token in tokens:
        credential = _with_token(credential, token)
    return credential


def _split_site(entry: str, number: int) -> tuple[str, Site | None]:
    """The entry without ``@site``, and the site. Raises CredentialError: if there is no such site."""
    found = _AT_SITE.fullmatch(entry)
    if found is None:
        return entry, None
    site = named_site(found[2])
    if site is None and re.match(r"https?://", found[2]):
        try:
            site = site_at(http_url(found[2]))
        except ValueError as e:
            raise CredentialError("unknown_site", f"entry {number}: after '@': {e}", number) from None
    if site is None:
        if _looks_like_cookies(entry) or entry.startswith("{"):
            # It may stand in another cookie, or in JSON.
            return entry, None
        message = f"entry {number}: expected kimi.com, kimi.ai or a base URL after '@'"
        raise CredentialError("unknown_site", message, number)
    return _clean(found[1]), site


def _is_label(entry: str, rest: str) -> bool:
    """Whether the name before ``=`` and ``rest`` is a label, and not the name of a cookie."""
    if not _looks_like_cookies(entry):
        return True
    if rest.startswith("{"):
        return "kimi-auth" not in rest
    # `home=theme=dark; …` has one. Cookies of analytics start with an underscore, and some contain `=`.
    return not entry.startswith("_") and _COOKIE.match(rest.partition(";")[0]) is not None


def _tokens_in(entry: str, number: int) -> Sequence[str]:
    """The tokens of one entry."""
    if entry.startswith("{"):
        return _tokens_in_storage(entry, number)
    if _looks_like_cookies(entry):
        cookies = dict(part.strip().split("=", 1) for part in entry.split(";") if "=" in part)
        if "kimi-auth" not in cookies:
            raise CredentialError(
                "cookies_without_token",
                f"entry {number} looks like cookies, but kimi-auth is not among them: new logins do not get it any "
                "more; paste the value of refresh_token from the site's local storage (README, 'Get a token')",
                number,
            )
        return [_clean(cookies["kimi-auth"])]
    return [_clean(re.sub(r"^kimi-auth\s*=", "", entry, flags=re.IGNORECASE))]


def _tokens_in_storage(entry: str, number: int) -> Sequence[str]:
    """Of local storage: strings; a refresh token was also observed as an array of its three parts (2.1)."""
    try:
        storage = orjson.loads(entry)
    except ValueError:
        message = f"entry {number} begins like JSON but is not; paste it whole, on one line"
        raise CredentialError("broken_json", message, number) from None
    tokens = []
    for name in ("access_token", "refresh_token"):
        value = storage.get(name)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = ".".join(value)
        if isinstance(value, str) and value:
            tokens.append(_clean(value))
    if not tokens:
        message = f"entry {number} is JSON without access_token or refresh_token"
        raise CredentialError("json_without_token", message, number)
    return tokens


def _looks_like_cookies(entry: str) -> bool:
    return not entry.startswith("{") and ";" in entry and "=" in entry


def _checked(token: str, number: int) -> str:
    if token.startswith("sk-"):
        raise CredentialError(
            "official_api_key",
            f"entry {number} is an API key of the official platform; paste the token of a login at Kimi's site "
            "instead (README, 'Get a token')",
            number,
        )
    if not re.fullmatch(r"[A-Za-z0-9_.=+/~-]{8,}", token):
        raise CredentialError(
            "not_a_token",
            f"entry {number} is not a token: a Kimi token is one word of at least 8 letters, digits, '.', '-', '_'",
            number,
        )
    if _is_cut(token):
        raise CredentialError(
            "cut_token",
            f"entry {number} is a token that was cut: copy it whole, with all three parts between its two dots",
            number,
        )
    return token


# The characters of a signature in Base64, by its algorithm.
_SIGNATURES = {"HS256": 43, "HS384": 64, "HS512": 86}


def _is_cut(token: str) -> bool:
    """Whether a JWT has lost its beginning or its end. A refresh token need not be a JWT."""
    if token.endswith("..."):
        return True
    if not token.startswith("eyJ"):
        return False
    parts = token.split(".")
    if len(parts) != 3 or not read_claims(token):
        return True
    return len(parts[2]) < _SIGNATURES.get(str(_read_part(parts[0]).get("alg")), 1)


def _id(tokens: Sequence[str]) -> str:
    user_id = next((user for token in tokens if (user := _text(read_claims(token), "sub"))), None)
    return "acc_" + hashlib.sha256((user_id or tokens[0]).encode()).hexdigest()[:16]


def _with_token(credential: Credential, token: str) -> Credential:
    claims = read_claims(token)
    credential = replace(
        credential,
        user_id=credential.user_id or _text(claims, "sub"),
        # A device id was observed in refresh tokens only (1.3).
        device_id=credential.device_id or _text(claims, "device_id"),
        session_id=credential.session_id or _text(claims, "ssid"),
        home=credential.home or _home(claims),
    )
    # Opaque refresh tokens start with cpmt_ (1.5). Any other opaque word is used as an access token.
    if claims.get("typ") == "refresh" or token.startswith("cpmt_"):
        return replace(credential, refresh_token=token, refresh_expires_at=read_expiry(token))
    return replace(credential, access_token=token, expires_at=read_expiry(token))


def _clean(entry: str) -> str:
    """Removes what people paste together with a token, in any order."""
    before = None
    while entry != before:
        before = entry
        entry = entry.strip().strip("\"'“”‘’`").strip()
        entry = re.sub(r"^(authorization:\s*|cookie:\s*|bearer\s+)", "", entry, flags=re.IGNORECASE)
        entry = entry.rstrip(";")
    return entry


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    # These become request headers: only plain characters are safe.
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:@-]{1,128}", value, re.ASCII) else None


def _number(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # A date that datetime can show.
    return float(value) if 0 <= value < 1e11 else None
