"""The page Requests: what has ended, with its times and counts. The log holds no text of anybody."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from flask import Blueprint, Response, abort, request, stream_with_context
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from app.console.page import console, names_of_keys, page, say, store
from app.console.show import count, milliseconds, time_bar
from app.console.words import SENTENCES
from app.ledger.reading import pages
from app.store.ledger import Filter, RequestRow

blueprint = Blueprint("request_log", __name__)

_PER_PAGE = 50
_PERIODS = {"1h": 3600, "24h": 86_400, "7d": 604_800}
_MOST_EXPORTED = 100_000


@blueprint.get("/requests")
def show() -> BaseResponse:
    services = console().services
    found = services.gateway.history.page(_filter(), request.args.get("before") or None, _PER_PAGE)
    names, labels = names_of_keys(), labels_of_accounts()
    arguments = {name: value for name, value in request.args.items() if name in _FIELDS and value}
    return page(
        "requests.html",
        rows=found.rows,
        names=names,
        labels=labels,
        models=sorted(model.id for model in services.gateway.models),
        periods=list(_PERIODS),
        chosen=arguments,
        more={**arguments, "before": found.more} if found.more else None,
        is_bounded=found.is_bounded,
        is_kept=services.config.request_log_days > 0,
        days=f"{services.config.request_log_days:g}",
        end=end_of,
        ms=milliseconds,
        count=count,
    )


_FIELDS = ("key", "account", "model", "end", "since", "id")


def _filter() -> Filter:
    chosen = {name: request.args.get(name, "")[:200] or None for name in _FIELDS}
    since = _PERIODS.get(chosen["since"] or "")
    return Filter(
        chosen["key"],
        chosen["account"],
        chosen["model"],
        chosen["end"],
        chosen["id"],
        store().database.now() - since if since else None,
    )


def labels_of_accounts() -> dict[str, str]:
    """Account id → its name."""
    return {standing.account_id: standing.label for standing in console().services.accounts.standings()}


def end_of(row: RequestRow) -> Markup:
    """How a request ended, in words; the code where there are none."""
    is_rejected = row.ending == "invalid_api_key" and row.blame == "account"
    key = "end_rejected_token" if is_rejected else f"end_{row.ending}"
    return say(key) if key in SENTENCES else say("end_code", code=row.ending or "–")


@blueprint.get("/requests/<id_>")
def show_one(id_: str) -> BaseResponse:
    history = console().services.gateway.history
    row = history.find(id_)
    if row is None:
        abort(404)
    return page(
        "request.html",
        row=row,
        attempts=history.attempts(id_),
        names=names_of_keys(),
        labels=labels_of_accounts(),
        end=end_of,
        ms=milliseconds,
        count=count,
        bar=time_bar(row.waited_ms, row.first_ms, row.total_ms, str(say("time_bar"))),
    )


@blueprint.get("/requests/export")
def export() -> BaseResponse:
    """All rows of the filter, the newest first, as CSV or as lines of JSON."""
    is_csv = request.args.get("form") != "json"
    lines = stream_with_context(_exported(_filter(), is_csv))
    kind, ending = ("text/csv", "csv") if is_csv else ("application/x-ndjson", "jsonl")
    response = Response(lines, content_type=f"{kind}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="requests.{ending}"'
    return response


def _exported(wanted: Filter, is_csv: bool) -> Iterator[str]:
    names, labels, number = names_of_keys(), labels_of_accounts(), 0
    head = True
    for rows in pages(store(), wanted):
        values = [_named(row, names, labels) for row in rows]
        yield (
            csv_of(values, list(values[0]), head) if is_csv else "".join(f"{json.dumps(value)}\n" for value in values)
        )
        head, number = False, number + len(rows)
        if number >= _MOST_EXPORTED:
            return


def _named(row: RequestRow, names: dict[str, str], labels: dict[str, str]) -> dict[str, object]:
    return {
        **asdict(row),
        "key": names.get(row.owner, row.owner),
        "account": labels.get(row.account_id, ""),
        "flags": " ".join(row.flag_names),
    }


def csv_of(values: Sequence[dict[str, object]], names: Sequence[str], head: bool = True) -> str:
    """Rows as CSV, for spreadsheets. ``head``: with the names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    if head:
        writer.writeheader()
    for value in values:
        writer.writerow({name: _plain(cell) for name, cell in value.items()})
    return out.getvalue()


def _plain(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t") else cell
