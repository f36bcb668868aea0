"""Encryption of tokens and transcripts in the database, with GATEWAY_SECRET. Without it they are not encrypted.

Uses Fernet of the `cryptography` package (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec). The key is
derived from the secret with scrypt and a salt that belongs to the database.
"""

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_SEALED = "fernet1:"


class WrongSecret(Exception):
    """A sealed text cannot be opened with this GATEWAY_SECRET, or with none."""


class Vault:
    """Encrypts (seals) and decrypts (opens) short texts. Without a secret, ``seal`` returns the text unchanged."""

    def __init__(self, secret: str | None, salt: bytes) -> None:
        self._fernet = _fernet_of(secret, salt) if secret else None

    @property
    def seals(self) -> bool:
        """Whether there is a secret."""
        return self._fernet is not None

    def seal(self, text: str | None) -> str | None:
        if text is None or self._fernet is None:
            return text
        return _SEALED + self._fernet.encrypt(text.encode()).decode()

    def open(self, text: str | None) -> str | None:
        """Returns a text that was never sealed unchanged.

        Raises WrongSecret: if a sealed text cannot be opened.
        """
        if text is None or not text.startswith(_SEALED):
            return text
        if self._fernet is None:
            raise WrongSecret("the database holds sealed tokens, but GATEWAY_SECRET is not set")
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(text.removeprefix(_SEALED)).decode()
        except InvalidToken:
            raise WrongSecret("the database holds tokens that were sealed with another GATEWAY_SECRET") from None


def _fernet_of(secret: str, salt: bytes) -> "Fernet":
    # 7 MB of a worker, which most gateways do not need.
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # 16 MiB and about 50 ms, once per start. This makes it expensive to guess a short secret.
    key = Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(key))
