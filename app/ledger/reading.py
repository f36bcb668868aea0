"""The request log from page to page, and as it grows."""

import time
from collections.abc import Iterator, Sequence

from app.store import Store
from app.store.ledger import Filter, RequestRow, id_at

# How often a reader that follows looks. Seconds.
_LOOK_EVERY_S = 1.0
# Processes write their requests at different times: how long a row may come after a newer one.
_LATE_S = 10.0
_PAGE = 500


def newest(store: Store, wanted: Filter, most: int) -> list[RequestRow]:
    """The newest requests, the oldest of them first; the whole log is searched."""
    found: list[RequestRow] = []
    for rows in pages(store, wanted):
        found += rows
        if len(found) >= most:
            break
    return found[:most][::-1]


def pages(store: Store, wanted: Filter) -> Iterator[Sequence[RequestRow]]:
    """All of them, the newest first, page by page with a pause between, so that others get at the database."""
    before: str | None = None
    while True:
        page = store.ledger.page(wanted, before, _PAGE)
        if page.rows:
            yield page.rows
        if page.more is None:
            return
        before = page.more
        time.sleep(0.005)


def new_ones(store: Store, wanted: Filter) -> Iterator[Sequence[RequestRow]]:
    """Requests that end from now on, the oldest first, as they are written. Never ends."""
    start = store.database.now()
    seen = {row.id: row.n for row in _written_since(store, start - _LATE_S)}
    while True:
        time.sleep(_LOOK_EVERY_S)
        now = store.database.now()
        rows = _written_since(store, now - _LATE_S)
        new = [row for row in rows if row.n != seen.get(row.id) and matches(row, wanted)]
        seen = {row.id: row.n for row in rows}
        if new:
            yield new


def matches(row: RequestRow, wanted: Filter) -> bool:
    return (
        wanted.owner in (None, row.owner)
        and wanted.account_id in (None, row.account_id)
        and wanted.model in (None, row.model)
        and wanted.request_id in (None, row.request_id)
        and (wanted.ending in (None, row.ending) or (wanted.ending == "failed" and row.blame != ""))
        and (wanted.since is None or row.ended_at >= wanted.since)
    )


def _written_since(store: Store, at: float) -> list[RequestRow]:
    rows: list[RequestRow] = []
    after = id_at(at)
    while True:
        page = store.ledger.after(after, _PAGE)
        rows += page
        if len(page) < _PAGE:
            return rows
        after = page[-1].id
