"""How values are written on a page: times, durations, numbers, small charts. Pure functions."""

from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup


def time_element(at: float) -> Markup:
    """A time, in UTC; the script of the pages writes it in the reader's own zone."""
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"), moment.strftime("%Y-%m-%d %H:%M UTC")
    )


def day_of(day: int) -> str:
    """``2026-11-26``. ``day``: since 1970, of UTC."""
    return f"{datetime.fromtimestamp(day * 86_400, UTC):%Y-%m-%d}"


def seconds(value: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2 h``, ``4 d``"""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 172_800 else f"{value / 86_400:.0f} d"


def bytes_of(value: float) -> str:
    """``912 B``, ``3.2 MB``"""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def count(value: float) -> str:
    """``412``, ``1.2k``, ``3.4M``"""
    if value < 1000:
        return f"{value:.0f}"
    return f"{value / 1000:.1f}k" if value < 1_000_000 else f"{value / 1_000_000:.1f}M"


def bars(values: Sequence[float], label: str) -> Markup:
    """A small chart as SVG: one bar per value, the last one dark. ``label``: what it shows, for screen readers."""
    height, width, gap = 30, 6, 3
    most = max([*values, 1])
    last = len(values) - 1
    rectangles = Markup("").join(
        Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>').format(
            number * (width + gap),
            height - (size := max(1, round(value / most * height))),
            width,
            size,
            "none" if not value else "last" if number == last else "bar",
        )
        for number, value in enumerate(values)
    )
    return Markup('<svg role="img" aria-label="{}" width="{}" height="{}" class="bars">{}</svg>').format(
        label, len(values) * (width + gap), height, rectangles
    )


def milliseconds(value: float | None) -> str:
    """As ``seconds``; a dash where there is none."""
    return "–" if value is None else seconds(value / 1000)


def time_bar(waited_ms: int, first_ms: int | None, total_ms: int, label: str) -> Markup:
    """The time of one request as SVG: in the queue, until the first word, answering."""
    width, total = 600, max(total_ms, 1)
    first = total_ms if first_ms is None else first_ms
    edges = [0, min(waited_ms, first), first, total_ms]
    parts = Markup("").join(
        Markup('<rect x="{}" y="0" width="{}" height="14" class="{}"/>').format(
            round(begin / total * width), max(0, round((end - begin) / total * width)), kind
        )
        for begin, end, kind in zip(edges, edges[1:], ("queued", "before", "answer"), strict=False)
    )
    return Markup(
        '<svg role="img" aria-label="{}" viewBox="0 0 600 14" preserveAspectRatio="none" class="time-bar">{}</svg>'
    ).format(label, parts)
