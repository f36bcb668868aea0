"""Requests and sums as lines and tables of text, for the command line. Pure."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from app.store.ledger import RequestRow, UsageRow

# The name of an API key or an account, by its id.
Names = Callable[[str], str]

_HEAD = ("time", "key", "api", "model", "account", "first", "total", "≈ in/out", "tok/s", "end")
_WIDTHS = (8, 10, 9, 22, 10, 8, 8, 13, 6, 0)
_RIGHT = frozenset({"first", "total", "≈ in/out", "tok/s"})


def heading() -> str:
    return _joined(_HEAD)


def line_of(row: RequestRow, key: Names, account: Names) -> str:
    """A request in one line. The time is that of its beginning, where this program runs."""
    began = datetime.fromtimestamp(row.ended_at - row.total_ms / 1000).astimezone()
    end = row.ending if not row.blame else f"{row.ending} ({row.status}, {row.blame})"
    if row.n > 1:
        end = f"{row.n} x {end}"
    if row.attempts > 1:
        end = f"{end}, {row.attempts} attempts"
    speed = row.tokens_per_s
    tokens = "-" if row.tokens_out is None else f"{_short(row.tokens_in or 0)}/{_short(row.tokens_out)}"
    return _joined(
        (
            f"{began:%H:%M:%S}",
            key(row.owner) or "-",
            row.api,
            row.model or "-",
            account(row.account_id) or "-",
            "-" if row.first_ms is None else f"{row.first_ms / 1000:.1f} s",
            f"{row.total_ms / 1000:.1f} s",
            tokens,
            "-" if speed is None else f"{speed:.0f}",
            f"{end}  {row.client}".rstrip(),
        )
    )


def usage_table(rows: Iterable[UsageRow], by: Sequence[str], key: Names, account: Names) -> list[str]:
    """Sums by some of day, key, model, account; the largest first, days in their order."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        values = {
            "day": f"{datetime.fromtimestamp(row.day * 86_400, UTC):%Y-%m-%d}",
            "key": key(row.owner) or "-",
            "model": row.model or "-",
            "account": account(row.account_id) or "-",
        }
        added = sums.setdefault(tuple(values[name] for name in by), [0, 0, 0, 0, 0.0])
        for at, n in enumerate((row.requests, row.failures, row.tokens_in, row.tokens_out, row.seconds)):
            added[at] += n
    ordered = sorted(sums.items()) if "day" in by else sorted(sums.items(), key=lambda item: -item[1][0])
    table: list[tuple[str, ...]] = [(*by, "requests", "failed", "≈ tokens in", "≈ out", "hours")]
    for group, (requests, failures, came, went, seconds) in ordered:
        table.append(
            (*group, f"{requests:.0f}", f"{failures:.0f}", _short(came), _short(went), f"{seconds / 3600:.1f}")
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < len(by) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def _short(n: float) -> str:
    if n < 1000:
        return f"{n:.0f}"
    return f"{n / 1000:.1f}k" if n < 1_000_000 else f"{n / 1_000_000:.1f}M"


def _joined(cells: Sequence[str]) -> str:
    return "  ".join(
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for name, cell, width in zip(_HEAD, cells, _WIDTHS, strict=True)
    ).rstrip()
