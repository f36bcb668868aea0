"""Whatever is sent: no 5xx, no HTML, no hang, and nothing that the OpenAPI document does not say.

schemathesis makes requests from ``/openapi.json``, right and wrong ones. A few hundred here; ``make fuzz``
makes 20,000 and more, of which FUZZ_EXAMPLES for each operation at random.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running import Gateway, Running, Simulator, wait_until

# Without the setting only at random; with it, every edge of every schema besides.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
PHASES = "examples,coverage,fuzzing" if EXAMPLES else "fuzzing"
AT_LEAST = 9 * EXAMPLES if EXAMPLES else 300


def _focused(document: dict[str, Any]) -> dict[str, Any]:
    """With models that there are, so that requests get far, and with an answer's schema that Kimi's answer fits:
    what it says otherwise is its failure, and a true 502."""
    for schema in document["components"]["schemas"].values():
        fields = schema.get("properties", {})
        if "model" in fields:
            fields["model"]["enum"] = ["k2", "k1.5", "none"]
        if "schema" in fields:
            fields["schema"] = {"enum": [{}]}
    return document


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_request_is_too_odd(running: Running, simulator: Simulator, tmp_path: Path) -> None:
    simulator.knobs(record=False, say="{}", think="")
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", LOG_LEVEL="INFO") as gateway:
        document = tmp_path / "openapi.json"
        document.write_text(json.dumps(_focused(gateway.get("/openapi.json").json())))
        done = _fuzz(gateway, document, tmp_path)
        print(done.stdout[-6000:])  # noqa: T201  # pytest shows it where it fails
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        made = re.search(r"(\d+) generated", done.stdout)
        assert made is not None and int(made[1]) >= AT_LEAST, done.stdout[-2000:]
        assert "Traceback" not in gateway.log()
        simulator.wait("open_streams", equals=0)
        wait_until("nothing is held any more", lambda: gateway.get("/readyz").ok)


def _fuzz(gateway: Gateway, document: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", gateway.url),
            *("--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"),
            *("--phases", PHASES, "--max-examples", str(EXAMPLES or 36)),
            *("--request-timeout", "20", "--workers", "2", "--no-color", "--continue-on-failure"),
            *("--generation-database", "none", "--suppress-health-check", "all", "--seed", "1"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=7100,
        check=False,
    )
