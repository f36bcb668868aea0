"""Claude Code on the command line: by the variables that docs/clients.md shows."""

import json
import os
import subprocess
from pathlib import Path

from told import GATEWAY, KEY, MODEL, TEXT, THINKING, asked, calls, prompt, proved, steps, version

environment = {
    **os.environ,
    "ANTHROPIC_BASE_URL": GATEWAY,
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_MODEL": MODEL,
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def run(*arguments: str, fails: bool = False, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        ["claude", *arguments],
        env={**environment, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode != 0) is fails, done
    return done.stdout


version(run("--version").split()[0])
with asked(1):
    assert run("-p", prompt()).strip() == TEXT
proved("text")

told = json.loads(run("-p", prompt(), "--output-format", "json"))
assert told["result"] == TEXT
assert told["usage"]["input_tokens"] > 0 and told["usage"]["output_tokens"] > 0, told
proved("usage")
assert run("-p", prompt(), ANTHROPIC_MODEL=THINKING).strip() == TEXT
proved("also", "a model that thinks")

told = run("-p", prompt(fail="too_long"), fails=True)
assert "too long" in told.lower(), told
told = run("-p", "Hello", fails=True, ANTHROPIC_API_KEY="sk-wrong")
assert "key" in told.lower(), told
proved("error")

# A whole task: it reads a file, changes it, and looks at the change, with two calls at the same time.
work = Path.home() / "work"
work.mkdir()
tea = work / "tea.py"
tea.write_text("LEAVES = 1\n")
allowed = ("--allowedTools", "Read,Edit,Bash")
steps(
    {"call": "Read", "args": {"file_path": str(tea)}},
    {"call": "Edit", "args": {"file_path": str(tea), "old_string": "LEAVES = 1", "new_string": "LEAVES = 3"}},
    [
        {"call": "Bash", "args": {"command": "cat tea.py", "description": "look"}},
        {"call": "Read", "args": {"file_path": str(tea)}},
    ],
    "Done: %R%",
)
with asked(4, opens=1):
    told = run("-p", "Set LEAVES to 3.", *allowed, cwd=work)
assert tea.read_text() == "LEAVES = 3\n" and "Done: " in told and told.count("LEAVES = 3") == 2, told
# The conversation goes on, and the first call cannot be used.
calls("broken", "Bash", {"command": "wc -l < tea.py", "description": "count"})
with asked(3, opens=0):
    told = run("-p", "-c", "How many lines?", *allowed, cwd=work)
assert told.strip() == "It returned: 1", told
proved("tools")
proved("also", "reads, edits and checks a file")
