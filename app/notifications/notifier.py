"""Decides what the owner is told, and when. All that it knows is in the store, so a restart tells nothing twice.

Of all processes one at a time has the role; a message is claimed before it is sent, so that two that both believe to
have it do not send the same one. Only a process that is killed between sending and noting it sends one again.
"""

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from app.accounts.pool import Accounts
from app.accounts.standings import Language
from app.concurrency.periodic import every
from app.ledger.series import NOTIFICATIONS
from app.notifications.conditions import EVENTS, TEST, Conditions, Message, conditions, test_text
from app.notifications.delivery import NotDelivered, deliver, reason
from app.store import Store, StoreError
from app.store.notifications import NotificationRow

log = logging.getLogger(__name__)

# How often each process looks. Seconds.
_LOOK_EVERY_S = 5.0
# How long the role stays with a process that does not look any more. Seconds.
_ROLE = "notifications"
_HOLD_S = 60.0
# How long no other process tries the same message. Longer than a try takes. Seconds.
_CLAIM_S = 60.0
# The pauses after tries that failed; after the last one the message is given up. Seconds.
_PAUSES_S = (10.0, 60.0, 300.0, 1800.0)
# The owner is told at most so often that the same thing has begun. Seconds.
_ONCE_PER_S = 3600.0
# The name of the last outcome in the store.
_LAST = "notification_last"


@dataclass(frozen=True, slots=True)
class Receiver:
    """``url``: NOTIFY_URL, a secret. ``form``: one of ``delivery.FORMS``. ``console_url``: where links lead."""

    url: str
    form: str
    language: Language
    console_url: str


@dataclass(frozen=True, slots=True)
class LastOutcome:
    """How the last try to send a message ended. ``code`` and ``detail``: see NotDelivered; empty if the message was
    taken. ``at``: Unix seconds."""

    event: str
    code: str
    detail: str
    at: float

    def reason(self, language: Language) -> str:
        """Why it failed. Only where it has."""
        return reason(self.code, self.detail, language)


def last_outcome(store: Store) -> LastOutcome | None:
    """None if no message was ever sent. Raises StoreError."""
    kept = store.facts.get(_LAST)
    return None if kept is None else LastOutcome(**json.loads(kept[0]))


class Notifier:
    """One object per process."""

    def __init__(self, store: Store, receiver: Receiver) -> None:
        self._store = store
        self._receiver = receiver
        self._holder = uuid.uuid4().hex

    def start(self, accounts: Accounts) -> None:
        """Looks from now on, for as long as the process lives."""
        every(_LOOK_EVERY_S, lambda: self._look(accounts), "notifications", first_after_s=_LOOK_EVERY_S)

    def send_test(self) -> LastOutcome:
        """Sends a message at once. Raises StoreError."""
        return self._send(self._message(TEST, "", test_text(self._receiver.language), "/health"))

    def _look(self, accounts: Accounts) -> None:
        now = self._store.database.now()
        if not self._store.roles.acquire(_ROLE, self._holder, now, now + _HOLD_S):
            return
        accounts.reload()
        found = conditions(accounts.standings(), self._store.unrecognised.all(), now, self._receiver.language)
        self._note(found, self._store.notifications.all(), now)
        labels = accounts.labels()
        for row in self._store.notifications.all():
            self._tell(row, found, labels.get, now)

    def _note(self, found: Conditions, rows: Sequence[NotificationRow], now: float) -> None:
        """Writes what has changed."""
        was_on = {row.name: row.is_on for row in rows}
        for name in found.on:
            if not was_on.get(name, False):
                self._store.notifications.switch(name, True, now)
        for row in rows:
            if row.is_on and row.name not in found.on and row.name not in found.unclear:
                self._store.notifications.switch(row.name, False, now)
            elif not row.is_on and not row.told and now - max(row.since, row.told_at) > _ONCE_PER_S:
                self._store.notifications.delete(row.name)

    def _tell(
        self, row: NotificationRow, found: Conditions, label_of: Callable[[str], str | None], now: float
    ) -> None:
        """Tells the owner, if they have to be told now."""
        if row.is_on == row.told or now < row.try_at:
            return
        begun, _, account_id = row.name.partition(" ")
        event = EVENTS.get(begun)
        text = (found.on if row.is_on else found.over).get(row.name)
        if event is None or text is None:
            # It ended because the owner did something, or an older gateway knew it.
            self._store.notifications.settle(row.name, row.is_on, row.told_at)
            return
        too_early = now < row.since + event.after_s
        too_often = row.told_at > 0 and now < row.told_at + _ONCE_PER_S
        if row.is_on and (too_early or too_often):
            return
        if not self._store.notifications.claim(row, now, now + _CLAIM_S):
            return
        name = event.begun if row.is_on else event.over
        message = self._message(name, label_of(account_id) or "", text, event.page)
        outcome = self._send(message)
        now = self._store.database.now()
        if not outcome.code:
            self._store.notifications.settle(row.name, row.is_on, now)
        elif row.tries < len(_PAUSES_S):
            pause_s = _PAUSES_S[row.tries]
            self._store.notifications.put_off(row.name, now + pause_s)
            log.warning("notification_failed event=%s retry_in_s=%.0f error=%s", name, pause_s, outcome.reason("en"))
        else:
            self._store.notifications.settle(row.name, row.is_on, now)
            log.error("notification_given_up event=%s tries=%d error=%s", name, row.tries + 1, outcome.reason("en"))

    def _message(self, event: str, account: str, text: str, page: str) -> Message:
        return Message(event, account, text, self._receiver.console_url + page)

    def _send(self, message: Message) -> LastOutcome:
        """Sends it once, and keeps how that ended. Raises StoreError."""
        code, detail = "", ""
        try:
            deliver(self._receiver.url, self._receiver.form, message)
        except NotDelivered as e:
            code, detail = e.code, e.detail
        now = self._store.database.now()
        outcome = LastOutcome(message.event, code, detail, now)
        with suppress(StoreError):
            self._store.facts.put(_LAST, json.dumps(asdict(outcome)), now)
            labels = {"event": message.event, "outcome": "failed" if code else "ok"}
            self._store.ledger.count(NOTIFICATIONS.name, labels)
        return outcome
