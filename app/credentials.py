"""What a person pasted into KIMI_TOKENS, understood without asking anybody.

Knows the forms of a Kimi secret and the claims of its JWT: ``kimi-protocol.md`` 1.5 and 2.1
(HS512 JWTs; ``typ`` access or refresh; ``exp``; ``sub``; ``device_id``; ``ssid``). The signature is not
checked: only Kimi can. Must never know how a token is sent, kept or chosen.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Kind = Literal["access", "refresh", "opaque"]


class CredentialError(ValueError):
    """An entry that cannot be a Kimi secret. The text names the entry and never shows it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One account as it was configured.

    ``id`` is stable as long as it is the same Kimi user, and safe to log; ``label`` is for people;
    ``expires_at`` is in Unix seconds, None where the token does not say.
    """

    id: str
    label: str
    kind: Kind
    token: str = field(repr=False)
    expires_at: float | None
    user_id: str | None = field(repr=False)
    device_id: str | None = field(repr=False)
    session_id: str | None = field(repr=False)

    @property
    def hint(self) -> str:
        """The label and the last four characters: enough for its owner, useless to others."""
        return f"{self.label} (…{self.token[-4:]})"


def parse_credentials(text: str) -> tuple[Credential, ...]:
    """KIMI_TOKENS → credentials in order; raises CredentialError with the number of the bad entry.

    Entries are separated by commas; white space, quotes, ``Bearer `` and ``kimi-auth=`` are taken off;
    ``name=token`` labels an entry. Several entries of one Kimi user are one account: the one that lives
    longest counts.
    """
    entries = [entry for entry in (_clean(part) for part in text.split(",")) if entry]
    if not entries:
        raise CredentialError("holds no token; paste at least one (README, 'Get a token')")
    credentials: dict[str, Credential] = {}
    labels: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        credential = _parse_entry(entry, number)
        other = credentials.get(credential.id)
        if other is not None and (other.expires_at or 0) >= (credential.expires_at or 0):
            continue
        if labels.setdefault(credential.label, credential.id) != credential.id:
            raise CredentialError(f"the label '{credential.label}' is used twice")
        credentials[credential.id] = credential
    return tuple(credentials.values())


def _parse_entry(entry: str, number: int) -> Credential:
    label = f"account {number}"
    named = re.match(r"([A-Za-z0-9_.-]{1,32})\s*=\s*(?!=)(.+)", entry, re.DOTALL)
    if named and named[1].lower() != "kimi-auth":
        label, entry = named[1], named[2]
    token = _clean(entry)
    if not re.fullmatch(r"[A-Za-z0-9_.=+/~-]{8,}", token):
        raise CredentialError(
            f"entry {number} is not a token: a Kimi token is one word of at least 8 letters, digits, '.', '-', '_'"
        )
    claims = read_claims(token)
    user_id = _text(claims, "sub")
    return Credential(
        id="acc_" + hashlib.sha256((user_id or token).encode()).hexdigest()[:16],
        label=label,
        kind=_kind(claims),
        token=token,
        expires_at=_number(claims, "exp"),
        user_id=user_id,
        device_id=_text(claims, "device_id"),
        session_id=_text(claims, "ssid"),
    )


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified; empty for anything that is not one."""
    parts = token.split(".")
    if len(parts) != 3 or not token.startswith("eyJ"):
        return {}
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _kind(claims: dict[str, Any]) -> Kind:
    match claims.get("typ"):
        case "access":
            return "access"
        case "refresh":
            return "refresh"
    return "opaque"


def _clean(entry: str) -> str:
    """Takes off what people paste around a token, in whatever order it comes."""
    before = None
    while entry != before:
        before = entry
        entry = entry.strip().strip("\"'“”‘’`").strip()
        entry = re.sub(r"^(authorization:\s*|bearer\s+|kimi-auth=)", "", entry, flags=re.IGNORECASE)
        entry = entry.rstrip(";")
    return entry


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    # These become request headers: nothing but plain characters may pass.
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:@-]{1,128}", value, re.ASCII) else None


def _number(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
