"""The table of what was proven, as a page."""

from collections.abc import Sequence
from pathlib import Path

from tests.clients.catalogue import CLIENTS, FACTS
from tests.clients.outcome import Outcome

_HEAD = """\
# Tested clients

[Clients](clients.md) explains how to set up each of them.

`make clients` installs each of these programs in an environment of its own, runs it against a gateway with default
settings and a simulated Kimi, and writes this table. A mark says that the test has passed:

- **text**: the answer, exactly as Kimi wrote it
- **stream**: the same in several pieces, while it is written
- **thinking**: Kimi's reasoning, separate from the text
- **usage**: token counts
- **error**: a failure becomes the error that the client has for it. Libraries do not repeat a request that would fail
  again, with the exceptions under *also*
- **broken**: an answer that breaks off is an error and not a normal end
- **tools**: functions are called and their results are used ([tool calls](tools.md)), in two questions of one
  conversation. The simulated Kimi makes one call, then two at once, then one that cannot be used and has to be asked
  for again
- **images**, **documents**: one arrives at Kimi byte for byte as the program has sent it, in each form that the
  program has for it: inside the request, by an address, by the id of an uploaded file, in the result of a function.
  For the addresses the gateway has `FETCH_URLS=1`
- **chat**: in the program's window, a second question is asked, an answer is made again, and one is stopped, which
  ends it at Kimi too

A dash means that the client has no such feature or does not show it, or that it was not tested. After each client the
run checks that no stream is still open and that no chat is left except those of conversations. It also searches the
gateway's log and database for keys, tokens and message text.

[What a person reads](clients-failures.md) when something goes wrong is copied from the windows of these programs.

Open WebUI and n8n need several gigabytes, so each has a command of its own:
`make clients CLIENTS="--only open_webui"`, and `make clients CLIENTS="--only n8n"`, which also needs PostgreSQL's
programs (`make servers`). The command does not install NextChat, LobeChat and Chatbox. Set `NEXTCHAT_URL` or
`LOBECHAT_URL` to one that runs, for example
`NEXTCHAT_URL=http://127.0.0.1:3000 make clients CLIENTS="--only nextchat"`, and `CHATBOX_SOURCE` to a folder with
Chatbox's source. This is what they show:

![Open WebUI: a question, the thinking unfolded, and the answer](open-webui.png)

![NextChat: a question about an attached image, and the answer](nextchat.png)

![n8n: a workflow with an AI Agent, its chat, and what it did](n8n.png)

![LobeChat: a question, how long Kimi thought, and the answer](lobechat.png)

"""
_COLUMNS = ["client", "version", *FACTS, "also", "install, s", "run, s"]


def update(page: Path, outcomes: Sequence[Outcome]) -> None:
    """The rows of those that were run and did not fail; the other clients keep theirs."""
    rows = _rows_of(page.read_text()) if page.exists() else {}
    rows |= {outcome.client.title: _row(outcome) for outcome in outcomes if not outcome.failure}
    ordered = [rows[client.title] for client in CLIENTS if client.title in rows]
    page.write_text(_HEAD + _table(ordered))


def rendered(outcomes: Sequence[Outcome]) -> str:
    return _table([_row(outcome) for outcome in outcomes])


def _rows_of(page: str) -> dict[str, dict[str, str]]:
    """By the client, which is the first column. A column that the page does not have yet is a dash."""
    header, _, *lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = [dict(zip(header, fields, strict=True)) for fields in lines]
    return {row["client"]: {name: row.get(name, "–") for name in _COLUMNS} for row in rows}


def _table(rows: Sequence[dict[str, str]]) -> str:
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(outcome: Outcome) -> dict[str, str]:
    fields = [
        outcome.client.title,
        "**failed**" if outcome.failure else outcome.version,
        *("✓" if fact in outcome.proved else "–" for fact in FACTS),
        "; ".join(outcome.also) or "–",
        f"{outcome.install_s:.0f}",
        f"{outcome.exercise_s:.0f}",
    ]
    return dict(zip(_COLUMNS, fields, strict=True))
