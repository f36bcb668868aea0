"""A turn, from the queue of its conversation to its end.

    lease the conversation → plan → lease an account → attempt → done, or what ``failover`` says

Runs in the background (``concurrency.background``), so that the code that shows the answer is never blocked. Must
never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from app.accounts.leases import Lease
from app.answers import failover
from app.answers.attempt import Attempt, AttemptServices, Emit
from app.answers.failover import Failure
from app.answers.plan import Plan, Planner
from app.answers.turn_state import TurnState
from app.concurrency.background import Cancellation, Cancelled
from app.conversations.conversations import ConversationLease, Conversations
from app.errors import (
    AccountLimited,
    AccountRejected,
    AccountUnavailable,
    ChatForbidden,
    ChatUnknown,
    DatabaseUnavailable,
    GatewayError,
    ModelUnavailable,
    NoAccountFree,
    UpstreamError,
    code_of,
)
from app.request_record import LEFT, AttemptRecord
from app.store import Store, StoreError
from app.store.conversations import Kind
from app.store.leases import ALL_ACCOUNTS, WHOLE_ACCOUNT

log = logging.getLogger(__name__)

# One object for all turns: an empty set takes 200 bytes.
_NO_ACCOUNTS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed turn is tried again. Seconds."""

    # No further attempt begins later than this after the first.
    failover_s: float
    # Before the one repetition where the upstream as a whole failed; half or one and a half of it, at random.
    backoff_s: float


class Turns:
    """Runs turns. One object per process, used by all requests at once."""

    def __init__(
        self,
        planner: Planner,
        services: AttemptServices,
        conversations: Conversations,
        store: Store,
        policy: RetryPolicy,
    ) -> None:
        self._planner = planner
        self._services = services
        self._conversations = conversations
        self._store = store
        self._policy = policy

    def run(self, turn: TurnState, cancellation: Cancellation, emit: Emit) -> None:
        """Emits the events of the turn. Everything that the turn holds is released when it ends.

        Raises GatewayError, Cancelled, and what ``emit`` raises.
        """
        request = turn.request
        try:
            if request.conversation_id is None:
                try:
                    _Run(self, turn, None, cancellation, emit).run()
                finally:
                    if turn.thread is not None:
                        turn.thread.release()
                return
            kind: Kind = "response" if request.opens_conversation else "named"
            with self._conversations.lease(
                turn.caller, request.conversation_id, request.model, cancellation, kind
            ) as lease:
                try:
                    _Run(self, turn, lease, cancellation, emit).run()
                except Cancelled:
                    lease.check_lost()
                    raise
        finally:
            try:
                self._count_unrecognised(turn)
            finally:
                turn.caller.record.release()

    def _count_unrecognised(self, turn: TurnState) -> None:
        for kind in sorted(turn.unrecognised):
            log.info("frame_unrecognised upstream=%s kind=%r", turn.upstream, kind)
            try:
                self._store.unrecognised.count(turn.upstream, kind, time.time())
            except StoreError:
                log.exception("frame_not_counted upstream=%s kind=%s", turn.upstream, kind)


class _Run:
    """The attempts of one turn."""

    # Without a dictionary: there is one for each stream.
    __slots__ = (
        *("_cancellation", "_conversation", "_cooldown_s", "_deadline", "_emit", "_excluded", "_failed"),
        *("_last_error", "_not_serving", "_planner", "_policy", "_services", "_turn", "_was_repeated"),
    )

    def __init__(
        self,
        turns: Turns,
        turn: TurnState,
        conversation: ConversationLease | None,
        cancellation: Cancellation,
        emit: Emit,
    ) -> None:
        self._planner = turns._planner
        self._services = turns._services
        self._policy = turns._policy
        self._turn = turn
        self._conversation = conversation
        self._cancellation = cancellation
        self._emit = emit
        self._deadline = time.monotonic() + self._policy.failover_s
        # Accounts that have failed in this turn, and those of them for which waiting does not help.
        self._failed = _NO_ACCOUNTS
        self._excluded = _NO_ACCOUNTS
        # Accounts that have turned out not to serve the model.
        self._not_serving = _NO_ACCOUNTS
        self._was_repeated = False
        self._last_error: UpstreamError | None = None
        # How long the account of the attempt cools down because of it.
        self._cooldown_s = 0.0

    def run(self) -> None:
        turn = self._turn
        plan: Plan | None = self._continued_plan() or self._planner.plan(turn.request, self._conversation, turn.info)
        while plan is not None:
            turn.is_queued = turn.awaits_account = turn.caller.record.is_queued = True
            turn.reached_upstream = plan.resume is not None
            try:
                if plan.is_continued:
                    plan, lease = self._lease_for_continued(plan)
                else:
                    lease = self._lease(plan)
            except (NoAccountFree, AccountRejected) as e:
                plan = self._plan_without_account(plan, e)
                continue
            turn.info.prompt = plan.prepared.counted_text
            plan = self._attempt(plan, lease)

    def _continued_plan(self) -> Plan | None:
        """A stateless request in the chat that holds what it repeats; None where there is none that can be used."""
        thread, request, info = self._turn.thread, self._turn.request, self._turn.info
        if thread is None:
            return None
        chat = thread.take(repairs=request.repairs_last_turn)
        plan = None if chat is None else self._planner.continued(request, chat, thread.instructions)
        if plan is None:
            thread.release()
            info.conversation = "new"
            return None
        info.conversation, info.whole_prompt = "continued", lambda: self._planner.whole_prompt(request)
        return plan

    def _leave_open_chat(self, *, is_lost: bool = False) -> None:
        """A stateless request does not continue in its open chat. ``is_lost``: the upstream does not know that chat
        any more."""
        turn = self._turn
        if turn.thread is not None:
            turn.thread.release(is_lost=is_lost)
        turn.info.conversation, turn.info.whole_prompt = "new", None

    def _lease_for_continued(self, plan: Plan) -> tuple[Plan, Lease]:
        """The account of the open chat, if it is free. Else any account, as for a new chat; the plan is then one for
        a new chat, unless it has become that account. Raises as ``_lease``."""
        turn, services = self._turn, self._services
        lease = services.leases.lease_now(plan.accounts, turn.request.model, turn.caller.owner)
        if lease is not None:
            return plan, lease
        new = self._planner.plan(turn.request, None, turn.info)
        lease = self._lease(new)
        if lease.account_id in plan.accounts:
            return plan, lease
        log.info("open_chat_left reason=its account is not free account=%s", lease.account_id)
        self._leave_open_chat()
        # Not prepared again: its text would have another code than the question of the lease.
        return new, lease

    def _lease(self, plan: Plan) -> Lease:
        """Raises NoAccountFree; AccountRejected where no account is left that could serve this."""
        turn, services = self._turn, self._services
        usable = plan.accounts or services.accounts.usable(plan.sites)
        accounts = _without(usable, self._excluded)
        if not accounts:
            raise AccountRejected("every Kimi account that could serve this has refused")
        # Prefer one that has not failed in this turn.
        others = _without(accounts, self._failed)
        question = None
        if plan.resume is None:
            question = services.lost_chats.question_of(plan.upstreams, plan.prepared)
        began = time.monotonic()
        try:
            return services.leases.lease(
                others or accounts, turn.request.model, turn.caller.owner, self._cancellation, question
            )
        finally:
            turn.caller.record.waited_s += time.monotonic() - began

    def _plan_without_account(self, plan: Plan, error: GatewayError) -> Plan:
        """The plan where no account is available. Raises the error for the client."""
        if self._last_error is not None:
            raise _with_wait(self._last_error, error) from error
        if isinstance(error, AccountRejected) and self._conversation is not None and plan.resume is not None:
            return self._planner.rebuild(self._turn.request, self._conversation, error, self._turn.info)
        raise error

    def _attempt(self, plan: Plan, lease: Lease) -> Plan | None:
        """One attempt; None when the turn is done, else the plan of the next attempt. Raises what ends the turn."""
        attempt: Attempt | None = None
        began, code, blame = time.monotonic(), "internal_error", "ours"
        self._cooldown_s = 0.0
        try:
            attempt = Attempt(
                self._services, self._turn, plan, lease, self._conversation, self._cancellation, self._emit
            )
            attempt.run()
            code = blame = ""
            return None
        except Cancelled:
            # An answer that is complete is one, also where the end of Kimi's stream was not awaited.
            code, blame = "" if attempt is not None and attempt.finished else LEFT, ""
            # The client left. A chat that was opened for a new conversation stays, to continue in.
            if (
                self._conversation is not None
                and self._conversation.is_new
                and attempt is not None
                and attempt.chat_id is not None
            ):
                self._conversation.forget = False
                attempt.keep_chat()
            raise
        except UpstreamError as e:
            error = e
            code, blame = code_of(e), e.blame
            plan = self._next_plan(e, plan, lease, answered=attempt is not None and attempt.answered)
        except GatewayError as e:
            code, blame = code_of(e), e.blame
            raise
        except StoreError:
            code = DatabaseUnavailable.default_code or code
            raise
        finally:
            self._turn.caller.record.attempts.append(
                AttemptRecord(
                    lease.account_id, self._turn.upstream, code, blame, time.monotonic() - began, self._cooldown_s
                )
            )
            # Not before Kimi's stream has ended: it counts the streams of an account, too.
            try:
                if attempt is not None:
                    attempt.clean_up()
            finally:
                self._services.leases.release(lease)
        self._turn.is_queued = self._turn.awaits_account = self._turn.caller.record.is_queued = True
        if error.blame == "upstream":
            backoff_s = failover.backoff_s(error, self._policy.backoff_s)
            self._cancellation.sleep(backoff_s * random.uniform(0.5, 1.5))
        return plan

    def _next_plan(self, error: UpstreamError, plan: Plan, lease: Lease, *, answered: bool) -> Plan:
        """Charges the account for the failure. Raises ``error`` where the turn is over."""
        turn = self._turn
        self._last_error = error
        self._failed |= {lease.account_id}
        if failover.excludes_account(error):
            self._excluded |= {lease.account_id}
        no_account_serves = isinstance(error, ModelUnavailable) and self._is_served_by_none(lease, plan)
        self._charge(error, lease, no_account_serves)
        step = failover.next_step(
            Failure(
                error,
                answered=answered,
                in_old_chat=plan.resume is not None,
                attempts=turn.attempts,
                is_late=time.monotonic() > self._deadline,
                was_repeated=self._was_repeated,
                can_branch=plan.resume is not None and plan.resume.message_id is not None,
                no_account_serves=no_account_serves,
                is_continued=plan.is_continued,
            )
        )
        if step is failover.GIVE_UP:
            raise error
        if plan.is_continued:
            log.info("open_chat_left account=%s error=%s", lease.account_id, error.message)
            self._leave_open_chat(is_lost=isinstance(error, ChatUnknown | ChatForbidden))
            return self._planner.plan(turn.request, None, turn.info)
        self._was_repeated = self._was_repeated or step.backs_off
        if step is failover.REBUILD and self._conversation is not None:
            plan = self._planner.rebuild(turn.request, self._conversation, error, turn.info)
        log.info(
            "attempt_failed attempt=%d account=%s next=1 error=%s", turn.attempts, lease.account_id, error.message
        )
        return plan

    def _is_served_by_none(self, lease: Lease, plan: Plan) -> bool:
        """Whether the model has failed on so many accounts that it will on all. Not where only one may be asked."""
        self._not_serving |= {lease.account_id}
        if plan.accounts:
            return False
        usable = self._services.accounts.usable(plan.sites)
        return len(self._not_serving) >= min(failover.MODEL_ACCOUNTS, len(usable))

    def _charge(self, error: UpstreamError, lease: Lease, no_account_serves: bool) -> None:
        """What the account has to bear, or the model."""
        if isinstance(error, AccountUnavailable):
            # That is its owner's will, and no failure.
            return
        cooldown = failover.cooldown_for(error)
        if isinstance(error, AccountRejected):
            cooldown = self._charge_rejection(error, lease)
        if cooldown is not None:
            scope = lease.scope if cooldown.model_only else WHOLE_ACCOUNT
            account_id = ALL_ACCOUNTS if no_account_serves else lease.account_id
            seconds = self._cooldown_s = self._services.leases.cool_down(
                account_id, scope, cooldown.base_s, cooldown.exactly_s, cooldown.cause
            )
            log.warning(
                "account_cooldown account=%s model=%s seconds=%.0f error=%s",
                account_id or "all",
                scope or "all",
                seconds,
                error.message,
            )
        elif error.blame == "ours":
            log.error("answer_not_understood upstream=%s error=%s", self._turn.upstream, error.message)

    def _charge_rejection(self, error: AccountRejected, lease: Lease) -> failover.Cooldown | None:
        accounts = self._services.accounts
        digest = accounts.refused_token(lease.account_id)
        if digest is not None:
            seconds = self._cooldown_s = self._services.leases.reject(lease.account_id, digest)
            log.warning("account_rejected account=%s seconds=%.0f error=%s", lease.account_id, seconds, error.message)
            return None
        if accounts.is_revoked(lease.account_id):
            return None
        # Its token was renewed and rejected again. The cause is unknown and may pass.
        return failover.Cooldown(failover.LIMITED_COOLDOWN_S)


def _without(accounts: Mapping[str, str], ids: frozenset[str]) -> Mapping[str, str]:
    """The same mapping where none is to go, as nearly always: there may be hundreds."""
    return {id_: token for id_, token in accounts.items() if id_ not in ids} if ids else accounts


def _with_wait(last: UpstreamError, no_account: GatewayError) -> UpstreamError:
    """The failure that used up the last account, with the time after which an account is free again."""
    retry_after_s = last.retry_after_s
    if isinstance(last, AccountLimited) and retry_after_s is None:
        retry_after_s = no_account.retry_after_s
    return last.replaced(retry_after_s=retry_after_s, rate_limit=no_account.rate_limit)
