"""Simon Willison's llm on the command line, with the model in extra-openai-models.yaml."""

import importlib.metadata
import json
import os
import subprocess
import time
from pathlib import Path

from told import BASE, KEY, MODEL, TEXT, asked, knobs, prompt, proved, slowly, version

version(importlib.metadata.version("llm"))
settings = Path.home() / "llm"
settings.mkdir()
os.environ["LLM_USER_PATH"] = str(settings)
(settings / "extra-openai-models.yaml").write_text(
    f"- model_id: kimi\n  model_name: {MODEL}\n  api_base: {BASE}\n  api_key_name: kimi\n  supports_schema: true\n"
)


def run(*arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        ["llm", *arguments], capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL, check=False
    )
    assert (done.returncode != 0) is fails, done
    return (done.stderr if fails else done.stdout).strip()


assert run("-m", "kimi", "--key", KEY, "--no-stream", prompt()) == TEXT
proved("text")
logged = json.loads(run("logs", "--json"))[0]
assert logged["input_tokens"] > 0 and logged["output_tokens"] > 0, logged
proved("usage")

command = ["llm", "-m", "kimi", "--key", KEY, slowly()]
came = []
with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as program:
    while piece := os.read(program.stdout.fileno(), 4096):
        came.append((time.monotonic(), piece))
assert b"".join(piece for _, piece in came).decode().strip() == TEXT
assert len(came) > 1 and came[-1][0] > came[0][0]
proved("stream")

with asked(1):
    said = run("-m", "kimi", "--key", KEY, prompt(fail="too_long"), fails=True)
assert "too long" in said, said
said = run("-m", "kimi", "--key", "sk-wrong", "Hello", fails=True)
assert "key" in said.lower(), said
proved("error")

assert json.loads(run("-m", "kimi", "--key", KEY, "--schema", "leaves int", prompt('{"leaves": 3}'))) == {"leaves": 3}
proved("also", "`--schema`")
# The answer shows what Kimi knows, whether it was told now or before in the same chat.
knobs(recite="I like tea")
run("-m", "kimi", "--key", KEY, "I like tea")
assert "I like tea" in run("-c", "--key", KEY, "and now?")
knobs()
proved("also", "`-c`, which continues a conversation")
