"""`make toolbench` against the simulated Kimi: what it counts as right, and that it goes on where it stopped."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.toolbench.__main__ import judge, main, wilson
from bench.toolbench.tasks import LOOPS, TASKS, Task
from tests.running import ROOT, Gateway, Simulator

ALL = len(TASKS) + len(LOOPS)


@dataclass
class Done:
    """How a run of the command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def arguments_for(gateway: Gateway, out: Path) -> list[str]:
    return ["--base-url", f"{gateway.url}/v1", "--model", gateway.model, "--pause", "0", "--out", str(out)]


Measure = Callable[[Gateway, Path], Done]


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str]) -> Measure:
    """The command, in this process."""

    def run(gateway: Gateway, out: Path) -> Done:
        code = main(arguments_for(gateway, out))
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def measure_for_real(gateway: Gateway, out: Path) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "bench.toolbench", *arguments_for(gateway, out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def verdicts(out: Path) -> dict[str, str]:
    (kept,) = out.glob("*.jsonl")
    return {row["name"]: row["verdict"] for row in map(json.loads, kept.read_text().splitlines())}


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("refuse", {"simple-weather": "no call", "irrelevance-sum": "right", "forced-any": "tool_call_missing"}),
        ("obey", {"simple-weather": "other arguments", "forced-named": "right", "irrelevance-sum": "needless call"}),
        ("broken", {"simple-weather": "tool_call_invalid", "forced-none": "right"}),
    ],
)
def test_the_ways_of_kimi_are_told_apart(
    gateway: Gateway, simulator: Simulator, tmp_path: Path, measure: Measure, behaviour: str, expected: dict[str, str]
) -> None:
    simulator.knobs(tools=behaviour, think="")
    done = measure(gateway, tmp_path)
    assert done.returncode == 0, done.stderr
    found = verdicts(tmp_path)
    assert len(found) == ALL and {name: found[name] for name in expected} == expected, found
    assert f"n={ALL}" in done.stdout and "95 % interval, Wilson" in done.stdout


def test_a_loop_is_right_if_the_files_are(
    gateway: Gateway, simulator: Simulator, tmp_path: Path, measure: Measure
) -> None:
    (bug,) = [loop for loop in LOOPS if loop.name == "loop-bug"]
    write = {"call": "write_file", "args": {"path": "b.py", "text": bug.after["b.py"]}}
    simulator.knobs(plan=json.dumps([{"call": "list_files"}, {"call": "read_file", "args": {"path": "b.py"}}, write]))
    assert measure(gateway, tmp_path).returncode == 0
    assert verdicts(tmp_path)["loop-bug"] == "right" and verdicts(tmp_path)["loop-copy"] == "other files"


def test_it_stops_where_the_account_is_limited_and_goes_on_from_there(
    quick: Gateway, simulator: Simulator, tmp_path: Path, measure: Measure
) -> None:
    simulator.knobs(fail="stream_pushing")
    done = measure_for_real(quick, tmp_path)
    assert done.returncode == 2 and "goes on from here" in done.stderr and not list(tmp_path.glob("*.jsonl"))
    quick.tables.let_cooldowns_end()
    simulator.knobs(fail="", tools="obey", think="")
    assert measure(quick, tmp_path).returncode == 0 and len(verdicts(tmp_path)) == ALL
    turns = simulator.state()["turns"]
    assert measure(quick, tmp_path).returncode == 0 and simulator.state()["turns"] == turns


def test_calls_may_come_in_any_order() -> None:
    task = Task("a-b", "?", [("f", {"a": 1}), ("g", {})])
    assert judge(task, [("g", {}), ("f", {"a": 1})], "") == "right"
    assert judge(task, [("g", {}), ("f", {"a": "1"})], "") == "other arguments"
    assert judge(task, [("g", {})], "") == "other calls"


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(54, 60)
    assert (round(low, 3), round(high, 3)) == (0.799, 0.953)
