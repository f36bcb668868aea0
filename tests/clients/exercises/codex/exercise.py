"""Codex on the command line: by the settings that docs/clients.md shows."""

import json
import os
import subprocess
from pathlib import Path

from told import BASE, KEY, MODEL, TEXT, THINKING, asked, prompt, proved, refused, version

settings = Path.home() / ".codex"
settings.mkdir()
(settings / "config.toml").write_text(f"""
model = "{MODEL}"
model_provider = "kimi"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.kimi]
name = "kimi"
base_url = "{BASE}"
env_key = "KIMI_GATEWAY_KEY"
wire_api = "responses"
stream_max_retries = 1
request_max_retries = 1
""")
environment = {**os.environ, "CODEX_HOME": str(settings), "KIMI_GATEWAY_KEY": KEY}


def run(*arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        ["codex", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode != 0) is fails, done
    return done.stdout


version(run("--version").split()[-1])
with asked(1):
    assert run("exec", "--skip-git-repo-check", prompt()).strip() == TEXT
proved("text")

events = [json.loads(line) for line in run("exec", "--skip-git-repo-check", "--json", prompt()).splitlines()]
usage = [event["usage"] for event in events if event["type"] == "turn.completed"]
assert usage and usage[0]["input_tokens"] > 0 and usage[0]["output_tokens"] > 0, events
proved("usage")
assert run("exec", "--skip-git-repo-check", "-m", THINKING, prompt()).strip() == TEXT
proved("also", "a model that thinks")

told = run("exec", "--skip-git-repo-check", "--json", prompt(fail="too_long"), fails=True)
# Its own words for it, by which it would also make its history shorter.
assert "context window" in told, told
told = run("exec", "--skip-git-repo-check", "--json", refused(), fails=True)
assert "something_new" in told, told
proved("error")
