"""Requests that have ended: a row for each, their attempts, and sums. Knows neither what is counted nor for whom.

Rows are written in steps. Each is one transaction that also says that it is done, so that a step whose commit was
lost with its connection is not written twice. No query reads more rows than it says.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from app.request_record import FLAGS
from app.store.database import Database, Row, Transaction
from app.store.dialects import Insert, Statement, per_dialect
from app.store.tables import attempts, ledger_steps, requests, tallies, usage_days, usage_hours

# The name of the tally that holds the number of rows in ``requests``.
ROWS = "request_log_rows"


# Not frozen: one is made for each request, and a frozen one takes three times as long.
@dataclass(slots=True)
class RequestRow:
    """A request that has ended, or ``n`` alike that were refused. It began ``total_ms`` before ``ended_at``, in Unix
    seconds.

    ``id``: sorted as the rows are by time; ``request_id``: as the client and the log have it. ``owner``: the API key,
    "" for none that is known. ``model``: "?" for one that does not exist. ``account_id``: of the last attempt.
    ``ending``: a finish reason, ``left``, or the code of an error; ``blame`` is "" where it is no failure.
    ``first_ms``: until the first part of the answer; ``longest_ms``: the longest silence after it. Tokens are
    estimates; ``tokens_out`` includes ``tokens_thought``. ``flags``: bits, see ``request_record.FLAGS``.
    ``conversation``: eight digits that rows of one conversation share.
    """

    id: str
    ended_at: float
    request_id: str
    owner: str
    api: str
    is_stream: int
    model: str
    protocol: str
    account_id: str
    attempts: int
    status: int
    ending: str
    blame: str
    waited_ms: int
    first_ms: int | None
    total_ms: int
    longest_ms: int | None
    chars_in: int
    chars_out: int
    chars_thought: int
    tokens_in: int | None
    tokens_out: int | None
    tokens_thought: int | None
    flags: int
    conversation: str
    client: str
    trace: str
    n: int = 1

    @property
    def flag_names(self) -> tuple[str, ...]:
        return tuple(name for bit, name in enumerate(FLAGS) if self.flags >> bit & 1)

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second after the first part of the answer; None where there is too little to tell."""
        if self.first_ms is None or not self.tokens_out or self.total_ms - self.first_ms < 50:
            return None
        return self.tokens_out / (self.total_ms - self.first_ms) * 1000


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a request on an account. ``request``: ``RequestRow.id``. ``code``: of its error, ``left``, or "" for
    an answer. ``cooldown_s``: how long the account cooled down because of it."""

    request: str
    number: int
    account_id: str
    protocol: str
    code: str
    blame: str
    ms: int
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums of a day. ``day``: since 1970, of UTC."""

    day: int
    owner: str
    model: str
    account_id: str
    requests: int
    failures: int
    tokens_in: int
    tokens_out: int
    tokens_thought: int
    seconds: float


@dataclass(frozen=True, slots=True)
class HourRow:
    """Sums of an hour. ``hour``: since 1970."""

    hour: int
    requests: int
    failures: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class TallyRow:
    name: str
    labels: Mapping[str, str]
    n: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests. None: all. ``ending``: one, or ``failed`` for every failure. ``since``: Unix seconds."""

    owner: str | None = None
    account_id: str | None = None
    model: str | None = None
    ending: str | None = None
    request_id: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Requests, the newest first. ``more``: where the next page begins, None at the end. ``is_bounded``: so many rows
    were looked at that the page ends early."""

    rows: Sequence[RequestRow]
    more: str | None
    is_bounded: bool


@dataclass(frozen=True, slots=True)
class LedgerSize:
    """``oldest_at``: Unix seconds, None if there is no row."""

    rows: int
    oldest_at: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction writes. ``number`` grows by one with each step of a process. ``folded``: rows that are
    added to one with the same id."""

    number: int
    rows: Sequence[RequestRow]
    attempts: Sequence[AttemptRow]
    folded: Sequence[RequestRow]
    days: Sequence[UsageRow]
    hours: Sequence[HourRow]
    # Name and labels as JSON.
    tallies: Mapping[tuple[str, str], float]


_P = sa.bindparam


def _values(table: sa.Table) -> dict[str, sa.BindParameter[object]]:
    return {column.name: _P(column.name) for column in table.c}


_ADD_REQUEST = sa.insert(requests).values(_values(requests))
_ADD_ATTEMPT = sa.insert(attempts).values(_values(attempts))
_ADD_TO_REQUEST = (
    sa.update(requests)
    .where(requests.c.id == _P("of_id"))
    .values(n=requests.c.n + _P("more"), ended_at=_P("ended_at"), request_id=_P("request_id"))
)


def _add_up(table: sa.Table, *sums: str) -> Statement:
    """An insert that adds to the row where there is one."""

    def build(insert: Insert) -> sa.ClauseElement:
        added = insert(table).values(_values(table))
        changed = {name: table.c[name] + added.excluded[name] for name in sums}
        statement: sa.ClauseElement = added.on_conflict_do_update(
            index_elements=[column.name for column in table.primary_key], set_=changed
        )
        return statement

    return per_dialect(build)


_SUMS = ("requests", "failures", "tokens_in", "tokens_out")
_ADD_DAY = _add_up(usage_days, *_SUMS, "tokens_thought", "seconds")
_ADD_HOUR = _add_up(usage_hours, *_SUMS)
_ADD_TALLY = _add_up(tallies, "n")
_FIND_STEP = sa.select(ledger_steps.c.step).where(ledger_steps.c.process_id == _P("of_process"))
_SET_STEP = per_dialect(
    lambda insert: (
        insert(ledger_steps)
        .values(_values(ledger_steps))
        .on_conflict_do_update(
            index_elements=["process_id"], set_={"step": _P("step"), "written_at": _P("written_at")}
        )
    )
)

_NEWEST = sa.select(*requests.c).where(requests.c.id < _P("before")).order_by(requests.c.id.desc()).limit(_P("most"))
_AFTER = sa.select(*requests.c).where(requests.c.id > _P("after")).order_by(requests.c.id).limit(_P("most"))
_FIND = sa.select(*requests.c).where(requests.c.id == _P("of_id"))
_OF_REQUEST_ID = (
    sa.select(*requests.c)
    .where(requests.c.request_id == _P("of_request_id"), requests.c.id < _P("before"))
    .order_by(requests.c.id.desc())
    .limit(_P("most"))
)
# Ids of the rows that a filter looks at: only those are compared.
_LOOKED_AT = (
    sa.select(requests.c.id.label("id"))
    .where(requests.c.id < _P("before"))
    .order_by(requests.c.id.desc())
    .limit(_P("look_at"))
    .subquery()
)
_LOOK_END = sa.select(sa.func.min(_LOOKED_AT.c.id).label("id"), sa.func.count().label("n"))
# The columns that a filter may compare.
_COMPARED = ("owner", "account_id", "model", "ending")


@cache
def _filtered(compared: tuple[str, ...], *, failed: bool) -> sa.Select[Any]:
    """Compares only what is asked for: there are few such statements, and each is compiled once."""
    conditions = [requests.c[name] == _P(f"of_{name}") for name in compared]
    if failed:
        conditions.append(requests.c.blame != "")
    return (
        sa.select(*requests.c)
        .where(requests.c.id < _P("before"), requests.c.id >= _P("until"), *conditions)
        .order_by(requests.c.id.desc())
        .limit(_P("most"))
    )


_ATTEMPTS = sa.select(*attempts.c).where(attempts.c.request == _P("of_request")).order_by(attempts.c.number)
_DAYS = (
    sa.select(*usage_days.c)
    .where(usage_days.c.day >= _P("first"), usage_days.c.day <= _P("last"))
    .order_by(usage_days.c.day, usage_days.c.owner, usage_days.c.model, usage_days.c.account_id)
)
_DAYS_OF_OWNER = _DAYS.where(usage_days.c.owner == _P("of_owner"))
_DAYS_OF_ACCOUNT = _DAYS.where(usage_days.c.account_id == _P("of_account"))
_TOKENS_OF_DAY = sa.select(
    sa.func.coalesce(sa.func.sum(usage_days.c.tokens_in + usage_days.c.tokens_out), 0).label("n")
).where(usage_days.c.day == _P("of_day"), usage_days.c.owner == _P("of_owner"))
_HOURS = (
    sa.select(*usage_hours.c)
    .where(usage_hours.c.hour >= _P("first"), usage_hours.c.hour <= _P("last"))
    .order_by(usage_hours.c.hour)
)
_TALLIES = sa.select(*tallies.c).order_by(tallies.c.name, tallies.c.labels)
_ROWS = sa.select(tallies.c.n).where(tallies.c.name == ROWS, tallies.c.labels == "{}")
_OLDEST = sa.select(sa.func.min(requests.c.id).label("id"))
_OLDEST_IDS = sa.select(requests.c.id).where(requests.c.id < _P("before")).order_by(requests.c.id).limit(_P("most"))
_DELETE_UP_TO = sa.delete(requests).where(requests.c.id <= _P("last"))
_DELETE_ATTEMPTS_UP_TO = sa.delete(attempts).where(attempts.c.request <= _P("last"))
_DELETE_DAYS = sa.delete(usage_days).where(usage_days.c.day < _P("before"))
_DELETE_HOURS = sa.delete(usage_hours).where(usage_hours.c.hour < _P("before"))
_DELETE_STEPS = sa.delete(ledger_steps).where(ledger_steps.c.written_at < _P("before"))

# Greater than every id.
_END = "g"


def id_at(at: float, rest: str = "") -> str:
    """An id of ``requests``, or, without ``rest``, what all ids of a time from ``at`` on are greater than. Unix
    seconds."""
    return f"{int(at * 1e6):014x}{rest}"


def time_of(request: str) -> float:
    """The time in an id, in Unix seconds."""
    return int(request[:14], 16) / 1e6


class LedgerRows:
    """The tables ``requests``, ``attempts``, ``usage_days``, ``usage_hours``, ``tallies``, ``ledger_steps``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Writing

    def write(self, step: Step, now: float) -> int:
        """Writes a step of this process, unless it is written. Returns how many rows the log has then."""
        process_id = self._database.process_id

        def work(tx: Transaction) -> int:
            done = tx.row(_FIND_STEP, of_process=process_id)
            if done is None or done["step"] < step.number:
                self._write(tx, step)
                tx.run(_SET_STEP, process_id=process_id, step=step.number, written_at=now)
            return _rows(tx)

        return self._database.in_transaction(work)

    @staticmethod
    def _write(tx: Transaction, step: Step) -> None:
        rows = list(step.rows)
        for row in step.folded:
            values = {"ended_at": row.ended_at, "request_id": row.request_id}
            if not tx.run(_ADD_TO_REQUEST, of_id=row.id, more=row.n, **values):
                rows.append(row)
        tx.run_many(_ADD_REQUEST, [_as_values(row) for row in rows])
        tx.run_many(_ADD_ATTEMPT, [_as_values(row) for row in step.attempts])
        for statement, sums in ((_ADD_DAY, step.days), (_ADD_HOUR, step.hours)):
            tx.run_many(statement, [_as_values(row) for row in sums])
        added = dict(step.tallies)
        if rows:
            added[ROWS, "{}"] = float(len(rows))
        tx.run_many(
            _ADD_TALLY, [{"name": name, "labels": labels, "n": n} for (name, labels), n in sorted(added.items())]
        )

    def count(self, name: str, labels: Mapping[str, str], n: float = 1.0) -> None:
        """Adds to a tally at once, for what happens seldom. May add twice if the connection is lost meanwhile."""
        self._database.run(_ADD_TALLY, name=name, labels=json.dumps(labels, sort_keys=True, ensure_ascii=False), n=n)

    def delete_oldest(self, before: str, most: int) -> int:
        """Deletes up to ``most`` of the oldest requests whose id is smaller than ``before``, with their attempts.
        Returns how many."""

        def work(tx: Transaction) -> int:
            ids = [row["id"] for row in tx.rows(_OLDEST_IDS, before=before, most=most)]
            if ids:
                deleted = tx.run(_DELETE_UP_TO, last=ids[-1])
                tx.run(_DELETE_ATTEMPTS_UP_TO, last=ids[-1])
                tx.run_many(_ADD_TALLY, [{"name": ROWS, "labels": "{}", "n": -float(deleted)}])
            return len(ids)

        return self._database.in_transaction(work)

    def delete_sums(self, now: float, keep_days: int) -> None:
        """Deletes sums of days and hours that are older than that, and steps of processes that are gone."""
        first_day = int(now // 86_400) - keep_days
        self._database.run(_DELETE_DAYS, before=first_day)
        self._database.run(_DELETE_HOURS, before=first_day * 24)
        self._database.run(_DELETE_STEPS, before=now - 86_400)

    # Reading

    def page(self, wanted: Filter = Filter(), before: str | None = None, most: int = 50, look_at: int = 5000) -> Page:
        """``before``: ``Page.more`` of the page before. ``look_at``: how many rows are compared with a filter."""
        start = before or _END
        if wanted.request_id is not None:
            rows = self._database.rows(_OF_REQUEST_ID, of_request_id=wanted.request_id, before=start, most=most)
            return _page(rows, most, wanted)
        failed = wanted.ending == "failed"
        compared = {name: value for name in _COMPARED if (value := getattr(wanted, name)) is not None}
        if failed:
            del compared["ending"]
        if not compared and not failed:
            return _page(self._database.rows(_NEWEST, before=start, most=most), most, wanted)
        looked = self._database.row(_LOOK_END, before=start, look_at=look_at) or {"id": None, "n": 0}
        if looked["id"] is None:
            return Page((), None, False)
        rows = self._database.rows(
            _filtered(tuple(compared), failed=failed),
            before=start,
            until=looked["id"],
            most=most,
            **{f"of_{name}": value for name, value in compared.items()},
        )
        page = _page(rows, most, wanted)
        if page.more is None and looked["n"] == look_at and not _is_too_old(looked["id"], wanted):
            return Page(page.rows, looked["id"], True)
        return page

    def newest(self, most: int) -> list[RequestRow]:
        return [RequestRow(**row) for row in self._database.rows(_NEWEST, before=_END, most=most)]

    def after(self, request: str, most: int = 200) -> list[RequestRow]:
        """The next requests after this id, the oldest first."""
        return [RequestRow(**row) for row in self._database.rows(_AFTER, after=request, most=most)]

    def find(self, request: str) -> RequestRow | None:
        row = self._database.row(_FIND, of_id=request)
        return None if row is None else RequestRow(**row)

    def attempts(self, request: str) -> list[AttemptRow]:
        """Where there were several, or the last one failed."""
        return [AttemptRow(**row) for row in self._database.rows(_ATTEMPTS, of_request=request)]

    def usage(
        self, first_day: int, last_day: int, owner: str | None = None, account_id: str | None = None
    ) -> list[UsageRow]:
        """The sums of these days; ``owner``: of one API key; ``account_id``: of one account."""
        days = {"first": first_day, "last": last_day}
        if owner is not None:
            rows = self._database.rows(_DAYS_OF_OWNER, **days, of_owner=owner)
        elif account_id is not None:
            rows = self._database.rows(_DAYS_OF_ACCOUNT, **days, of_account=account_id)
        else:
            rows = self._database.rows(_DAYS, **days)
        return [UsageRow(**row) for row in rows]

    def tokens_of_day(self, owner: str, day: int) -> int:
        """What an API key has used, in and out, as far as it is written: requests that have ended."""
        row = self._database.row(_TOKENS_OF_DAY, of_owner=owner, of_day=day)
        return int(row["n"]) if row else 0

    def hours(self, first_hour: int, last_hour: int) -> list[HourRow]:
        return [HourRow(**row) for row in self._database.rows(_HOURS, first=first_hour, last=last_hour)]

    def tallies(self) -> list[TallyRow]:
        return [TallyRow(row["name"], json.loads(row["labels"]), row["n"]) for row in self._database.rows(_TALLIES)]

    def tally_keys(self) -> set[tuple[str, str]]:
        """Names and labels, as they are stored."""
        return {(row["name"], row["labels"]) for row in self._database.rows(_TALLIES)}

    def size(self) -> LedgerSize:
        oldest = (self._database.row(_OLDEST) or {"id": None})["id"]
        rows = self._database.with_retries(_rows)
        return LedgerSize(rows, None if oldest is None else time_of(oldest))


def _rows(tx: Transaction) -> int:
    row = tx.row(_ROWS)
    return int(row["n"]) if row else 0


def _as_values(row: RequestRow | AttemptRow | UsageRow | HourRow) -> Row:
    names, values_of = _FIELDS[row.__class__]
    return dict(zip(names, values_of(row), strict=True))


def _fields(kind: type) -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]]]:
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)


# Kind of row → the names of its fields, and what reads them all.
_FIELDS = {kind: _fields(kind) for kind in (RequestRow, AttemptRow, UsageRow, HourRow)}


def _page(rows: Sequence[Row], most: int, wanted: Filter) -> Page:
    found = [RequestRow(**row) for row in rows]
    more = found[-1].id if len(found) == most else None
    recent = [row for row in found if not _is_too_old(row.id, wanted)]
    return Page(recent, more if len(recent) == len(found) else None, False)


def _is_too_old(request: str, wanted: Filter) -> bool:
    return wanted.since is not None and request < id_at(wanted.since)
