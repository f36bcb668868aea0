"""Our own API keys: who may ask, and under which name their conversations are kept.

A key is given by the settings or was added by command (``keys add``); only digests are kept. Must never know the
account tokens of Kimi, nor how much a key may ask: that is ``rate_limits``'s.
"""

import hashlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.errors import NotAuthorized
from app.store import KeyRow, StoreError

log = logging.getLogger(__name__)

# The owner of everything where no keys are configured: all callers are one.
_EVERYBODY = "everybody"

# How old the known keys may be: after so long an added key works, and a revoked one no longer does. Seconds.
_FRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Known:
    """Who asks. ``key``: the one that was added by command, which may have limits."""

    owner: str
    key: KeyRow | None = None


class ApiKeys:
    """All keys, as digests. Without any, every key is accepted, from this machine only.

    A key that was ever added, revoked since or not, counts as one: revoking the last does not open the gateway.
    """

    def __init__(self, given: Sequence[str], added: Callable[[], Sequence[KeyRow]]) -> None:
        """``given``: the keys of the settings. ``added``: looks up the others, raises StoreError."""
        self._given = frozenset(digest_of(key) for key in given)
        self._look_up = added
        # By digest.
        self._added: Mapping[str, KeyRow] | None = None
        self._loaded_at = self._looked_at = 0.0
        self._looking = threading.Lock()

    def find(self, key: str | None, is_local: bool) -> Known:
        """Who the key belongs to; the owner's name reveals nothing of it. Raises NotAuthorized."""
        added = self._fresh()
        if not self._given and not added:
            if not is_local:
                raise NotAuthorized(
                    "this gateway has no API keys and therefore serves programs on its own machine only; "
                    "its owner can set GATEWAY_API_KEYS"
                )
            return Known(_EVERYBODY)
        if not key:
            raise NotAuthorized("no API key: send 'Authorization: Bearer <a key of this gateway>'")
        # Looked up and not compared in constant time: how long a digest takes to be found says nothing about a key.
        digest = digest_of(key)
        owner = "key_" + digest[:32]
        if digest in self._given:
            return Known(owner)
        row = added.get(digest)
        if row is None:
            raise NotAuthorized("Incorrect API key provided: this gateway does not know it")
        if row.revoked_at is not None:
            raise NotAuthorized(f"Incorrect API key provided: '{row.name}' was revoked")
        if row.expires_at is not None and row.expires_at <= time.time():
            raise NotAuthorized(f"Incorrect API key provided: '{row.name}' has expired")
        return Known(owner, row)

    def _fresh(self) -> Mapping[str, KeyRow]:
        """The keys that were added, by digest, as they were at most a moment ago; older where the database fails."""
        if self._added is not None and time.monotonic() - self._looked_at < _FRESH_S:
            return self._added
        # One thread looks, the others go on with what is known, if anything is.
        if self._looking.acquire(blocking=self._added is None):
            try:
                self._added = {row.digest: row for row in self._look_up()}
                self._loaded_at = time.monotonic()
            except StoreError as e:
                # What is not known cannot be refused or let in.
                if self._added is None:
                    raise
                age_s = time.monotonic() - self._loaded_at
                log.warning("api_keys_not_reloaded error=%s list_age_s=%.0f", e.driver_error, age_s)
            finally:
                self._looked_at = time.monotonic()
                self._looking.release()
        return self._added or {}


def make_key() -> str:
    """A new key, as hard to guess as can be, of the look that clients expect."""
    return f"sk-{secrets.token_urlsafe(32)}"


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def seconds_of(period: str) -> float | None:
    """``90s``, ``45m``, ``12h``, ``30d``, ``2w`` in seconds; None for what is none."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", period)
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]] if match else None
