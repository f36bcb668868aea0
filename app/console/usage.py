"""What an API key or an account has been used for: sums of days, for a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.console.page import say, store
from app.console.show import bars, day_of
from app.store.ledger import UsageRow

# How many days are shown.
_DAYS = 30

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Sums:
    """What was used in a day, or with a model. ``name``: of the day or the model."""

    name: str
    requests: int
    failures: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Usage:
    """``chart``: an image of the days."""

    total: int
    chart: object
    by_day: Sequence[Sums]
    by_model: Sequence[Sums]


def last_days(owner: str | None = None, account_id: str | None = None) -> list[UsageRow]:
    """The sums of an API key, or of an account."""
    today = int(store().database.now() // 86_400)
    return store().ledger.usage(today - _DAYS + 1, today, owner, account_id)


def summed(rows: Sequence[UsageRow]) -> Usage:
    """``rows``: those of ``last_days``."""
    today = int(store().database.now() // 86_400)
    days = _by(rows, lambda row: row.day)
    models = _by(rows, lambda row: row.model)
    daily = [days[day][0] if day in days else 0 for day in range(today - _DAYS + 1, today + 1)]
    total = sum(daily)
    return Usage(
        total,
        bars(daily, str(say("chart_of_days", number=total))),
        [Sums(day_of(day), *sums) for day, sums in sorted(days.items(), reverse=True)],
        [Sums(model or "–", *sums) for model, sums in sorted(models.items(), key=lambda item: -item[1][0])],
    )


def _by(rows: Sequence[UsageRow], key: Callable[[UsageRow], _K]) -> dict[_K, tuple[int, int, int, int]]:
    """Requests, failures, tokens in and out, by what ``key`` says."""
    sums: dict[_K, tuple[int, int, int, int]] = {}
    for row in rows:
        n, failed, came, went = sums.get(key(row), (0, 0, 0, 0))
        sums[key(row)] = (n + row.requests, failed + row.failures, came + row.tokens_in, went + row.tokens_out)
    return sums
