"""``make toolbench``: how well Kimi calls functions, measured through a running gateway on a real account.

30 tasks with exact checks, one after the other, with a pause between them. It stops where the account is limited and
goes on from there when it is started again: results are kept in bench/out. They hold no text of an answer.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from bench.toolbench.tasks import LOOPS, TASKS, Call, Loop, Task

_OUT = Path(__file__).parents[1] / "out"
# Of one request, seconds.
_PATIENCE_S = 300.0


class Limited(Exception):
    """The account is limited: it is not asked on."""


@dataclass(frozen=True, slots=True)
class Result:
    """``verdict``: ``right``, or in one word what was wrong. ``asked_again``: how often Kimi had to be asked once
    more."""

    name: str
    verdict: str
    seconds: float
    turns: int
    asked_again: int


class Bench:
    def __init__(self, base_url: str, key: str, model: str) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        self.turns = self.asked_again = 0

    def task(self, task: Task) -> Result:
        began = time.monotonic()
        self.turns = self.asked_again = 0
        reply = self._ask([{"role": "user", "content": task.question}], task.tools, task.body)
        verdict = reply if isinstance(reply, str) else judge(task, calls_of(reply), reply.get("content") or "")
        return self._result(task.name, verdict, began)

    def loop(self, loop: Loop) -> Result:
        began = time.monotonic()
        self.turns = self.asked_again = 0
        files, verdict = dict(loop.files), "too many steps"
        messages: list[dict[str, Any]] = [{"role": "user", "content": loop.question}]
        for _ in range(loop.steps):
            reply = self._ask(messages, loop.tools, {})
            if isinstance(reply, str):
                verdict = reply
                break
            messages.append(reply)
            if not reply.get("tool_calls"):
                verdict = "right" if files == loop.after else "other files"
                break
            for call, (name, arguments) in zip(reply["tool_calls"], calls_of(reply), strict=True):
                said = run(files, name, arguments)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})
        return self._result(loop.name, verdict, began)

    def _result(self, name: str, verdict: str, began: float) -> Result:
        return Result(name, verdict, round(time.monotonic() - began, 1), self.turns, self.asked_again)

    def _ask(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], more: dict[str, Any]
    ) -> dict[str, Any] | str:
        """The message, or the code of the error. Raises Limited."""
        body = {"model": self._model, "messages": messages, "tools": tools, **more}
        response = self._session.post(self._url, json=body, timeout=_PATIENCE_S)
        self.turns += 1
        if "tool-call-asked-again" in response.headers.get("x-kimi-notice", ""):
            self.asked_again += 1
        if response.status_code == 429:
            raise Limited(response.text)
        if not response.ok:
            error = response.json()["error"]
            if response.status_code < 500:
                raise SystemExit(f"the gateway refuses the request: {error['message']}")
            return str(error["code"])
        message: dict[str, Any] = response.json()["choices"][0]["message"]
        return message


def calls_of(message: dict[str, Any]) -> list[Call]:
    made = [call["function"] for call in message.get("tool_calls") or ()]
    return [(function["name"], json.loads(function["arguments"])) for function in made]


def judge(task: Task, made: Sequence[Call], words: str) -> str:
    if not task.expected:
        return "needless call" if made else "right" if words.strip() else "no words"
    if not made:
        return "no call"
    key = lambda call: json.dumps(call, sort_keys=True, ensure_ascii=False)  # noqa: E731
    if sorted(map(key, made)) == sorted(map(key, task.expected)):
        return "right"
    same_names = sorted(name for name, _ in made) == sorted(name for name, _ in task.expected)
    return "other arguments" if same_names else "other calls"


def run(files: dict[str, str], name: str, arguments: dict[str, Any]) -> str:
    """The functions of the loops."""
    path, text = str(arguments.get("path")), str(arguments.get("text"))
    match name:
        case "list_files":
            return "\n".join(sorted(files))
        case "write_file":
            files[path] = text
            return "written"
        case _:
            return files.get(path, "there is no such file")


def wilson(right: int, tried: int) -> tuple[float, float]:
    """The 95 % interval of a rate."""
    if not tried:
        return 0.0, 1.0
    z, rate = 1.96, right / tried
    middle = rate + z * z / (2 * tried)
    half = z * math.sqrt(rate * (1 - rate) / tried + z * z / (4 * tried * tried))
    return (middle - half) / (1 + z * z / tried), (middle + half) / (1 + z * z / tried)


def report(results: Sequence[Result]) -> str:
    lines = [
        "| category | right | of | what was wrong | asked again | turns | median, s |",
        "|---|---|---|---|---|---|---|",
    ]
    categories = dict.fromkeys(result.name.partition("-")[0] for result in results)
    for category in [*categories, "all"]:
        some = [result for result in results if category in (result.name.partition("-")[0], "all")]
        right = sum(result.verdict == "right" for result in some)
        wrong = dict.fromkeys(result.verdict for result in some if result.verdict != "right")
        counted = ", ".join(f"{word} {sum(result.verdict == word for result in some)}" for word in wrong)
        again, turns = sum(result.asked_again for result in some), sum(result.turns for result in some)
        median = statistics.median(result.seconds for result in some)
        lines.append(f"| {category} | {right} | {len(some)} | {counted or '–'} | {again} | {turns} | {median:.1f} |")
    low, high = wilson(sum(result.verdict == "right" for result in results), len(results))
    return "\n".join([*lines, "", f"right in {low:.0%} to {high:.0%} of such tasks (95 % interval, Wilson)"])


def main(arguments: Sequence[str] | None = None) -> int:
    """``arguments``: None for those of this process."""
    parser = argparse.ArgumentParser(prog="python -m bench.toolbench", description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="of the gateway")
    parser.add_argument("--key", default="none", help="an API key of the gateway")
    parser.add_argument("--model", default="k2-nosearch")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two tasks")
    parser.add_argument("--again", action="store_true", help="forget earlier results of this model")
    parser.add_argument("--out", type=Path, default=_OUT, help="the folder that results are kept in")
    options = parser.parse_args(arguments)
    options.out.mkdir(exist_ok=True)
    kept = options.out / f"toolbench-{''.join(c if c.isalnum() or c in '.-' else '_' for c in options.model)}.jsonl"
    if options.again:
        kept.unlink(missing_ok=True)
    results = [Result(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {result.name for result in results}
    bench = Bench(options.base_url, options.key, options.model)
    limited = False
    for one in (*TASKS, *LOOPS):
        if one.name in done:
            continue
        try:
            result = bench.task(one) if isinstance(one, Task) else bench.loop(one)
        except Limited:
            print("\nthe account is limited; start this again later, it goes on from here", file=sys.stderr)
            limited = True
            break
        results.append(result)
        with kept.open("a") as out:
            out.write(json.dumps(asdict(result)) + "\n")
        print(f"{result.name}: {result.verdict} ({result.seconds} s)", flush=True)
        time.sleep(options.pause)
    if results:
        print(f"\n{time.strftime('%Y-%m-%d')}, {options.model}, n={len(results)}\n\n{report(results)}")
    return 2 if limited else 0


if __name__ == "__main__":
    sys.exit(main())
