"""Whatever is sent: no 5xx, no HTML, no hang, and nothing that the OpenAPI document does not say.

schemathesis makes requests from ``/openapi.json``, right and wrong ones. Some 120 here; ``make fuzz``
makes 20,000 and more, of which FUZZ_EXAMPLES for each operation at random.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT, Gateway, Running, Simulator, wait_until

# Without the setting only at random; with it, every edge of every schema besides.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
PHASES = "examples,coverage,fuzzing" if EXAMPLES else "fuzzing"
AT_LEAST = 9 * EXAMPLES if EXAMPLES else 63


def _focused(document: dict[str, Any]) -> dict[str, Any]:
    """With models that there are, so that requests get far, and with schemas of answers and functions that Kimi's
    answer fits: what it says otherwise is its failure, and a true 502."""
    for schema in document["components"]["schemas"].values():
        fields = schema.get("properties", {})
        if "model" in fields:
            fields["model"]["enum"] = ["k2", "k1.5", "none"]
        if "schema" in fields:
            fields["schema"] = {"enum": [{}]}
        for name in ("parameters", "input_schema"):
            if name in fields:
                fields[name] = {"enum": [{}, _WEATHER]}
                fields["name"] = {"enum": ["weather", "read", "not a name"]}
    return document


_WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_request_is_too_odd(running: Running, simulator: Simulator, tmp_path: Path) -> None:
    simulator.knobs(record=False, say="{}", think="", tools="obey")
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", LOG_LEVEL="INFO") as gateway:
        document = tmp_path / "openapi.json"
        document.write_text(json.dumps(_focused(gateway.get("/openapi.json").json())))
        done = _fuzz(gateway, document, tmp_path, EXAMPLES or 5)
        print(done.stdout[-6000:], _refusals(gateway), sep="\n")  # noqa: T201  # pytest shows it where it fails
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        made = re.search(r"(\d+) generated", done.stdout)
        assert made is not None and int(made[1]) >= AT_LEAST, done.stdout[-2000:]
        assert "Traceback" not in gateway.log()
        simulator.wait("open_streams", equals=0)
        wait_until("nothing is held any more", lambda: gateway.get("/readyz").ok)


def _refusals(gateway: Gateway) -> str:
    """How often requests were refused, by status and code."""
    found = Counter(re.findall(r"request_refused status=(\d+) code=(\S+)", gateway.log()))
    return "\n".join(f"{times:6} {status} {code}" for (status, code), times in found.most_common())


# What a request about functions is made of; the rest would make nearly all of them a 400.
_ABOUT_TOOLS = (
    *("model", "max_tokens", "stream", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
    *("messages", "input", "n", "response_format", "thinking", "reasoning_effort"),
)
_PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


def _with_tools(document: dict[str, Any]) -> dict[str, Any]:
    """Requests that offer functions, with a short history that has calls in it or not."""
    document = _focused(document)
    document["paths"] = {path: document["paths"][path] for path in _PATHS}
    hello = {"role": "user", "content": "Hello"}
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    use = {"type": "tool_use", "id": "a", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "sunny"}
    item = {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": "sunny"}
    histories: dict[str, list[Any]] = {
        "/v1/chat/completions": [[hello], [hello, said, {"role": "tool", "tool_call_id": "a", "content": "sunny"}]],
        "/v1/messages": [
            [hello],
            [hello, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}],
        ],
        "/v1/responses": ["Hello", [hello, item, output]],
    }
    for path in _PATHS:
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        body = document["components"]["schemas"][name]
        body["properties"] = {key: value for key, value in body["properties"].items() if key in _ABOUT_TOOLS}
        said_in = "input" if path == "/v1/responses" else "messages"
        body["properties"]["model"] = {"enum": ["k2"]}
        body["properties"][said_in] = {"enum": histories[path]}
        body["properties"]["n"] = {"enum": [1, 2]} if path == "/v1/chat/completions" else {"type": "null"}
        body["properties"]["max_tokens"] = {"enum": [20, 4000]}
        offered = body["properties"]["tools"]["anyOf"][0]
        # Tools of the provider may be anything; the other test makes them.
        kinds = [kind for kind in offered["items"]["oneOf"] if not kind["$ref"].endswith(("OtherTool", "ServerTool"))]
        body["properties"]["tools"] = {"type": "array", "items": {"oneOf": kinds}, "minItems": 1, "maxItems": 2}
        body["required"] = ["model", said_in, "tools", *(["max_tokens"] if path == "/v1/messages" else [])]
        body["additionalProperties"] = False
    return document


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_request_with_functions_is_too_odd(running: Running, simulator: Simulator, tmp_path: Path) -> None:
    simulator.knobs(record=False, say="{}", think="", tools="obey")
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", LOG_LEVEL="INFO") as gateway:
        document = tmp_path / "openapi.json"
        document.write_text(json.dumps(_with_tools(gateway.get("/openapi.json").json())))
        done = _fuzz(gateway, document, tmp_path, EXAMPLES or 12)
        print(done.stdout[-6000:], _refusals(gateway), sep="\n")  # noqa: T201  # pytest shows it where it fails
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in gateway.log()
        # They were not all refused: calls came back.
        assert re.search(r" calls=[1-9]", gateway.log()), done.stdout[-3000:]
        simulator.wait("open_streams", equals=0)


def _fuzz(gateway: Gateway, document: Path, folder: Path, examples: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", gateway.url),
            *("--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"),
            *("--phases", PHASES, "--max-examples", str(examples)),
            # One thread: two that parse Python at once may end in a SystemError ("AST constructor recursion depth
            # mismatch"). CPython 3.11 counts the depth for all threads together, and Hypothesis' callback of the
            # garbage collector lets the other thread in.
            *("--request-timeout", "20", "--workers", "1", "--no-color", "--continue-on-failure"),
            *("--generation-database", "none", "--suppress-health-check", "all", "--seed", "1"),
        ],
        cwd=folder,
        # Hypothesis keeps its tables of Unicode in a folder, and reads them there; to make them takes seconds.
        env={**os.environ, "PYTHONWARNINGS": "ignore", "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
        capture_output=True,
        text=True,
        timeout=7100,
        check=False,
    )
