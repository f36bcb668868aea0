"""Cline on the command line: by the settings that docs/clients.md shows."""

import json
import os
import signal
import subprocess
from pathlib import Path

from told import BASE, KEY, MODEL, TEXT, calls, knobs, proved, steps, version

work = Path.home() / "work"
work.mkdir()
tea = work / "tea.py"
tea.write_text("LEAVES = 1\n")
environment = {**os.environ, "CLINE_NO_AUTO_UPDATE": "1"}


def end_daemons() -> None:
    """Cline leaves a daemon behind, in a group of its own: the one that knows the home of this exercise."""
    home = f"HOME={Path.home()}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_daemon = b"--cline-hub-daemon" in (process / "cmdline").read_bytes().split(b"\0")
            if is_daemon and home in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


def cline(*arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        ["cline", *arguments],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        timeout=150,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode != 0) is fails, done
    return done.stdout


def ask(question: str, *, fails: bool = False) -> list[dict]:
    """What it tells of its work."""
    told = cline("--json", "-P", "openai-compatible", question, fails=fails)
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def events(told: list[dict], kind: str) -> list[dict]:
    return [each["event"] for each in told if each["type"] == "agent_event" and each["event"]["type"] == kind]


def texts(told: list[dict]) -> list[str]:
    return [each["text"] for each in events(told, "content_end") if each["contentType"] == "text"]


def results(told: list[dict]) -> list[str]:
    ended = [each for each in events(told, "content_end") if each["contentType"] == "tool"]
    assert all(each["output"][0]["success"] for each in ended if each["toolName"] != "editor"), ended
    return [each["toolName"] for each in ended]


try:
    version(cline("--version").split()[-1])
    cline("auth", "-p", "openai-compatible", "-k", KEY, "-m", MODEL, "-b", BASE)
    # Its questions go into words of its own, and so the wishes that a question could hold.
    knobs(say=TEXT)
    told = ask("Say hello to me.")
    assert texts(told) == [TEXT], told
    proved("text")
    usage = events(told, "usage")
    assert usage and usage[-1]["inputTokens"] > 0 and usage[-1]["outputTokens"] > 0, told
    proved("usage")

    look = {"call": "run_commands", "args": {"commands": ["cat tea.py"]}}
    read = {"call": "read_files", "args": {"files": [{"path": str(tea)}]}}
    edit = {"call": "editor", "args": {"path": str(tea), "old_text": "LEAVES = 1", "new_text": "LEAVES = 3"}}
    steps(read, edit, [look, read], "Done.")
    told = ask("Set LEAVES to 3.")
    assert tea.read_text() == "LEAVES = 3\n" and results(told)[:2] == ["read_files", "editor"], told
    assert sorted(results(told)[2:]) == ["read_files", "run_commands"] and texts(told)[-1] == "Done.", told
    # The first call cannot be used.
    calls("broken", "run_commands", {"commands": ["cat tea.py"]})
    told = ask("What is in it?")
    assert results(told) == ["run_commands"] and "LEAVES = 3" in texts(told)[-1], told
    proved("tools")
    proved("also", "reads, edits and checks a file; each question is a task of its own")

    knobs(fail="too_long")
    told = ask("Say hello again.", fails=True)
    # Its own words for it, with ours.
    assert told[-1]["finishReason"] == "error" and "maximum context length" in told[-1]["text"], told
    proved("error")
finally:
    end_daemons()
