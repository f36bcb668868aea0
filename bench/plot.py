"""Draws pictures of a run: a panel per figure, a bar per server, a colour per server.

``python -m bench`` draws all figures. The README shows four figures of the current protocol (Connect):

    python -m bench.plot docs/bench.json docs/bench.png

``docs/bench.json`` is a file that ``python -m bench`` has written, or a part of it.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import Outcome
from bench.scenarios import CPU_TOKEN, FIRST_P50, MEMORY, ONE_WAY_P99, PER_S, TOKENS_PER_S
from bench.servers import FASTAPI, GATEWAY, NGINX, NODE

_COLOURS = {NGINX: "#9aa0a6", GATEWAY: "#1a73e8", NODE: "#5f9e6e", FASTAPI: "#b5684c"}
_NAMES = {NGINX: "nginx", GATEWAY: "gateway", NODE: "Node", FASTAPI: "FastAPI"}

_COLUMNS = 4

# The bars of these servers are never cut.
_TO_SCALE = (NGINX, GATEWAY, NODE)


@dataclass(frozen=True, slots=True)
class _Panel:
    scenario: str
    row: str
    title: str


_PANELS = (
    _Panel("first-token", FIRST_P50, "time to first token, p50\nms, less is better"),
    _Panel("short", PER_S, "short answers\nanswers/s, more is better"),
    _Panel("streams", CPU_TOKEN, "200 streams: CPU per token\nµs, less is better"),
    _Panel("streams", ONE_WAY_P99, "200 streams: latency p99\nms, less is better"),
    _Panel("many-30", ONE_WAY_P99, "15,000 tokens/s: latency p99\nms, less is better"),
    _Panel("slow", MEMORY, "2,000 streams: memory each\nKB, less is better"),
    _Panel("flood", TOKENS_PER_S, "as fast as possible\ntokens/s, more is better"),
    _Panel("burst", FIRST_P50, "300 new requests/s: first token\nms, less is better"),
)

# The README's picture, for readers who do not know the benchmark.
_SUMMARY = (
    _Panel("first-token", FIRST_P50, "Time to the first token\nms (Kimi takes 5 of them), lower is better"),
    _Panel("short", PER_S, "Short answers on one core\nper second, higher is better"),
    _Panel("streams", CPU_TOKEN, "CPU time per token, 200 streams\nµs, lower is better"),
    _Panel("slow", MEMORY, "Memory per stream, 2,000 streams\nKB, lower is better"),
)
_SUMMARY_GENERATION = "connect"


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draws all measured figures, one generation after the other. Draws nothing if there are none."""
    generations = list(dict.fromkeys(outcome.generation for outcome in outcomes))
    found = {(o.generation, o.scenario): o for o in outcomes}
    panels = [panel for panel in _PANELS if any((g, panel.scenario) in found for g in generations)]
    if not panels:
        return
    lines = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(2.7 * _COLUMNS, 2.3 * lines * len(generations)))
    axes = figure.subplots(lines * len(generations), _COLUMNS, squeeze=False)
    for number, generation in enumerate(generations):
        places = axes[number * lines : (number + 1) * lines].flatten()
        places[0].set_ylabel(f"[{generation}]")
        for axis, panel in zip(places, panels, strict=False):
            _bars(axis, panel, found.get((generation, panel.scenario)))
        for axis in places[len(panels) :]:
            axis.set_visible(False)
    figure.suptitle("One core, one worker. ↑: the bar is cut. –: not measured, or the server failed.", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_summary(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draws the README's picture. Raises KeyError: if a scenario was not measured."""
    found = {o.scenario: o for o in outcomes if o.generation == _SUMMARY_GENERATION}
    figure = Figure(figsize=(2.9 * len(_SUMMARY), 2.6))
    for axis, panel in zip(figure.subplots(1, len(_SUMMARY)), _SUMMARY, strict=True):
        _bars(axis, panel, found[panel.scenario])
    figure.supxlabel(
        "One core, one worker process. ↑: the bar is cut. –: could not hold so many streams.",
        fontsize=8,
        color="#555",
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def read(run: Mapping[str, object]) -> list[Outcome]:
    """The outcomes of a run, from its JSON."""
    scenarios = run["scenarios"]
    assert isinstance(scenarios, list), "a run has a list of scenarios"
    return [Outcome(**scenario) for scenario in scenarios]


def _bars(axis: Axes, panel: _Panel, outcome: Outcome | None) -> None:
    axis.set_title(panel.title, fontsize=8)
    names = list(_COLOURS)
    medians = [_median(outcome, name, panel.row) for name in names]
    # One very large value must not flatten the other bars. Its bar is cut; its label shows the true value.
    top = 1.8 * max(
        (value for name, value in zip(names, medians, strict=True) if value and name in _TO_SCALE), default=1
    )
    bars = axis.bar(
        [_NAMES[name] for name in names], [min(value or 0, top) for value in medians], color=list(_COLOURS.values())
    )
    axis.bar_label(bars, [_label(value, top) for value in medians], fontsize=7)
    axis.tick_params(labelsize=7, left=False, labelleft=False)
    axis.set_ylim(0, 1.15 * max((min(value or 0, top) for value in medians), default=1) or 1)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _label(value: float | None, top: float) -> str:
    if value is None:
        return "–"
    return (f"{value:.3g}" if value < 1000 else f"{value:,.0f}") + (" ↑" if value > top else "")


def _median(outcome: Outcome | None, server: str, row: str) -> float | None:
    rounds = outcome.rounds if outcome else []
    values = [figures[server][row] for figures in rounds if row in figures.get(server, {})]
    return statistics.median(values) if values else None


if __name__ == "__main__":
    draw_summary(read(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
