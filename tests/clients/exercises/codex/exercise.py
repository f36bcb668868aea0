"""Codex on the command line: by the settings that docs/clients.md shows."""

import json
import os
import subprocess
from pathlib import Path

from told import BASE, KEY, MODEL, TEXT, THINKING, asked, calls, prompt, proved, refused, steps, version

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


def run(*arguments: str, fails: bool = False, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ["codex", *arguments],
        env=environment,
        cwd=cwd,
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

# A whole task. Codex offers apply_patch, a custom tool, where its list of models says so. A model that is not in it
# changes files by commands; so an entry of the list is given our name.
models = json.loads(run("debug", "models", "--bundled"))["models"]
# "Responses lite" is a form of the API that Codex speaks with OpenAI alone.
known = next(m for m in models if m["apply_patch_tool_type"] == "freeform" and not m.get("use_responses_lite"))
(settings / "models.json").write_text(json.dumps({"models": [{**known, "slug": MODEL, "display_name": MODEL}]}))
agent = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
agent += ("-c", f'model_catalog_json="{settings / "models.json"}"')
work = Path.home() / "work"
work.mkdir()
tea = work / "tea.py"
tea.write_text("LEAVES = 1\n")
patch = "*** Begin Patch\n*** Update File: tea.py\n@@\n-LEAVES = 1\n+LEAVES = 3\n*** End Patch"
look, count = ({"call": "exec_command", "args": {"cmd": command}} for command in ("cat tea.py", "wc -l < tea.py"))
steps(look, {"call": "apply_patch", "args": patch}, [look, count], "Done.")
with asked(4, opens=1):
    told = run("exec", *agent, "--json", "Set LEAVES to 3.", cwd=work)
assert tea.read_text() == "LEAVES = 3\n", told
items = [json.loads(line).get("item", {}) for line in told.splitlines()]
ran = [item for item in items if item.get("type") == "command_execution" and item["status"] == "completed"]
assert sorted(item["aggregated_output"] for item in ran) == ["1\n", "LEAVES = 1\n", "LEAVES = 3\n"], told
assert any(item.get("type") == "file_change" and item["status"] == "completed" for item in items), told
assert items[-2]["text"] == "Done.", told
# The conversation goes on, and the first call cannot be used.
calls("broken", "exec_command", {"cmd": "cat tea.py"})
with asked(3, opens=0):
    told = run("exec", "resume", "--last", *agent, "What is in it?", cwd=work)
assert "It returned:" in told and "LEAVES = 3" in told, told
proved("tools")
proved("also", "runs commands and applies a patch (a custom tool)")
