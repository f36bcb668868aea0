"""Tokens at rest: sealed with GATEWAY_SECRET where that is set, left readable where it is not.

Fernet of the `cryptography` package (AES-128-CBC with HMAC-SHA256; https://github.com/fernet/spec), its key made
from the secret with scrypt and a salt that belongs to the database. Must never know what a token is for.
"""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

_SEALED = "fernet1:"


class WrongSecret(Exception):
    """What is sealed cannot be opened with this GATEWAY_SECRET, or with none."""


class Vault:
    """Seals and opens short texts. Without a secret, sealing does nothing."""

    def __init__(self, secret: str | None, salt: bytes) -> None:
        self._fernet = None if not secret else Fernet(base64.urlsafe_b64encode(_stretch(secret, salt)))

    @property
    def seals(self) -> bool:
        return self._fernet is not None

    def seal(self, text: str | None) -> str | None:
        if text is None or self._fernet is None:
            return text
        return _SEALED + self._fernet.encrypt(text.encode()).decode()

    def open(self, text: str | None) -> str | None:
        """Raises WrongSecret. A text that was never sealed is given back as it is."""
        if text is None or not text.startswith(_SEALED):
            return text
        if self._fernet is None:
            raise WrongSecret("the database holds sealed tokens, but GATEWAY_SECRET is not set")
        try:
            return self._fernet.decrypt(text.removeprefix(_SEALED)).decode()
        except InvalidToken:
            raise WrongSecret("the database holds tokens that were sealed with another GATEWAY_SECRET") from None


def _stretch(secret: str, salt: bytes) -> bytes:
    # 16 MiB and some 50 ms, once per start: makes guessing a short secret expensive.
    return Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(secret.encode())
