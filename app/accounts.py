"""Whose turn it is: fairness over the configured Kimi accounts.

Must never know how a token is sent or refreshed, nor any SQL text.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.credentials import Credential
from app.errors import AccountRejected, ConversationLost
from app.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """A Kimi login that may be used now. ``id`` and ``label`` are safe to log, ``token`` is not."""

    id: str
    label: str
    token: str = field(repr=False)
    expires_at: float | None
    user_id: str | None = field(repr=False)
    device_id: str | None = field(repr=False)
    session_id: str | None = field(repr=False)

    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()


class Accounts:
    """The configured accounts. Which one is next is decided in the store, and so fair over all workers."""

    def __init__(self, credentials: Sequence[Credential], store: Store) -> None:
        self._credentials = {credential.id: credential for credential in credentials}
        self._store = store
        store.add_accounts(list(self._credentials))
        for problem in self.problems():
            log.warning("%s", problem)

    @property
    def ids(self) -> list[str]:
        return list(self._credentials)

    def next(self) -> Account:
        """The account for a new chat; AccountRejected says what to do where none can be used."""
        usable = [c.id for c in self._credentials.values() if _problem(c) is None]
        if not usable:
            raise AccountRejected("no usable Kimi account. " + " ".join(self.problems()))
        return _account(self._credentials[self._store.next_account(usable)])

    def get(self, account_id: str) -> Account:
        """The account that a conversation belongs to.

        Raises ConversationLost where it is not configured any more, AccountRejected where it cannot be used.
        """
        credential = self._credentials.get(account_id)
        if credential is None:
            raise ConversationLost(
                "the Kimi account that this conversation was opened with is no longer in KIMI_TOKENS; "
                "put it back, or start a new conversation"
            )
        problem = _problem(credential)
        if problem is not None:
            raise AccountRejected(problem)
        return _account(credential)

    def problems(self) -> list[str]:
        """A sentence for each account that cannot be used, saying what to do."""
        return [problem for c in self._credentials.values() if (problem := _problem(c)) is not None]

    def has_usable(self) -> bool:
        return any(_problem(c) is None for c in self._credentials.values())


def describe_expiry(label: str, expires_at: float) -> str:
    when = datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{label}: the Kimi token expired at {when}; paste a new one into KIMI_TOKENS and restart."


def _problem(credential: Credential) -> str | None:
    if credential.kind == "refresh":
        return (
            f"{credential.label}: this is a refresh token, and refreshing is not supported yet; "
            "paste the access_token into KIMI_TOKENS and restart."
        )
    if credential.expires_at is not None and credential.expires_at <= time.time():
        return describe_expiry(credential.label, credential.expires_at)
    return None


def _account(c: Credential) -> Account:
    return Account(c.id, c.label, c.token, c.expires_at, c.user_id, c.device_id, c.session_id)
