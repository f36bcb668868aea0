"""Claude Code on the command line: by the variables that docs/clients.md shows."""

import json
import os
import subprocess

from told import GATEWAY, KEY, MODEL, TEXT, THINKING, asked, prompt, proved, version

environment = {
    **os.environ,
    "ANTHROPIC_BASE_URL": GATEWAY,
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_MODEL": MODEL,
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def run(*arguments: str, fails: bool = False, **variables: str) -> str:
    done = subprocess.run(
        ["claude", *arguments],
        env={**environment, **variables},
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
