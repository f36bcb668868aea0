"""Tries one account out, and asks Kimi about it, for commands and console: ``accounts.management.Kimi``."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from app.accounts.management import StepName, TrialStep
from app.accounts.pool import Accounts
from app.accounts.standings import Language
from app.doctor.findings import Mark
from app.doctor.trial_turn import Generation, take_turn
from app.doctor.wording import Span, Value, say, written
from app.errors import AccountRejected, GatewayError, UpstreamError
from app.store import Store
from app.upstreams.account import Account
from app.upstreams.kimi.connect import KimiConnect
from app.upstreams.kimi.quota import Quota, Quotas

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """A ``TrialStep`` whose ``found`` is not written yet."""

    name: StepName
    mark: Mark
    found: Value
    code: str = ""
    seconds: float | None = None


class AccountTrials:
    """``generations``: makes the upstreams with their models. ``limit_s``: a turn that takes longer has failed."""

    def __init__(
        self, generations: Callable[[], Sequence[Generation]], accounts: Accounts, store: Store, limit_s: float
    ) -> None:
        self._generations = generations
        self._accounts = accounts
        self._store = store
        self._limit_s = limit_s

    def refuses(self, account: Account) -> bool | None:
        """See ``management.Kimi``."""
        connect = self._connect()
        if connect is None:
            return None
        try:
            connect.subscription(account)
        except AccountRejected:
            return True
        except UpstreamError:
            return None
        return False

    def quota(self, account_id: str) -> Quota | None:
        """See ``management.AccountManager.quota``."""
        connect = self._connect()
        if connect is None:
            return None
        account = self._accounts.fresh(self._accounts.get(account_id))
        return Quotas(self._store, connect.subscription).of(account)

    def try_out(self, account_id: str, language: Language) -> Iterator[TrialStep]:
        """See ``management.AccountManager.test``."""
        for step in self._steps(account_id):
            found = written(step.found, language)
            yield TrialStep(step.name, step.mark, found, step.code, step.seconds)

    def _steps(self, account_id: str) -> Iterator["_Step"]:
        began = time.monotonic()
        try:
            account = self._accounts.fresh(self._accounts.get(account_id))
        except GatewayError as e:
            yield _Step("token", "problem", e, e.code or "", time.monotonic() - began)
            for name in ("models", "quota", "answer"):
                yield _Step(name, "skipped", say("no_token_that_works"))
            return
        works = say("token_works_now")
        if account.expires_at is not None:
            works = say("token_works_for", left=Span(account.expires_at - time.time()))
        yield _Step("token", "ok", works, seconds=time.monotonic() - began)
        yield self._models(account)
        yield self._quota(account)
        yield from self._turn(account)

    def _models(self, account: Account) -> "_Step":
        connect = self._connect()
        if connect is None:
            return _Step("models", "skipped", say("protocol_left_out"))
        began = time.monotonic()
        try:
            listing = connect.listing(account)
        except UpstreamError as e:
            return _Step("models", "warning", e, e.code or "", time.monotonic() - began)
        return _Step(
            "models", "ok", say("number_of_models", number=len(listing.offers)), seconds=time.monotonic() - began
        )

    def _quota(self, account: Account) -> "_Step":
        connect = self._connect()
        if connect is None:
            return _Step("quota", "skipped", say("protocol_left_out"))
        try:
            quota = Quotas(self._store, connect.subscription).of(account)
        except UpstreamError as e:
            return _Step("quota", "skipped", say("left_unknown"), e.code or "")
        if quota is None:
            return _Step("quota", "skipped", say("left_not_told"))
        return _Step("quota", "warning" if quota.is_spent else "ok", quota)

    def _turn(self, account: Account) -> Iterator["_Step"]:
        """The first protocol that answers is enough: an account works with both or with none."""
        outcome = None
        for generation in self._generations():
            outcome = take_turn(generation, account, self._accounts, self._store, self._limit_s)
            if outcome.content or isinstance(outcome.error, AccountRejected):
                break
        if outcome is None:
            yield _Step("answer", "skipped", say("no_protocol"))
            return
        if outcome.error is not None:
            yield _Step("answer", "problem", outcome.error, outcome.error.code or "", outcome.total_s)
        elif not outcome.content:
            yield _Step("answer", "problem", say("ended_without_text"), "", outcome.total_s)
        else:
            found = say("answered_after", first_s=outcome.first_s or 0)
            yield _Step("answer", "ok", found, seconds=outcome.total_s)
        if outcome.undeleted is not None:
            yield _Step("chat", "warning", say("its_chat_remains", error=outcome.undeleted))
        elif outcome.chats:
            yield _Step("chat", "ok", say("its_chat_is_deleted"))

    def _connect(self) -> KimiConnect | None:
        return next((g.upstream for g in self._generations() if isinstance(g.upstream, KimiConnect)), None)
