"""The table of what was proven, as a page."""

from collections.abc import Sequence
from pathlib import Path

from tests.clients.catalogue import FACTS
from tests.clients.outcome import Outcome

_HEAD = """\
# The clients that were tried

`make clients` installs each of these programs in an environment of its own, runs it against a gateway as it is shipped,
with a simulated Kimi behind it, and writes this page. A mark says that the run has seen it:

- **text**: the answer, exactly as Kimi said it
- **stream**: the same in pieces, while they came
- **thinking**: Kimi's reasoning, apart from the text
- **usage**: token counts
- **error**: a failure arrives as what the client has for it, and Kimi is not asked twice
- **broken**: an answer that breaks off is a failure, and not an end

An empty field: the client has no such thing, or does not show it. After each client the run looks at the simulator (no
stream and no chat is left) and searches the gateway's log and database for keys, tokens and message text.
"""


def write(page: Path, outcomes: Sequence[Outcome]) -> None:
    page.write_text(f"{_HEAD}\n{rendered(outcomes)}")


def rendered(outcomes: Sequence[Outcome]) -> str:
    header = ["client", *FACTS, "also", "install, s", "run, s"]
    rows = [header, ["---"] * len(header), *(_row(outcome) for outcome in outcomes)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(outcome: Outcome) -> list[str]:
    return [
        f"{outcome.client.title} {outcome.version}".strip() + (" **FAILED**" if outcome.failure else ""),
        *("✓" if fact in outcome.proved else "" for fact in FACTS),
        "; ".join(outcome.also),
        f"{outcome.install_s:.0f}",
        f"{outcome.exercise_s:.0f}",
    ]
