"""The table of what was proven, as a page."""

from collections.abc import Sequence
from pathlib import Path

from tests.clients.catalogue import CLIENTS, FACTS
from tests.clients.outcome import Outcome

_HEAD = """\
# The clients that were tried

`make clients` installs each of these programs in an environment of its own, runs it against a gateway as it is
shipped, with a simulated Kimi behind it, and writes this table. A mark says that the run has seen it:

- **text**: the answer, exactly as Kimi said it
- **stream**: the same in pieces, while they came
- **thinking**: Kimi's reasoning, apart from the text
- **usage**: token counts
- **error**: a failure arrives as what the client has for it; libraries do not repeat one that is permanent, but for
  what stands under *also*
- **broken**: an answer that breaks off is a failure, and not an end

A dash: the client has no such thing, does not show it, or was not asked. After each client the run looks at the
simulator (no stream is left, and no chat but those of conversations) and searches the gateway's log and database for
keys, tokens and message text.

The last one needs gigabytes and is run by `make clients CLIENTS="--only open_webui"`; this is what it has seen:

![Open WebUI: a question, the thinking unfolded, and the answer](open-webui.png)

"""


def update(page: Path, outcomes: Sequence[Outcome]) -> None:
    """The rows of those that were run and did not fail; the other clients keep theirs."""
    rows = _rows_of(page.read_text()) if page.exists() else {}
    rows |= {outcome.client.title: _row(outcome) for outcome in outcomes if not outcome.failure}
    ordered = [rows[client.title] for client in CLIENTS if client.title in rows]
    page.write_text(_HEAD + _table(ordered))


def rendered(outcomes: Sequence[Outcome]) -> str:
    return _table([_row(outcome) for outcome in outcomes])


def _rows_of(page: str) -> dict[str, list[str]]:
    """By the client, which is the first field."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {fields[0]: fields for fields in lines}


def _table(rows: Sequence[Sequence[str]]) -> str:
    header = ["client", "version", *FACTS, "also", "install, s", "run, s"]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows))


def _row(outcome: Outcome) -> list[str]:
    return [
        outcome.client.title,
        "**failed**" if outcome.failure else outcome.version,
        *("✓" if fact in outcome.proved else "–" for fact in FACTS),
        "; ".join(outcome.also) or "–",
        f"{outcome.install_s:.0f}",
        f"{outcome.exercise_s:.0f}",
    ]
