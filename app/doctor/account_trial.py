"""Tries one account out, and asks Kimi about it, for commands and console: ``accounts.management.Kimi``."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from app.accounts.management import TrialStep
from app.accounts.pool import Accounts
from app.doctor.trial_turn import Generation, take_turn
from app.errors import AccountRejected, GatewayError, UpstreamError
from app.store import Store
from app.upstreams.account import Account, duration
from app.upstreams.kimi.connect import KimiConnect
from app.upstreams.kimi.quota import Quota, Quotas

log = logging.getLogger(__name__)


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

    def try_out(self, account_id: str) -> Iterator[TrialStep]:
        """See ``management.AccountManager.test``."""
        began = time.monotonic()
        try:
            account = self._accounts.fresh(self._accounts.get(account_id))
        except GatewayError as e:
            yield TrialStep("token", "problem", e.message, e.code or "", time.monotonic() - began)
            for name in ("models", "quota", "answer"):
                yield TrialStep(name, "skipped", "not tried: there is no token that works")
            return
        left = "" if account.expires_at is None else f" for {duration(account.expires_at - time.time())}"
        yield TrialStep("token", "ok", f"the access token works{left}", seconds=time.monotonic() - began)
        yield self._models(account)
        yield self._quota(account)
        yield from self._turn(account)

    def _models(self, account: Account) -> TrialStep:
        connect = self._connect()
        if connect is None:
            return TrialStep("models", "skipped", "not asked: KIMI_PROTOCOL leaves that protocol out")
        began = time.monotonic()
        try:
            listing = connect.listing(account)
        except UpstreamError as e:
            return TrialStep("models", "warning", e.message, e.code or "", time.monotonic() - began)
        return TrialStep("models", "ok", f"{len(listing.offers)} models", seconds=time.monotonic() - began)

    def _quota(self, account: Account) -> TrialStep:
        connect = self._connect()
        if connect is None:
            return TrialStep("quota", "skipped", "not asked: KIMI_PROTOCOL leaves that protocol out")
        try:
            quota = Quotas(self._store, connect.subscription).of(account)
        except UpstreamError as e:
            return TrialStep("quota", "skipped", "Kimi does not say what is left", e.code or "")
        if quota is None:
            return TrialStep("quota", "skipped", "Kimi did not say what is left some minutes ago")
        return TrialStep("quota", "warning" if quota.is_spent else "ok", str(quota))

    def _turn(self, account: Account) -> Iterator[TrialStep]:
        """The first protocol that answers is enough: an account works with both or with none."""
        outcome = None
        for generation in self._generations():
            outcome = take_turn(generation, account, self._accounts, self._store, self._limit_s)
            if outcome.content or isinstance(outcome.error, AccountRejected):
                break
        if outcome is None:
            yield TrialStep("answer", "skipped", "no protocol is switched on")
            return
        if outcome.error is not None:
            yield TrialStep("answer", "problem", outcome.error.message, outcome.error.code or "", outcome.total_s)
        elif not outcome.content:
            yield TrialStep("answer", "problem", "Kimi ended the answer without any text", "", outcome.total_s)
        else:
            found = f"answered; first token after {outcome.first_s or 0:.1f} s"
            yield TrialStep("answer", "ok", found, seconds=outcome.total_s)
        if outcome.undeleted is not None:
            yield TrialStep("chat", "warning", f"its chat could not be deleted: {outcome.undeleted}")
        elif outcome.chats:
            yield TrialStep("chat", "ok", "its chat is deleted")

    def _connect(self) -> KimiConnect | None:
        return next((g.upstream for g in self._generations() if isinstance(g.upstream, KimiConnect)), None)
