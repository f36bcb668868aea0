"""What a person reads in each client when something goes wrong, as a page: a table for each client."""

from collections.abc import Sequence
from pathlib import Path

from tests.clients.catalogue import CLIENTS
from tests.clients.outcome import Outcome

_HEAD = """\
# What a person reads when something goes wrong

[Clients](clients.md) · [Tested clients](clients-tested.md)

`make clients` writes this page. For each program it lets the simulated Kimi fail in nine ways and copies what the
program then shows, word for word (long texts are cut). The gateway has one Kimi account. *Nothing* means that the
program shows no sign of the failure; a part of an answer without more means that it looks finished.
"""
_LONGEST = 420


def update(page: Path, outcomes: Sequence[Outcome]) -> None:
    """The tables of those that were run and did not fail; the other clients keep theirs."""
    sections = _sections_of(page.read_text()) if page.exists() else {}
    sections |= {o.client.title: _section(o) for o in outcomes if o.reads and not o.failure}
    page.write_text(_HEAD + "".join(sections[c.title] for c in CLIENTS if c.title in sections))


def _sections_of(page: str) -> dict[str, str]:
    """By the client's title, which is the heading."""
    _, *sections = page.split("\n## ")
    return {text.partition("\n")[0]: "\n## " + text for text in (f"{section.rstrip()}\n" for section in sections)}


def _section(outcome: Outcome) -> str:
    rows = "".join(f"| {failure} | {_shown(words)} |\n" for failure, words in outcome.reads.items())
    head = "| what happens | what a person reads |\n| --- | --- |\n"
    return f"\n## {outcome.client.title}\n\n{outcome.version}\n\n{head}{rows}"


def _shown(words: str) -> str:
    one_line = " ".join(words.split()).replace("|", "\\|")
    if not one_line:
        return "*Nothing*"
    cut = one_line if len(one_line) <= _LONGEST else f"{one_line[:_LONGEST]}…"
    return "`` " + cut.replace("``", "` `") + " ``"
