"""An account as upstreams use it, and how times are written for people. Must never know where tokens are kept."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Account:
    """A Kimi login as it is used for one request. ``id`` and ``label`` are safe to log, ``token`` is not."""

    id: str
    label: str
    token: str = field(repr=False)
    expires_at: float | None
    renewable: bool
    user_id: str | None = field(repr=False)
    device_id: str | None = field(repr=False)
    session_id: str | None = field(repr=False)
    # The name of the site that it lives at, and its address.
    site: str
    base_url: str = ""
    # Through which its requests go: a URL, "direct" for none, or empty for that of the environment.
    proxy: str = field(default="", repr=False)

    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()


# Asks for what is public. Its label begins error messages.
NOBODY = Account("", "the gateway", "", None, False, None, None, None, "")


def describe_expiry(label: str, expires_at: float) -> str:
    return f"{label}: the Kimi token expired at {when(expires_at)}; add a new one: `flask --app wsgi accounts add`."


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
