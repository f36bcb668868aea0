"""``bench.victim`` in its short form: one attack of each kind beside a stream that must not notice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT


@pytest.mark.long
def test_no_attack_holds_a_worker_or_fills_its_memory(tmp_path: Path) -> None:
    """By CPU time: other tests run on the same cores."""
    out = tmp_path / "victim.json"
    command = ["-m", "bench.victim", "--short", "--busy", "--seconds", "1.5", "--json", str(out)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(out.read_text())["cases"]
    assert len(cases) == 7
    assert all(case["new"]["attack_mb"] > 0 for case in cases.values()), "an attack has done nothing"
