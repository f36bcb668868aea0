"""What follows a failed attempt: a pure function over a small value, one table, one test per row.

An attempt is one try of a turn on one account. Two rules stand behind every row:

- A client never sees two beginnings. Once a part of the answer has been passed on, its failure is the turn's failure.
- A message never stands twice in a chat that continues. In a new chat a repetition is harmless, because the failed
  chat is deleted. In an old chat the message must certainly not be there yet.

What the account has to bear is a second table. Must never know who is asked, how, or what was asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.accounts.scheduling import FORBIDDEN, LIMITED, NEEDS_PLAN, NOT_RENEWED, NOT_SERVED
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    ChatUnknown,
    EdgeTimeout,
    GatewayError,
    ModelUnavailable,
    ProtocolUnavailable,
    QuotaSpent,
    RenewalFailed,
    UpstreamError,
)

# A turn is never tried more often than this.
MAX_ATTEMPTS = 10

# The first cooldown of an account that is limited, and of one that is forbidden. Seconds.
LIMITED_COOLDOWN_S = 5.0
FORBIDDEN_COOLDOWN_S = 60.0

# How long an account is not asked for a model that it needs a plan or credits for, and at first for one that it does
# not serve. Seconds.
QUOTA_COOLDOWN_S = 3600.0
MODEL_COOLDOWN_S = 30.0
# A model that so many accounts do not serve, or all that there are, is served by none.
MODEL_ACCOUNTS = 3

# Where the upstream itself says when to come back, a second attempt waits for so long at most. Seconds.
_MAX_BACKOFF_S = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed, and the turn that it belongs to."""

    error: UpstreamError
    # A part of the answer has been passed on to the client.
    answered: bool
    # The attempt continued a chat that holds earlier turns.
    in_old_chat: bool
    # Attempts of this turn so far, this one included.
    attempts: int
    # FAILOVER_S is over.
    is_late: bool
    # The upstream as a whole has failed before in this turn, and the attempt was repeated for that.
    was_repeated: bool
    # A message that is sent to the old chat again stands on a branch of its own there.
    can_branch: bool = False
    # The model was not served by any account that was tried, and those were all, or enough of them.
    no_account_serves: bool = False
    # The attempt continued the open chat of a stateless request, which would have been served in a new one.
    is_continued: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next."""

    kind: Literal["give up", "try again", "rebuild"]
    # Wait before the next attempt, because the upstream as a whole has failed.
    backs_off: bool = False


GIVE_UP = Step("give up")
TRY_AGAIN = Step("try again")
TRY_AGAIN_LATER = Step("try again", backs_off=True)
# In a new chat, with the history.
REBUILD = Step("rebuild")


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    applies: Callable[[Failure], bool]
    step: Step


# The first rule that applies counts.
RULES: tuple[Rule, ...] = (
    Rule("the client has seen a part of the answer", lambda f: f.answered, GIVE_UP),
    Rule("the open chat of a stateless request failed", lambda f: f.is_continued, REBUILD),
    Rule("no upstream serves the protocol", lambda f: isinstance(f.error, ProtocolUnavailable), GIVE_UP),
    Rule("it took too long already", lambda f: f.is_late, GIVE_UP),
    Rule("it was tried often enough", lambda f: f.attempts >= MAX_ATTEMPTS, GIVE_UP),
    Rule("the account needs a plan or credits", lambda f: isinstance(f.error, QuotaSpent), GIVE_UP),
    Rule("no account serves the model", lambda f: f.no_account_serves, GIVE_UP),
    Rule(
        "the old chat or its account cannot be used any more", lambda f: f.in_old_chat and is_lost(f.error), REBUILD
    ),
    Rule("any other account would fail the same way", lambda f: f.error.blame in ("request", "ours"), GIVE_UP),
    Rule(
        "the edge gave up, and the old chat can branch",
        lambda f: f.in_old_chat and f.can_branch and isinstance(f.error, EdgeTimeout) and not f.was_repeated,
        TRY_AGAIN_LATER,
    ),
    Rule("the message may stand in the old chat", lambda f: f.in_old_chat and f.error.reached_upstream, GIVE_UP),
    Rule("the upstream as a whole failed twice", lambda f: f.error.blame == "upstream" and f.was_repeated, GIVE_UP),
    Rule("the upstream as a whole failed", lambda f: f.error.blame == "upstream", TRY_AGAIN_LATER),
    Rule("the account failed", lambda _: True, TRY_AGAIN),
)


def next_step(failure: Failure) -> Step:
    return next(rule.step for rule in RULES if rule.applies(failure))


def is_lost(error: GatewayError) -> bool:
    """Whether the chat cannot be used any more, or its account."""
    return isinstance(error, ChatUnknown | AccountRejected | AccountForbidden)


def excludes_account(error: UpstreamError) -> bool:
    """Whether waiting for this account cannot help within the turn."""
    return isinstance(error, AccountRejected | AccountForbidden)


def backoff_s(error: UpstreamError, base_s: float) -> float:
    """How long to wait before the next attempt where the upstream as a whole failed: ``base_s``, or longer where the
    upstream says so."""
    if error.retry_after_is_upstreams and error.retry_after_s is not None:
        return min(max(base_s, error.retry_after_s), _MAX_BACKOFF_S)
    return base_s


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The account is not used for a while: for ``exactly_s``, or for ``base_s`` and longer with each failure."""

    base_s: float
    exactly_s: float | None = None
    # Only requests for the same model have to wait.
    model_only: bool = False
    # One of ``scheduling``: what those are told that cannot wait for its end, and the owner of the account.
    cause: str = ""


def cooldown_for(error: UpstreamError) -> Cooldown | None:
    """What the account has to bear for a failure; None: nothing.

    A rejected token is not in the table: whether it can be renewed decides, and that is the account pool's to know.
    """
    upstreams_s = error.retry_after_s if error.retry_after_is_upstreams else None
    match error:
        case AccountForbidden():
            return Cooldown(FORBIDDEN_COOLDOWN_S, upstreams_s, cause=FORBIDDEN)
        case AccountLimited():
            longest_s = max(LIMITED_COOLDOWN_S, error.retry_after_s or 0.0)
            return Cooldown(longest_s, upstreams_s, error.model_only, cause=LIMITED)
        case QuotaSpent():
            return Cooldown(QUOTA_COOLDOWN_S, QUOTA_COOLDOWN_S, model_only=True, cause=NEEDS_PLAN)
        case ModelUnavailable():
            return Cooldown(MODEL_COOLDOWN_S, upstreams_s, model_only=True, cause=NOT_SERVED)
        case RenewalFailed():
            # Not longer each time: it may have been renewed meanwhile, and may be the only account.
            return Cooldown(LIMITED_COOLDOWN_S, LIMITED_COOLDOWN_S, cause=NOT_RENEWED)
        case _:
            return None
