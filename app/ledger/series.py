"""Which figures are counted for ``/metrics``, and what a request adds to each. Pure.

Three histograms have the names of OpenTelemetry's conventions for generative AI (semantic-conventions-genai 004902b,
"Development"). Labels never hold a request id, a conversation, an address, or any word of a client.
"""

import bisect
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from app.request_record import LEFT, RequestRecord
from app.store.ledger import RequestRow

# For the time until Kimi answers: Kimi with search or thinking needs seconds to minutes.
_LONG_S = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 300, 900)
_TOKEN_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
_SILENCE_S = (1, 2, 5, 10, 15, 30, 60, 120)
_QUEUE_S = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60)


# How the names of a histogram's rows in the store end: a bucket's has its upper bound as the label "le".
BUCKET, SUM = "_bucket", "_sum"


@dataclass(frozen=True, slots=True)
class Series:
    """A counter, or a histogram if it has ``buckets``."""

    name: str
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    # The upper bounds as they are stored, and the names of a histogram's rows: made once, because each answer needs
    # several.
    bounds: tuple[str, ...] = field(init=False)
    bucket_name: str = field(init=False)
    sum_name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", (*(f"{bound:g}" for bound in self.buckets), "+Inf"))
        object.__setattr__(self, "bucket_name", self.name + BUCKET)
        object.__setattr__(self, "sum_name", self.name + SUM)


_OTEL = ("gen_ai_provider_name", "gen_ai_operation_name", "gen_ai_request_model")
FIRST = Series(
    "gen_ai_server_time_to_first_token_seconds",
    "Time from the arrival of a request to the first part of its answer",
    _OTEL,
    _LONG_S,
)
DURATION = Series(
    "gen_ai_server_request_duration_seconds",
    "Time from the arrival of a request for an answer to its end; error_type: whose fault a failure is",
    (*_OTEL, "error_type"),
    _LONG_S,
)
PER_TOKEN = Series(
    "gen_ai_server_time_per_output_token_seconds",
    "Time per token after the first part of an answer, one observation per answer; tokens are estimates",
    _OTEL,
    _TOKEN_S,
)
REQUESTS = Series(
    "kimi_gateway_requests",
    "Requests that have ended: those for an answer, and others that were refused",
    ("api", "model", "end", "status_class"),
)
TOKENS = Series("kimi_gateway_tokens", "Tokens, estimated; out includes thought", ("model", "direction"))
KEY_REQUESTS = Series("kimi_gateway_key_requests", "Requests of each API key", ("key", "outcome"))
ATTEMPTS = Series(
    "kimi_gateway_upstream_attempts",
    "Tries on an account; outcome: ok, left (the client left), or the code of the error",
    ("account", "protocol", "outcome", "blame"),
)
FAILOVERS = Series(
    "kimi_gateway_failovers", "Failures of an account that another one made up for", ("from_account", "code")
)
QUEUE_WAIT = Series("kimi_gateway_queue_wait_seconds", "Time that a request waited for an account", (), _QUEUE_S)
SILENCE = Series(
    "kimi_gateway_longest_silence_seconds",
    "The longest gap between two parts of an answer",
    ("model",),
    _SILENCE_S,
)
HEARTBEATS = Series("kimi_gateway_heartbeats", "Heartbeats sent to clients that waited", ("api",))
# This one and that of notifications are counted where they happen.
REFRESHES = Series(
    "kimi_gateway_refreshes", "Renewals of tokens; outcome: ok, failed, refused", ("account", "outcome")
)
DROPPED = Series(
    "kimi_gateway_ledger_dropped",
    "Rows of the request log that were given up while the database was away, and label sets beyond the limit",
    ("kind",),
)
NOTIFICATIONS = Series(
    "kimi_gateway_notifications",
    "Tries to send a message to NOTIFY_URL; outcome: ok, failed",
    ("event", "outcome"),
)
ALL = (
    FIRST,
    DURATION,
    PER_TOKEN,
    REQUESTS,
    TOKENS,
    KEY_REQUESTS,
    ATTEMPTS,
    FAILOVERS,
    QUEUE_WAIT,
    SILENCE,
    HEARTBEATS,
    REFRESHES,
    DROPPED,
    NOTIFICATIONS,
)

_PROVIDER = "moonshot_ai"

# More label sets than these are refused: they would slow every scrape.
MAX_KEYS = 10_000

Key = tuple[str, tuple[str, ...]]


class Sums:
    """What was counted since the last step."""

    def __init__(self) -> None:
        self.counts: defaultdict[Key, float] = defaultdict(float)

    def add(self, series: Series, labels: tuple[str, ...], n: float = 1.0) -> None:
        if n:
            self.counts[series.name, labels] += n

    def observe(self, series: Series, labels: tuple[str, ...], value: float) -> None:
        bound = series.bounds[bisect.bisect_left(series.buckets, value)]
        counts = self.counts
        counts[series.bucket_name, (*labels, bound)] += 1
        counts[series.sum_name, labels] += value

    def add_request(self, record: RequestRecord, row: RequestRow) -> None:
        """``row``: as ``record`` is stored."""
        model = "other" if row.model in ("", "?") else row.model
        self.add(REQUESTS, (row.api, model, row.ending, f"{row.status // 100}xx"))
        outcome = "left" if row.ending == LEFT else "failed" if row.blame else "ok"
        self.add(KEY_REQUESTS, (row.owner, outcome))
        if record.is_answer:
            self._add_answer(record, row, model)

    def _add_answer(self, record: RequestRecord, row: RequestRow, model: str) -> None:
        otel = (_PROVIDER, "text_completion" if row.api == "completions" else "chat", model)
        self.observe(DURATION, (*otel, row.blame), row.total_ms / 1000)
        self.add(HEARTBEATS, (row.api,), record.heartbeats)
        self.observe(QUEUE_WAIT, (), record.waited_s)
        if row.first_ms is not None:
            self.observe(FIRST, otel, row.first_ms / 1000)
            self.observe(SILENCE, (model,), record.longest_s)
            if row.tokens_out and row.tokens_out > 1:
                self.observe(PER_TOKEN, otel, max(0, row.total_ms - row.first_ms) / 1000 / row.tokens_out)
        for direction, n in (("in", row.tokens_in), ("out", row.tokens_out), ("thought", row.tokens_thought)):
            self.add(TOKENS, (model, direction), n or 0)
        failed: list[tuple[str, str]] = []
        for attempt in record.attempts:
            self.add(ATTEMPTS, (attempt.account_id, attempt.protocol, attempt.code or "ok", attempt.blame))
            if attempt.blame:
                failed.append((attempt.account_id, attempt.code))
            elif not attempt.code:
                for account_id, code in failed:
                    if account_id != attempt.account_id:
                        self.add(FAILOVERS, (account_id, code))
                failed.clear()


_LABELS: dict[str, tuple[str, ...]] = {
    **{series.name: series.labels for series in ALL if not series.buckets},
    **{series.bucket_name: (*series.labels, "le") for series in ALL if series.buckets},
    **{series.sum_name: series.labels for series in ALL if series.buckets},
}


@lru_cache(maxsize=MAX_KEYS)
def stored(name: str, labels: tuple[str, ...]) -> tuple[str, str]:
    """A key as it is stored: labels as JSON."""
    return name, json.dumps(dict(zip(_LABELS[name], labels, strict=True)), sort_keys=True, ensure_ascii=False)


def names() -> Sequence[str]:
    """Of all rows that may be in the store."""
    return list(_LABELS)
