"""What follows a failed attempt: every row of both tables, and the order of the rows."""

from dataclasses import replace

import pytest

from app.accounts.scheduling import FORBIDDEN, LIMITED, NEEDS_PLAN, NOT_RENEWED, NOT_SERVED
from app.answers.failover import (
    FORBIDDEN_COOLDOWN_S,
    GIVE_UP,
    LIMITED_COOLDOWN_S,
    MAX_ATTEMPTS,
    MODEL_COOLDOWN_S,
    QUOTA_COOLDOWN_S,
    REBUILD,
    RULES,
    TRY_AGAIN,
    TRY_AGAIN_LATER,
    Cooldown,
    Failure,
    Step,
    backoff_s,
    cooldown_for,
    excludes_account,
    next_step,
)
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    AnswerCancelled,
    AnswerEmpty,
    AnswerRewritten,
    ChatForbidden,
    ChatUnknown,
    EdgeTimeout,
    InvalidJsonAnswer,
    ModelUnavailable,
    Moderated,
    ProtocolUnavailable,
    QuotaSpent,
    RenewalFailed,
    RequestRefused,
    UpstreamConflict,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

ALL_ERRORS = (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    AnswerCancelled,
    AnswerEmpty,
    AnswerRewritten,
    ChatForbidden,
    ChatUnknown,
    EdgeTimeout,
    InvalidJsonAnswer,
    ModelUnavailable,
    Moderated,
    ProtocolUnavailable,
    QuotaSpent,
    RenewalFailed,
    RequestRefused,
    UpstreamConflict,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
FIRST = Failure(
    UpstreamUnavailable("x"), answered=False, in_old_chat=False, attempts=1, is_late=False, was_repeated=False
)


def failed(kind: type[UpstreamError], *, reached: bool | None = None, **changes: object) -> Failure:
    return replace(FIRST, error=kind("x", reached_upstream=reached), **changes)  # type: ignore[arg-type]


# One failure per row, in the order of the table: the row applies, and so does no row above it.
ROWS: list[tuple[str, Failure, Step]] = [
    ("the client has seen a part of the answer", failed(AccountLimited, answered=True), GIVE_UP),
    (
        "the open chat of a stateless request failed",
        failed(RequestRefused, reached=True, is_continued=True, is_late=True),
        REBUILD,
    ),
    ("no upstream serves the protocol", failed(ProtocolUnavailable), GIVE_UP),
    ("it took too long already", failed(AccountLimited, is_late=True), GIVE_UP),
    ("it was tried often enough", failed(AccountLimited, attempts=MAX_ATTEMPTS), GIVE_UP),
    ("the account needs a plan or credits", failed(QuotaSpent), GIVE_UP),
    ("no account serves the model", failed(ModelUnavailable, no_account_serves=True), GIVE_UP),
    (
        "the old chat or its account cannot be used any more",
        failed(ChatUnknown, reached=False, in_old_chat=True),
        REBUILD,
    ),
    ("any other account would fail the same way", failed(RequestRefused), GIVE_UP),
    (
        "the edge gave up, and the old chat can branch",
        failed(EdgeTimeout, reached=True, in_old_chat=True, can_branch=True),
        TRY_AGAIN_LATER,
    ),
    ("the message may stand in the old chat", failed(AccountLimited, reached=True, in_old_chat=True), GIVE_UP),
    ("the upstream as a whole failed twice", failed(UpstreamOverloaded, was_repeated=True), GIVE_UP),
    ("the upstream as a whole failed", failed(UpstreamOverloaded), TRY_AGAIN_LATER),
    ("the account failed", failed(AccountLimited), TRY_AGAIN),
]


def test_every_row_of_the_table_has_a_case() -> None:
    assert [name for name, _, _ in ROWS] == [rule.name for rule in RULES]


@pytest.mark.parametrize(("name", "failure", "step"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_applies_and_decides(name: str, failure: Failure, step: Step) -> None:
    first = next(rule for rule in RULES if rule.applies(failure))
    assert (first.name, next_step(failure)) == (name, step)


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_nothing_is_tried_again_once_the_client_has_seen_a_part(kind: type[UpstreamError]) -> None:
    for in_old_chat in (False, True):
        assert next_step(failed(kind, answered=True, in_old_chat=in_old_chat)) == GIVE_UP


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_a_message_that_may_stand_in_an_old_chat_is_not_sent_there_again(kind: type[UpstreamError]) -> None:
    step = next_step(failed(kind, reached=True, in_old_chat=True))
    # A new chat holds no earlier copy of the message.
    assert step in (GIVE_UP, REBUILD)


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_a_turn_ends_however_it_fails(kind: type[UpstreamError]) -> None:
    assert next_step(failed(kind, attempts=MAX_ATTEMPTS)) == GIVE_UP
    assert next_step(failed(kind, is_late=True)) == GIVE_UP


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (AccountRejected, TRY_AGAIN),
        (AccountForbidden, TRY_AGAIN),
        (AccountLimited, TRY_AGAIN),
        (QuotaSpent, GIVE_UP),
        (ModelUnavailable, TRY_AGAIN),
        (RequestRefused, GIVE_UP),
        (ChatForbidden, GIVE_UP),
        (ChatUnknown, GIVE_UP),
        (EdgeTimeout, TRY_AGAIN_LATER),
        (AnswerCancelled, TRY_AGAIN_LATER),
        (UpstreamOverloaded, TRY_AGAIN_LATER),
        (UpstreamConflict, TRY_AGAIN_LATER),
        (AnswerRewritten, TRY_AGAIN_LATER),
        (AnswerEmpty, TRY_AGAIN_LATER),
        (RenewalFailed, TRY_AGAIN_LATER),
        (ProtocolUnavailable, GIVE_UP),
        (UpstreamUnavailable, TRY_AGAIN_LATER),
        (UpstreamTimeout, TRY_AGAIN_LATER),
        (UpstreamProtocolError, GIVE_UP),
    ],
)
def test_the_first_failure_in_a_new_chat(kind: type[UpstreamError], step: Step) -> None:
    assert next_step(failed(kind)) == step


@pytest.mark.parametrize(
    ("kind", "reached", "step"),
    [
        (AccountRejected, False, REBUILD),
        (AccountForbidden, False, REBUILD),
        (ChatUnknown, True, REBUILD),
        (AccountLimited, False, TRY_AGAIN),
        (UpstreamUnavailable, False, TRY_AGAIN_LATER),
        (UpstreamTimeout, True, GIVE_UP),
        (ChatForbidden, False, GIVE_UP),
    ],
)
def test_the_first_failure_in_an_old_chat(kind: type[UpstreamError], reached: bool, step: Step) -> None:
    assert next_step(failed(kind, reached=reached, in_old_chat=True)) == step


def test_an_edge_that_gave_up_is_asked_once_more_and_not_twice() -> None:
    """In an old chat only where the second message has a parent of its own: both may stand there."""
    assert next_step(failed(EdgeTimeout, was_repeated=True)) == GIVE_UP
    old = failed(EdgeTimeout, reached=True, in_old_chat=True)
    assert next_step(old) == GIVE_UP
    assert next_step(replace(old, can_branch=True)) == TRY_AGAIN_LATER
    assert next_step(replace(old, can_branch=True, was_repeated=True)) == GIVE_UP


def test_only_rejected_and_forbidden_accounts_are_excluded_for_the_rest_of_a_turn() -> None:
    assert {kind for kind in ALL_ERRORS if excludes_account(kind("x"))} == {AccountRejected, AccountForbidden}


@pytest.mark.parametrize(
    ("error", "cooldown"),
    [
        (AccountForbidden("x"), Cooldown(FORBIDDEN_COOLDOWN_S, cause=FORBIDDEN)),
        (
            AccountForbidden("x", retry_after_s=7, retry_after_is_upstreams=True),
            Cooldown(FORBIDDEN_COOLDOWN_S, exactly_s=7, cause=FORBIDDEN),
        ),
        (AccountLimited("x"), Cooldown(LIMITED_COOLDOWN_S, cause=LIMITED)),
        (AccountLimited("x", retry_after_s=600), Cooldown(600, cause=LIMITED)),
        (
            AccountLimited("x", retry_after_s=1, retry_after_is_upstreams=True),
            Cooldown(LIMITED_COOLDOWN_S, 1, cause=LIMITED),
        ),
        (AccountLimited("x", model_only=True), Cooldown(LIMITED_COOLDOWN_S, model_only=True, cause=LIMITED)),
        (QuotaSpent("x"), Cooldown(QUOTA_COOLDOWN_S, QUOTA_COOLDOWN_S, model_only=True, cause=NEEDS_PLAN)),
        (ModelUnavailable("x", retry_after_s=60), Cooldown(MODEL_COOLDOWN_S, model_only=True, cause=NOT_SERVED)),
        (RenewalFailed("x"), Cooldown(LIMITED_COOLDOWN_S, LIMITED_COOLDOWN_S, cause=NOT_RENEWED)),
    ],
)
def test_what_an_account_has_to_bear(error: UpstreamError, cooldown: Cooldown) -> None:
    assert cooldown_for(error) == cooldown


def test_an_account_bears_nothing_for_what_is_not_its_fault() -> None:
    charged = {AccountForbidden, AccountLimited, QuotaSpent, ModelUnavailable, RenewalFailed}
    assert {kind for kind in ALL_ERRORS if cooldown_for(kind("x")) is not None} == charged


def test_the_wait_before_another_attempt_is_ours_or_the_upstreams_within_a_limit() -> None:
    assert backoff_s(UpstreamOverloaded("x", retry_after_s=3), 1.0) == 1.0
    assert backoff_s(UpstreamOverloaded("x", retry_after_s=3, retry_after_is_upstreams=True), 1.0) == 3.0
    assert backoff_s(UpstreamOverloaded("x", retry_after_s=90, retry_after_is_upstreams=True), 1.0) == 5.0
