"""The password of the console: how it is stored and compared. It is optional."""

import hashlib
import hmac
import secrets

from app.concurrency.native_thread import in_native_thread
from app.store import Store

MIN_LENGTH = 12
MAX_LENGTH = 1024

# The name of the value in the database.
_NAME = "console_password"
# 32 MB and about 130 ms: guessing is expensive, and a login is not noticed.
_N, _R, _P = 2**15, 8, 1


def has_password(store: Store) -> bool:
    return bool(_stored(store))


def set_password(store: Store, password: str) -> None:
    """An empty one removes the password. All sessions go on: see ``Entry.change_password``."""
    stored = ""
    if password:
        salt = secrets.token_bytes(16)
        stored = f"scrypt${_N}${_R}${_P}${salt.hex()}${_derived(password, salt, _N, _R, _P).hex()}"
    store.facts.put(_NAME, stored, store.database.now())


def is_password(store: Store, password: str) -> bool:
    stored = _stored(store)
    if not stored or len(password) > MAX_LENGTH:
        return False
    _, n, r, p, salt, digest = stored.split("$")
    return hmac.compare_digest(_derived(password, bytes.fromhex(salt), int(n), int(r), int(p)), bytes.fromhex(digest))


def _stored(store: Store) -> str:
    kept = store.facts.get(_NAME)
    return kept[0] if kept is not None else ""


def _derived(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    def derive() -> bytes:
        return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)

    return in_native_thread(derive)
