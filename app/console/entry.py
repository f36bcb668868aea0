"""Who may use the console: links that work once, the password, sessions. Knows no page.

There is no credential until the owner makes one. A link, the password and the cookie of a session are checked here
and nowhere else. The database has their digests only.
"""

import base64
import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.console import passwords
from app.settings.config import Config
from app.store import Store
from app.store.console import FailureLimits, SessionLimits, SessionRow

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

# How long a link works. Seconds.
TICKET_S = 600.0
# A session ends after 12 hours without a request, and after 30 days. Seconds.
SESSIONS = SessionLimits(idle_s=12 * 3600.0, longest_s=30 * 86_400.0)
# Wrong passwords: 5 in 15 minutes per address, 30 in all.
FAILURES = FailureLimits(window_s=900.0, per_address=5, in_all=30)
# The time of a session's last request is written at most so often. Seconds.
_SEE_EVERY_S = 60.0
# How long a pasted text waits for being saved. Seconds.
DRAFT_S = 300.0


class LoginRefused(Exception):
    """``retry_at``: too many passwords were wrong; the next one is looked at from then on, in Unix seconds."""

    def __init__(self, retry_at: float | None = None) -> None:
        super().__init__("the password is wrong" if retry_at is None else "too many wrong passwords")
        self.retry_at = retry_at


@dataclass(frozen=True, slots=True)
class Session:
    """A session and its cookie. ``token`` stands in its forms: no other site knows it."""

    cookie: str
    row: SessionRow

    @property
    def token(self) -> str:
        return hmac.new(self.cookie.encode(), b"a form of the console", hashlib.sha256).hexdigest()

    @property
    def seal(self) -> "Fernet":
        # 7 MB of a worker, for those who add an account in the console.
        from cryptography.fernet import Fernet

        key = hmac.new(self.cookie.encode(), b"a draft of the console", hashlib.sha256).digest()
        return Fernet(base64.urlsafe_b64encode(key))


class Entry:
    def __init__(self, store: Store) -> None:
        self._store = store

    def make_ticket(self) -> str:
        """A link's secret part: 128 random bits, good for TICKET_S, once."""
        ticket = secrets.token_urlsafe(16)
        now = self._store.database.now()
        self._store.console.add_ticket(_digest(ticket), now, now + TICKET_S)
        return ticket

    def enter_with_ticket(self, ticket: str, browser: str) -> str:
        """The cookie of a new session. Raises LoginRefused."""
        cookie = secrets.token_urlsafe(32)
        now = self._store.database.now()
        if not self._store.console.enter(_digest(ticket), _digest(cookie), browser, now):
            raise LoginRefused
        return cookie

    def enter_with_password(self, password: str, address: str, browser: str) -> str:
        """The cookie of a new session. ``address``: of the client, against which wrong passwords are counted. Raises
        LoginRefused."""
        store = self._store
        if not passwords.has_password(store):
            raise LoginRefused
        now, who = store.database.now(), self._address_digest(address)
        retry_at = store.console.begin_login(secrets.token_hex(16), who, now, FAILURES)
        if retry_at is not None:
            raise LoginRefused(retry_at)
        if not passwords.is_password(store, password):
            raise LoginRefused
        store.console.forget_failures(who)
        cookie = secrets.token_urlsafe(32)
        store.console.add_session(_digest(cookie), browser, now, SESSIONS)
        return cookie

    def session(self, cookie: str | None) -> Session | None:
        """None if there is none with this cookie, or it has ended."""
        if not cookie or len(cookie) > 100:
            return None
        now = self._store.database.now()
        row = self._store.console.session(_digest(cookie), now, SESSIONS)
        if row is None:
            return None
        if now - row.seen_at >= _SEE_EVERY_S:
            self._store.console.see_session(row.digest, now)
        return Session(cookie, row)

    def sessions(self) -> list[SessionRow]:
        return self._store.console.sessions(self._store.database.now(), SESSIONS)

    def leave(self, session: Session) -> None:
        self._store.console.delete_session(session.row.digest)

    # What was pasted and not saved yet. Sealed with the cookie, which the database does not hold.

    def keep_draft(self, session: Session, text: str) -> None:
        until = self._store.database.now() + DRAFT_S
        self._store.console.set_draft(session.row.digest, session.seal.encrypt(text.encode()).decode(), until)

    def draft(self, session: Session) -> str | None:
        """None if there is none, or its time is over."""
        sealed = self._store.console.draft(session.row.digest, self._store.database.now())
        return None if sealed is None else session.seal.decrypt(sealed.encode()).decode()

    def drop_draft(self, session: Session) -> None:
        self._store.console.set_draft(session.row.digest, None, 0.0)

    def end_others(self, session: Session | None) -> int:
        """Ends all sessions but this one. Returns how many."""
        return self._store.console.delete_other_sessions(session.row.digest if session is not None else "")

    def change_password(self, password: str, session: Session | None) -> None:
        """Sets the password, or removes it if it is empty, and ends all sessions but this one."""
        passwords.set_password(self._store, password)
        self.end_others(session)

    def failures(self) -> int:
        """How many passwords were wrong within the last quarter of an hour."""
        return self._store.console.failures_since(self._store.database.now() - FAILURES.window_s)

    def _address_digest(self, address: str) -> str:
        """Addresses are not stored. Of IPv6 the network counts: everybody has as many addresses as they like."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            network = address
        else:
            bits = 64 if ip.version == 6 and ip.ipv4_mapped is None else ip.max_prefixlen
            network = str(ipaddress.ip_network((ip, bits), strict=False))
        return hmac.new(self._store.digest_key, f"console {network}".encode(), hashlib.sha256).hexdigest()[:32]


def link_of(config: Config, ticket: str) -> str:
    """The link into the console, as its owner opens it. The ticket stands behind a #, so that no server sees it."""
    return f"{config.console_address}/enter#{ticket}"


_BROWSERS = (("Edg/", "Edge"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)


def browser_name(user_agent: str) -> str:
    """``Firefox, Linux``: by which its owner recognises a session. Made of words of ours only."""
    parts = [next((name for sign, name in known if sign in user_agent), "") for known in (_BROWSERS, _SYSTEMS)]
    return ", ".join(filter(None, parts)) or "?"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
