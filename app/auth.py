"""Our own API keys: who may ask, and under which name their conversations are kept.

Must never know the account tokens of Kimi.
"""

import hashlib
import hmac
from collections.abc import Sequence

from app.errors import NotAuthorized

# The owner of everything where no keys are configured: then nobody is told apart.
_EVERYBODY = "everybody"


class ApiKeys:
    """The configured keys, as digests. Without any, every key is accepted, from this machine only."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def owner(self, key: str | None, is_local: bool) -> str:
        """The name that stands for the caller; reveals nothing of the key. Raises NotAuthorized."""
        if not self._digests:
            if not is_local:
                raise NotAuthorized(
                    "this gateway has no API keys and therefore serves programs on its own machine only; "
                    "its owner can set GATEWAY_API_KEYS"
                )
            return _EVERYBODY
        if not key:
            raise NotAuthorized("no API key: send 'Authorization: Bearer <a key of GATEWAY_API_KEYS>'")
        digest = _digest(key)
        # Every key is compared, in constant time, so that the time taken tells nothing.
        if not any([hmac.compare_digest(digest, known) for known in self._digests]):  # noqa: C419  # no early end
            raise NotAuthorized("Incorrect API key provided: it is none of this gateway's GATEWAY_API_KEYS")
        return "key_" + digest[:32]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
