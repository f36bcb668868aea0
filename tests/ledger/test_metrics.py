"""``/metrics``: figures of the whole gateway, who may read them, and what the files in ``deploy/`` ask for."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.running import BOTH_DATABASES, CANARY, ROOT, Gateway, Running, Share, Simulator, seldom, wait_until

_KEY = "sk-of-ann-0123456789"
_METRICS_KEY = "what-prometheus-sends"
_SAMPLE = tuple[str, tuple[tuple[str, str], ...]]


def read(gateway: Gateway, **headers: str) -> dict[_SAMPLE, float]:
    """Name and labels → value."""
    response = requests.get(f"{gateway.url}/metrics", headers=headers, timeout=30)
    assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(response.text)
        for sample in family.samples
    }


def total(figures: dict[_SAMPLE, float], name: str, **labels: str) -> float:
    return sum(n for (of, at), n in figures.items() if of == name and labels.items() <= dict(at).items())


def ask(gateway: Gateway, number: int, **body: Any) -> None:
    said = {"model": gateway.model, "messages": [{"role": "user", "content": f"hello {CANARY}"}], **body}
    gateway.chat(said, headers={"Authorization": f"Bearer {_KEY}"})


def read_when(gateway: Gateway, requests_: int, **labels: str) -> dict[_SAMPLE, float]:
    """The figures, once so many requests with these labels are in them."""
    found: dict[_SAMPLE, float] = {}

    def are_there() -> bool:
        found.clear()
        found.update(read(gateway))
        return total(found, "kimi_gateway_requests_total", **labels) >= requests_

    wait_until("the requests are counted", seldom(are_there))
    return found


def knows_processes(gateway: Gateway, number: int) -> bool:
    return total(read(gateway), "kimi_gateway_processes") == number


@BOTH_DATABASES
def test_figures_are_those_of_all_workers_and_go_on_after_a_restart(
    running: Running, simulator: Simulator, database: str
) -> None:
    shared = running.new_database()
    settings: dict[str, Any] = {"WEB_CONCURRENCY": "2", "GATEWAY_API_KEYS": f"ann={_KEY}", "LEASE_S": "1"}
    for start in range(2):
        with running.gateway(simulator.url, database=shared, **settings) as gateway:
            gateway.wait_for_workers()
            for number in range(10):
                ask(gateway, number)
            ask(gateway, 10, model="gpt-9")
            figures = read_when(gateway, 11 * (start + 1))
            wait_until("both workers are seen", seldom(partial(knows_processes, gateway, 2)))
        ended = 10.0 * (start + 1)
        assert total(figures, "kimi_gateway_requests_total", end="stop", api="chat", status_class="2xx") == ended
        assert total(figures, "kimi_gateway_key_requests_total", key="ann", outcome="ok") == ended
        assert total(figures, "kimi_gateway_upstream_attempts_total", outcome="ok") == ended
        for histogram in ("time_to_first_token", "time_per_output_token"):
            assert total(figures, f"gen_ai_server_{histogram}_seconds_count", gen_ai_request_model="k2") == ended
        duration = "gen_ai_server_request_duration_seconds"
        assert total(figures, f"{duration}_count") == total(figures, f"{duration}_bucket", le="+Inf") == ended * 1.1
        assert total(figures, f"{duration}_count", error_type="request", gen_ai_request_model="other") == start + 1
        assert total(figures, "kimi_gateway_account_state") == 3
        assert {dict(at)["account"] for (of, at) in figures if of == "kimi_gateway_account_capacity"} == {
            "alice",
            "bob",
            "carol",
        }


@pytest.fixture
def gateway(shared_gateway: Share) -> Gateway:
    return shared_gateway(GATEWAY_API_KEYS=f"ann={_KEY}", LEASE_S="1")


def test_what_runs_and_what_failed_is_there(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="http_429", fail_at="turn", fail_times=1, retry_after="600")
    # No other test of this gateway gets an answer.
    ask(gateway, 0)
    figures = read_when(gateway, 1, api="chat", status_class="2xx")
    assert total(figures, "kimi_gateway_failovers_total", code="rate_limit_exceeded") >= 1
    assert total(figures, "kimi_gateway_account_state", state="cooling") == 1
    assert 500 < total(figures, "kimi_gateway_account_cooldown_seconds", scope="all") <= 800


def test_no_label_holds_a_word_of_a_client(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {_KEY}", "User-Agent": "secret-agent/7.0", "x-request-id": "secret-id"}
    before = int(total(read(gateway), "kimi_gateway_requests_total"))
    gateway.chat({"model": "secret-model", "messages": [{"role": "user", "content": CANARY}]}, headers=headers)
    gateway.say("x", "secret-conversation")
    gateway.get("/secret-path")
    read_when(gateway, before + 3)
    text = requests.get(f"{gateway.url}/metrics", timeout=30).text
    assert "secret" not in text and CANARY not in text and _KEY not in text and "127.0.0.1" not in text


def test_openmetrics_is_spoken_where_it_is_asked_for(gateway: Gateway) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = requests.get(f"{gateway.url}/metrics", headers=accept, timeout=30)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    families = openmetrics(response.text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"kimi_gateway_requests", "kimi_gateway_info"}


# Access

_ELSEWHERE = {
    "through a proxy": {"X-Forwarded-For": "203.0.113.7"},
    "by another name of this machine": {"Host": "gateway.example.org"},
    "from a page": {"Origin": "https://page.example"},
    "from a page with an API key": {"Origin": "https://page.example", "Authorization": f"Bearer {_KEY}"},
}


@pytest.mark.parametrize("headers", _ELSEWHERE.values(), ids=_ELSEWHERE)
def test_without_a_key_of_its_own_it_is_there_for_this_machine_only(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    response = requests.get(f"{gateway.url}/metrics", headers=headers, timeout=30)
    unknown = requests.get(f"{gateway.url}/no-such-thing", headers=headers, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    assert response.json()["error"]["message"].replace("/metrics", "") == unknown.json()["error"]["message"].replace(
        "/no-such-thing", ""
    )
    assert "Access-Control-Allow-Origin" not in response.headers


def ways_in() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "nothing", {}
    yield "an empty bearer", {"headers": {"Authorization": "Bearer "}}
    yield "another key", {"headers": {"Authorization": "Bearer wrong"}}
    yield "a longer one", {"headers": {"Authorization": f"Bearer {_METRICS_KEY}x"}}
    yield "an API key", {"headers": {"Authorization": f"Bearer {_KEY}"}}
    yield "another header", {"headers": {"x-api-key": _METRICS_KEY}}
    yield "in the URL", {"params": {"key": _METRICS_KEY}}
    yield "as a password", {"auth": ("", _METRICS_KEY)}


def test_with_a_key_only_that_key_opens_it(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {"METRICS_KEY": _METRICS_KEY, "GATEWAY_API_KEYS": f"ann={_KEY}"}
    with running.gateway(simulator.url, **settings) as gateway:
        gateway.wait_for_workers()
        for name, arguments in ways_in():
            response = requests.get(f"{gateway.url}/metrics", timeout=30, **arguments)
            assert response.status_code == 401 and "kimi_gateway" not in response.text, name
        headers = {"Authorization": f"Bearer {_METRICS_KEY}"}
        for far in _ELSEWHERE.values():
            assert requests.get(f"{gateway.url}/metrics", headers={**far, **headers}, timeout=30).ok
        models = requests.get(f"{gateway.url}/v1/models", headers=headers, timeout=30)
        assert models.status_code == 401
        preflight = requests.options(
            f"{gateway.url}/metrics",
            headers={"Origin": "https://page.example", "Access-Control-Request-Method": "GET"},
            timeout=30,
        )
        assert "Access-Control-Allow-Origin" not in preflight.headers
        assert _METRICS_KEY not in gateway.log()
        assert "/metrics" not in requests.get(f"{gateway.url}/openapi.json", timeout=30).json()["paths"]


# The files in deploy/

_NAME = re.compile(r"\b(?:gen_ai_server|kimi_gateway)_[a-z_]+")


def queries() -> dict[str, str]:
    """Of the dashboard and of the alerts, by where they stand."""
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    panels = [p for panel in dashboard["panels"] for p in (panel, *panel.get("panels", ()))]
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", ())
    }
    found |= {variable["name"]: str(variable["query"]) for variable in dashboard["templating"]["list"]}
    alerts = (ROOT / "deploy/alerts.yaml").read_text()
    found |= {f"alert {number}": text for number, text in enumerate(alerts.split("- alert:")[1:])}
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")
    return found


def test_every_query_of_the_dashboard_and_the_alerts_asks_for_what_there_is(gateway: Gateway) -> None:
    text = requests.get(f"{gateway.url}/metrics", timeout=30).text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    known = {
        f"{name}{end}" for name, kind in kinds.items() if kind == "histogram" for end in ("_bucket", "_sum", "_count")
    }
    known |= {name for name, kind in kinds.items() if kind != "histogram"}
    asked = {name for query in queries().values() for name in _NAME.findall(query)}
    assert asked - known == set() and len(asked) > 25
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {name for name in kinds if name not in shown} <= {"kimi_gateway_request_log_rows"}


def test_prometheus_itself_accepts_rules_and_figures(gateway: Gateway) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        # Where there is none, the names have been compared above.
        return
    rules = subprocess.run(
        [promtool, "check", "rules", Path(ROOT, "deploy/alerts.yaml")], capture_output=True, timeout=60
    )
    assert rules.returncode == 0, rules.stderr
    text = requests.get(f"{gateway.url}/metrics", timeout=30).content
    figures = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert figures.returncode == 0, figures.stdout + figures.stderr


@contextmanager
def prometheus(program: str, gateway: Gateway, folder: Path) -> Iterator[str]:
    """A Prometheus that asks the gateway each second and has the rules of deploy/; its address."""
    rules = (ROOT / "deploy/alerts.yaml").read_text()
    (folder / "alerts.yaml").write_text(rules)
    scrape = {
        "job_name": "kimi-gateway",
        "static_configs": [{"targets": [gateway.url.removeprefix("http://")]}],
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "alerts.yaml")],
        "scrape_configs": [scrape],
    }
    # JSON is YAML, too.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_a_real_prometheus_reads_the_figures_and_evaluates_every_query(
    gateway: Gateway, simulator: Simulator, tmp_path: Path
) -> None:
    program = shutil.which("prometheus")
    if program is None:
        # Where there is none, the names have been compared above.
        return
    ask(gateway, 1)
    with prometheus(program, gateway, tmp_path) as url:

        def get(path: str, **parameters: str) -> Any:
            try:
                return requests.get(f"{url}/api/v1/{path}", params=parameters, timeout=30).json()
            except (requests.ConnectionError, ValueError):
                return {"data": {}}

        def evaluate(expression: str) -> list[Any]:
            reply = get("query", query=expression)
            assert reply.get("status") == "success", (expression, reply)
            assert not reply.get("warnings"), (expression, reply)
            result: list[Any] = reply["data"]["result"]
            return result

        up = "kimi_gateway_account_state"
        wait_until(
            "it has asked twice", lambda: bool(get("query", query=f"rate({up}[1m])")["data"].get("result")), 60
        )
        shown = {}
        for place, expression in queries().items():
            if place.startswith("alert ") or not _NAME.search(expression) or "label_values" in expression:
                continue
            for variable, value in {"$account": ".*", "$model": ".*", "$__rate_interval": "1m"}.items():
                expression = expression.replace(variable, value)
            shown[place] = evaluate(expression)
        assert len(shown) > 25
        # What has been asked is in the pictures of times, ends and states.
        assert sum(bool(result) for result in shown.values()) > len(shown) / 2, shown

        def rules() -> list[Any]:
            groups = get("rules")["data"].get("groups", [])
            return [rule for group in groups for rule in group["rules"]]

        wait_until("the rules are evaluated", lambda: rules() and all(r["health"] == "ok" for r in rules()), 60)
        (target,) = get("targets")["data"]["activeTargets"]
        assert target["health"] == "up" and not target["lastError"]
