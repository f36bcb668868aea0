"""Our own API keys: who may ask, and under which name their conversations are kept.

A key is given by the settings or was added by command (``keys add``); only digests are kept. Must never know the
account tokens of Kimi, nor how much a key may ask: that is for ``rate_limits``.
"""

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.concurrency.periodic import every
from app.errors import NotAuthorized
from app.settings.parsers import ApiKey
from app.store import KeyRow, StoreError

log = logging.getLogger(__name__)

# The owner of everything where no keys are configured: all callers are one.
_EVERYBODY = "everybody"

# How old the known keys may be: after so long an added key works, and a revoked one no longer does. Seconds.
_LOOK_EVERY_S = 2.0
# How many keys are read again each time although nothing says that they have changed: somebody may have changed the
# database by hand, or put back an older one.
_READ_AGAIN = 50


@dataclass(frozen=True, slots=True)
class Known:
    """Who asks. ``key``: the one that was added by command, which may have limits."""

    owner: str
    key: KeyRow | None = None


class KeySource(Protocol):
    """Where the keys are that were added by command: ``app.store.KeyRows``. Both methods raise StoreError."""

    def changed_since(self, version: int) -> Sequence[KeyRow]: ...

    def after(self, digest: str, most: int) -> Sequence[KeyRow]: ...


class ApiKeys:
    """All keys, as digests. Without any, every key is accepted, from this machine only.

    A key that was ever added, revoked since or not, counts as one: revoking the last does not open the gateway.
    """

    def __init__(self, given: Sequence[ApiKey], added: KeySource) -> None:
        """``given``: the keys of the settings. ``added``: the others. Reads them all; raises StoreError."""
        self._given = frozenset(digest_of(key.secret) for key in given)
        self._given_keys = given
        self._source = added
        # By digest.
        self._added: dict[str, KeyRow] = {}
        self._version = -1
        self._read_again_after = ""
        self._is_failing = False
        self._learn(self._source.changed_since(self._version))

    def start(self) -> None:
        """Starts to look for changes, in the background. Where the database fails, what is known goes on to count."""
        every(_LOOK_EVERY_S, self._look, "api-keys", first_after_s=_LOOK_EVERY_S)

    def find(self, keys: Sequence[str], why_foreign: Callable[[], str | None]) -> Known:
        """Who the first key belongs to that is known; the owner's name reveals nothing of it. ``why_foreign``: why
        the request is not one of this machine, None if it is. Raises NotAuthorized."""
        if not self._given and not self._added:
            why = why_foreign()
            if why is not None:
                raise NotAuthorized(
                    "this gateway has no API keys and therefore serves programs on its own machine only, and this "
                    f"request is none: {why}. Its owner can set GATEWAY_API_KEYS"
                )
            return Known(_EVERYBODY)
        if not keys:
            raise NotAuthorized("no API key: send 'Authorization: Bearer <a key of this gateway>'")
        refusals = []
        for key in keys:
            try:
                return self._owner_of(key)
            except NotAuthorized as e:
                refusals.append(e)
        raise refusals[0]

    def _owner_of(self, key: str) -> Known:
        # Looked up and not compared in constant time: how long a digest takes to be found says nothing about a key.
        digest = digest_of(key)
        owner = owner_of(digest)
        if digest in self._given:
            return Known(owner)
        row = self._added.get(digest)
        if row is None:
            raise NotAuthorized("Incorrect API key provided: this gateway does not know it")
        if row.revoked_at is not None:
            raise NotAuthorized(f"Incorrect API key provided: '{row.name}' was revoked")
        if row.expires_at is not None and row.expires_at <= time.time():
            raise NotAuthorized(f"Incorrect API key provided: '{row.name}' has expired")
        return Known(owner, row)

    def names(self) -> dict[str, str]:
        """Owner → the name of its key, also of one that was revoked; for people."""
        return key_names(self._given_keys, list(self._added.values()))

    def _look(self) -> None:
        try:
            self._learn(self._source.changed_since(self._version))
            again = self._source.after(self._read_again_after, _READ_AGAIN)
        except StoreError as e:
            if not self._is_failing:
                log.warning("api_keys_not_reloaded error=%s", e.driver_error)
            self._is_failing = True
            return
        self._is_failing = False
        self._learn(again)
        self._read_again_after = again[-1].digest if len(again) == _READ_AGAIN else ""

    def _learn(self, rows: Sequence[KeyRow]) -> None:
        for row in rows:
            self._added[row.digest] = row
            self._version = max(self._version, row.version)


def make_key() -> str:
    """A new key, as hard to guess as can be, of the look that clients expect."""
    return f"sk-{secrets.token_urlsafe(32)}"


def owner_of(digest: str) -> str:
    """The name under which everything of a key is kept; it reveals nothing of the key."""
    return "key_" + digest[:32]


def key_names(given: Sequence[ApiKey], added: Sequence[KeyRow]) -> dict[str, str]:
    """Owner → the name of its key, also of one that was revoked; for people."""
    names = {_EVERYBODY: _EVERYBODY}
    names |= {owner_of(row.digest): row.name for row in added}
    for number, key in enumerate(given, start=1):
        names[owner_of(digest_of(key.secret))] = key.name or f"key {number} of GATEWAY_API_KEYS"
    return names


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def is_model_list(text: str) -> bool:
    """Whether ``text`` can be the models of a key: names with commas, ``*`` for any characters."""
    return text.isascii() and text.isprintable() and " " not in text and any(text.split(","))


def is_key_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is not None


def seconds_of(period: str) -> float | None:
    """``90s``, ``45m``, ``12h``, ``30d``, ``2w`` in seconds; None for what is none."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", period)
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]] if match else None
