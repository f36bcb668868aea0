"""The page Overview: does it work, who needs the owner, what runs."""

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import Blueprint
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from app.accounts.standings import OUT_OF_USE, Standing
from app.console.page import console, language, names_of_keys, page, say, store
from app.console.request_log import end_of
from app.console.show import bars, count, seconds
from app.ledger.live import LiveRequest
from app.store.ledger import RequestRow

blueprint = Blueprint("overview", __name__)

# Kinds that can take a request now.
_CAN_ANSWER = frozenset({"serving", "busy", "ending"})

# How many of the last requests are looked at for troubles, times and results.
_LOOKED_AT = 300
_RECENT_S = 20.0
_DAY_S = 86_400
_HOURS = 24
_MOST_RUNNING = 20
_MOST_TROUBLES = 8
_LAST = 10


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account with all that there is to say about its state. ``models``: those that it is not asked for now.
    ``results``: of its last requests, the oldest first; True for an answer."""

    whole: Standing
    models: Sequence[Standing]
    streams: int
    results: Sequence[bool]

    @property
    def needs_owner(self) -> bool:
        return self.whole.needs_owner


@dataclass(frozen=True, slots=True)
class Trouble:
    """Requests that failed in one way. ``at``: the last of them."""

    at: float
    times: int
    row: RequestRow
    end: Markup


@dataclass(frozen=True, slots=True)
class Today:
    """The last 24 hours. ``first_s``: half of the answers began within so many seconds."""

    requests: int
    failures: int
    chart: Markup
    first_s: float | None
    by_key: Sequence[tuple[str, str, int]]
    by_account: Sequence[tuple[str, str, int]]


@blueprint.get("/")
def show() -> BaseResponse:
    services = console().services
    readiness = services.gateway.readiness(1.0).in_language(language())
    newest = newest_requests()
    accounts = account_views(newest)
    names, labels = names_of_keys(), {view.whole.account_id: view.whole.label for view in accounts}
    limit = services.config.account_max_streams
    running = [request for process in services.gateway.live_processes() for request in process.requests]
    running.sort(key=lambda request: -request.age_s)
    return page(
        "overview.html",
        accounts=accounts,
        headline=_headline(accounts, readiness.problems),
        tone=_tone(accounts, readiness.problems),
        load=store().leases.load(),
        capacity=limit * sum(1 for account in accounts if account.whole.kind not in OUT_OF_USE) if limit else None,
        running=running[:_MOST_RUNNING],
        speed=_speed,
        seconds=seconds,
        count=count,
        names=names,
        labels=labels,
        today=_today(newest, names, labels),
        troubles=_troubles(newest),
        steps=_steps(accounts, newest),
    )


def account_views(newest: Sequence[RequestRow]) -> list[AccountView]:
    """All accounts, those that need their owner first."""
    services = console().services
    services.accounts.reload()
    of_account: dict[str, list[Standing]] = {}
    for standing in services.accounts.standings():
        of_account.setdefault(standing.account_id, []).append(standing)
    streams = store().leases.streams()
    results = results_by_account(newest)
    views = [
        AccountView(all_[0], all_[1:], streams.get(id_, 0), results.get(id_, ())) for id_, all_ in of_account.items()
    ]
    return sorted(views, key=lambda view: not view.needs_owner)


def results_by_account(newest: Sequence[RequestRow]) -> dict[str, Sequence[bool]]:
    """Account id → its last results, the oldest first; True for an answer. ``newest``: the newest request first."""
    results: dict[str, list[bool]] = {}
    for row in newest:
        if row.account_id and row.blame != "request":
            results.setdefault(row.account_id, []).append(row.blame == "")
    return {id_: of_account[:_LAST][::-1] for id_, of_account in results.items()}


def _able(accounts: Sequence[AccountView]) -> int:
    return sum(account.whole.kind in _CAN_ANSWER for account in accounts)


def _headline(accounts: Sequence[AccountView], problems: Sequence[str]) -> Markup:
    able, total = _able(accounts), len(accounts)
    if not accounts:
        return say("no_account_yet")
    if able and problems:
        return say("does_not_work", problem=problems[0])
    if not able:
        return say("no_account_answers", total=total)
    if able == total:
        return say("all_accounts_answer", total=total) if total > 1 else say("the_account_answers")
    return say("some_accounts_answer", able=able, total=total)


def _tone(accounts: Sequence[AccountView], problems: Sequence[str]) -> str:
    if not _able(accounts) or problems:
        return "bad"
    return "good" if _able(accounts) == len(accounts) else "wait"


def _speed(request: LiveRequest) -> str:
    chars = request.chars + request.chars_thought
    return f"{chars / request.age_s:.0f}" if chars and request.age_s >= 1 else "–"


def newest_requests() -> Sequence[RequestRow]:
    """The last requests, as they were at most _RECENT_S ago: the page asks every five seconds."""
    cache = console().recent
    now = time.monotonic()
    if not cache or now - cache[0][0] >= _RECENT_S:
        cache[:] = [(now, store().ledger.newest(_LOOKED_AT))]
    return cache[0][1]


def _today(newest: Sequence[RequestRow], names: Mapping[str, str], labels: Mapping[str, str]) -> Today | None:
    """None where nothing was asked."""
    now = store().database.now()
    last_hour = int(now // 3600)
    hours = {row.hour: row for row in store().ledger.hours(last_hour - _HOURS + 1, last_hour)}
    requests = sum(row.requests for row in hours.values())
    if not requests:
        return None
    values = [hours[hour].requests if hour in hours else 0 for hour in range(last_hour - _HOURS + 1, last_hour + 1)]
    first = [row.first_ms / 1000 for row in newest if row.first_ms is not None and row.ended_at > now - _DAY_S]
    day = int(now // _DAY_S)
    usage = store().ledger.usage(day, day)
    by_key: Counter[str] = Counter()
    by_account: Counter[str] = Counter()
    for row in usage:
        by_key[row.owner] += row.requests
        if row.account_id:
            by_account[row.account_id] += row.requests
    return Today(
        requests,
        sum(row.failures for row in hours.values()),
        bars(values, str(say("chart_of_hours", number=requests))),
        statistics.median(first) if first else None,
        [(owner, names.get(owner, owner[:12]), number) for owner, number in by_key.most_common(8)],
        [(id_, labels.get(id_, id_), number) for id_, number in by_account.most_common(8)],
    )


def _troubles(newest: Sequence[RequestRow]) -> list[Trouble]:
    """What failed within a day, the last first."""
    since = store().database.now() - _DAY_S
    found: dict[tuple[str, str], list[RequestRow]] = {}
    for row in newest:
        if row.blame and row.ended_at > since:
            found.setdefault((row.ending, row.account_id), []).append(row)
    troubles = [
        Trouble(rows[0].ended_at, sum(row.n for row in rows), rows[0], end_of(rows[0])) for rows in found.values()
    ]
    return sorted(troubles, key=lambda trouble: -trouble.at)[:_MOST_TROUBLES]


def _steps(accounts: Sequence[AccountView], newest: Sequence[RequestRow]) -> dict[str, bool] | None:
    """The first three steps, and whether they are done; None when they all are."""
    steps = {
        "account": bool(accounts),
        "key": bool(console().services.config.api_keys or store().keys.all()),
        "try": any(row.tokens_out for row in newest) or store().facts.get("console_tried") is not None,
    }
    return None if all(steps.values()) else steps
