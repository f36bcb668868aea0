"""The figures of the whole gateway as Prometheus text. Pure.

All of them come from the store, so every worker and machine answers the same, and counters go on after a restart. The
client library makes the format only: its own counters live in a process, and its multiprocess mode keeps a file for
each process that ever was. It is imported at the first scrape: that takes 30 ms, which no start should pay.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (2026-11).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app import __version__
from app.ledger.live import LiveProcess
from app.ledger.series import ALL, Series
from app.store.ledger import ROWS, TallyRow

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# Names of API keys that are shown; the requests of further ones are added up as "other".
_MOST_KEYS = 100
STATES = ("serving", "busy", "cooling", "paused", "ending", "renewing", "needs_login", "sealed")


@dataclass(frozen=True, slots=True)
class AccountFigures:
    """``state``: one of STATES. Times are seconds from now; None where they are not known. ``streams``: that it may
    give at a time, 0 for any number. ``to_delete``: chats that should be gone; ``failing``: those of them that were
    tried in vain."""

    label: str
    state: str
    token_expires_s: float | None
    login_ends_s: float | None
    streams: int
    to_delete: int
    failing: int


@dataclass(frozen=True, slots=True)
class Cooling:
    """``account``: its label, "all" for a model of all accounts; ``scope``: a model, "all" for the whole account."""

    account: str
    scope: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scrape shows. ``names``: what the store knows accounts and keys by → their names, by label."""

    tallies: Sequence[TallyRow]
    processes: Sequence[LiveProcess]
    accounts: Sequence[AccountFigures]
    cooling: Sequence[Cooling]
    queue_length: int
    queue_oldest_s: float
    unrecognised: Mapping[tuple[str, str], int]
    names: Mapping[str, Mapping[str, str]]


def encode(figures: Figures, accept: str) -> tuple[bytes, str]:
    """The text and its content type. ``accept``: the header of the scraper, which may want OpenMetrics."""
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Collected(Collector):
        def collect(self) -> Iterable["Metric"]:
            return families(figures)

    encoder, content_type = choose_encoder(accept)
    return encoder(Collected()), content_type


def families(figures: Figures) -> Iterator["Metric"]:
    by_name: dict[str, list[TallyRow]] = {}
    for row in figures.tallies:
        by_name.setdefault(row.name, []).append(row)
    for series in ALL:
        if series.buckets:
            yield _histogram(series, by_name, figures.names)
        else:
            yield _counter(series, by_name.get(series.name, ()), figures.names)
    yield from _of_accounts(figures)
    yield from _of_processes(figures.processes)
    yield from _of_the_rest(figures, by_name)


def _counter(series: Series, rows: Iterable[TallyRow], names: Mapping[str, Mapping[str, str]]) -> "Metric":
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(series.name, series.about, labels=series.labels)
    sums: dict[tuple[str, ...], float] = {}
    for row in rows:
        labels = _labels(series, row, names)
        sums[labels] = sums.get(labels, 0.0) + row.n
    if series.name == "kimi_gateway_key_requests":
        sums = _with_few_keys(sums)
    for labels, n in sorted(sums.items()):
        family.add_metric(labels, n)
    return family


def _with_few_keys(sums: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """The keys with the most requests by their names, and all others together."""
    by_key: dict[str, float] = {}
    for (key, _), n in sums.items():
        by_key[key] = by_key.get(key, 0.0) + n
    shown = set(sorted(by_key, key=lambda key: -by_key[key])[:_MOST_KEYS])
    few: dict[tuple[str, ...], float] = {}
    for (key, outcome), n in sums.items():
        labels = (key if key in shown else "other", outcome)
        few[labels] = few.get(labels, 0.0) + n
    return few


def _histogram(
    series: Series, by_name: Mapping[str, Sequence[TallyRow]], names: Mapping[str, Mapping[str, str]]
) -> "Metric":
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(series.name, series.about, labels=series.labels)
    counts: dict[tuple[str, ...], dict[str, float]] = {}
    sums: dict[tuple[str, ...], float] = {}
    for row in by_name.get(series.bucket_name, ()):
        of_labels = counts.setdefault(_labels(series, row, names), {})
        of_labels[row.labels["le"]] = of_labels.get(row.labels["le"], 0.0) + row.n
    for row in by_name.get(series.sum_name, ()):
        labels = _labels(series, row, names)
        sums[labels] = sums.get(labels, 0.0) + row.n
    for labels, of_labels in sorted(counts.items()):
        up_to = itertools.accumulate(of_labels.get(bound, 0.0) for bound in series.bounds)
        family.add_metric(labels, list(zip(series.bounds, up_to, strict=True)), sums.get(labels, 0.0))
    return family


# Which labels are names of the owner's, and of what.
_NAMED = {"account": "account", "from_account": "account", "key": "key"}


def _labels(series: Series, row: TallyRow, names: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The values of the labels. What has gone keeps the id that it was stored by."""
    values = []
    for label in series.labels:
        value = row.labels.get(label, "")
        known = names.get(_NAMED.get(label, ""), {})
        values.append(known.get(value, value))
    return tuple(values)


def _gauge(name: str, about: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]) -> "Metric":
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(f"kimi_gateway_{name}", about, labels=labels)
    for at, value in values:
        family.add_metric(at, value)
    return family


def _of_accounts(figures: Figures) -> Iterator["Metric"]:
    accounts, account = figures.accounts, ("account",)
    yield _gauge(
        "account_state",
        f"1 for the state of an account, 0 for the others: {', '.join(STATES)}",
        ("account", "state"),
        (((a.label, state), float(a.state == state)) for a in accounts for state in STATES),
    )
    yield _gauge(
        "account_capacity",
        "Answers that an account may give at the same time; 0: any number",
        account,
        (((a.label,), float(a.streams)) for a in accounts),
    )
    yield _gauge(
        "account_cooldown_seconds",
        "Seconds until an account, or a model of it, is used again after a failure",
        ("account", "scope"),
        (((c.account, c.scope), c.seconds) for c in figures.cooling),
    )
    yield _gauge(
        "token_expires_seconds",
        "Seconds until the access token of an account expires; most are renewed before",
        account,
        (((a.label,), a.token_expires_s) for a in accounts if a.token_expires_s is not None),
    )
    yield _gauge(
        "login_ends_seconds",
        "Seconds until the login of an account ends if it is not used",
        account,
        (((a.label,), a.login_ends_s) for a in accounts if a.login_ends_s is not None),
    )
    yield _gauge(
        "chats_to_delete",
        "Kimi chats that are to be deleted",
        account,
        (((a.label,), float(a.to_delete)) for a in accounts),
    )
    yield _gauge(
        "chats_failing",
        "Those of the chats to delete that could not be deleted at the first tries",
        account,
        (((a.label,), float(a.failing)) for a in accounts),
    )


def _of_processes(processes: Sequence[LiveProcess]) -> Iterator["Metric"]:
    hosts = {p.host: [q for q in processes if q.host == p.host] for p in processes}
    yield _gauge("processes", "Worker processes that are alive, by machine", ("host",), _by_host(hosts, len))
    yield _gauge(
        "process_resident_memory_bytes",
        "Memory of all workers of a machine",
        ("host",),
        _by_host(hosts, lambda some: sum(p.memory_bytes for p in some)),
    )
    yield _gauge(
        "process_open_fds",
        "Open files and connections of all workers of a machine",
        ("host",),
        _by_host(hosts, lambda some: sum(p.open_files for p in some)),
    )
    yield _gauge(
        "process_loop_pause_seconds",
        "The longest time in the last seconds in which a worker of a machine let nothing else run",
        ("host",),
        _by_host(hosts, lambda some: max(p.loop_pause_s for p in some)),
    )
    yield _gauge(
        "store_seconds",
        "How long the last write of the request log took, of the slowest worker",
        ("host",),
        _by_host(hosts, lambda some: max(p.write_s for p in some)),
    )


def _by_host(
    hosts: Mapping[str, Sequence[LiveProcess]], figure: Callable[[Sequence[LiveProcess]], float]
) -> Iterator[tuple[tuple[str, ...], float]]:
    return (((host,), float(figure(some))) for host, some in hosts.items())


def _of_the_rest(figures: Figures, by_name: Mapping[str, Sequence[TallyRow]]) -> Iterator["Metric"]:
    from prometheus_client.metrics_core import CounterMetricFamily

    known, streams = figures.names.get("account", {}), dict[tuple[str, str], int]()
    for process in figures.processes:
        for account_id, phase, n in process.streams:
            labels = (known.get(account_id, account_id) or "none", phase)
            streams[labels] = streams.get(labels, 0) + n
    yield _gauge(
        "streams",
        "Requests for an answer that run now; phase: queued, sent, thinking, answering",
        ("account", "phase"),
        ((labels, float(n)) for labels, n in sorted(streams.items())),
    )
    yield _gauge("queue_length", "Requests that wait for an account", (), [((), float(figures.queue_length))])
    yield _gauge("queue_oldest_seconds", "How long the first of them has waited", (), [((), figures.queue_oldest_s)])
    rows = sum(row.n for row in by_name.get(ROWS, ()))
    yield _gauge("request_log_rows", "Rows in the request log", (), [((), rows)])
    yield _gauge("info", "The version that answers this scrape", ("version",), [((__version__,), 1.0)])
    unknown = CounterMetricFamily(
        "kimi_gateway_unrecognised",
        "Frames and events of Kimi's that this gateway does not know: Kimi has changed",
        labels=("upstream", "kind"),
    )
    for (upstream, kind), n in list(figures.unrecognised.items())[:_MOST_KEYS]:
        unknown.add_metric((upstream, kind), n)
    yield unknown
