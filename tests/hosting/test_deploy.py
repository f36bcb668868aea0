"""The files of deploy/: two gateways behind a real nginx, and what compose would start.

No container engine runs here: compose.yaml is read, and the same parts are started by hand.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import yaml

from app.settings.config import describe_settings
from bench.ports import reserved_port
from tests.running import ON_POSTGRESQL, ROOT, Running, Simulator, ask, mint, wait_until
from tests.running.databases import Database

DEPLOY = ROOT / "deploy"
NEEDS_NGINX = pytest.mark.skipif(not shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), reason="no nginx")


@contextmanager
def nginx(folder: Path, gateways: list[str], **seconds: int) -> Iterator[str]:
    """nginx with our file, in which only names, places and these timeouts are changed; its address."""
    port = reserved_port()
    text = (DEPLOY / "nginx.conf").read_text()
    for timeout, value in seconds.items():
        text, found = re.subn(rf"{timeout} \d+s;", f"{timeout} {value}s;", text)
        assert found, timeout
    for number, url in enumerate(gateways, start=1):
        text = text.replace(f"server gateway-{number}:8000", f"server {url.removeprefix('http://')}")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("/run/nginx.pid", str(folder / "pid"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    text = text.replace("access_log off;", f"access_log off; {places}")
    (folder / "nginx.conf").write_text(text)
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    # As many systems have it.
    few_files = ["sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh"]
    command = [*few_files, program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        wait_until("nginx listens", lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def say(url: str, text: str, conversation: str = "", **body: Any) -> requests.Response:
    path = "/v1/chat/completions" + (f"/{conversation}" if conversation else "")
    return requests.post(
        url + path,
        json={"model": "k2", "messages": [{"role": "user", "content": text}], **body},
        headers={"Authorization": "Bearer the-key"},
        stream=True,
        timeout=60,
    )


@NEEDS_NGINX
@ON_POSTGRESQL
def test_two_gateways_behind_nginx_are_one(
    running: Running, simulator: Simulator, tmp_path: Path, database: str
) -> None:
    shared = running.new_empty_database()
    with ExitStack() as stack:
        gateways = [stack.enter_context(two_of(running, simulator, shared)) for _ in range(2)]
        url = stack.enter_context(nginx(tmp_path, gateways))
        for number in range(6):
            assert say(url, f"word{number}", "shared").ok
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda i: say(url, "hello").ok, range(24)))
        answer = say(url, "what did I say", "shared").json()["choices"][0]["message"]["content"]
        assert all(f"word{number}" in answer for number in range(6))
        used = [len(re.findall(r"turn model=", log.read_text())) for log in running.logs[-2:]]
        assert all(used), "both gateways took part"
    assert len({turn.chat for turn in simulator.turns() if "word" in turn.text}) == 1


@contextmanager
def two_of(running: Running, simulator: Simulator, database: Database) -> Iterator[str]:
    with running.gateway(simulator.url, database=database, GATEWAY_API_KEYS="the-key") as gateway:
        yield gateway.url


@NEEDS_NGINX
def test_nginx_lets_events_through_as_they_come_and_tells_who_left(
    running: Running, simulator: Simulator, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(two_of(running, simulator, running.new_database()))
        url = stack.enter_context(nginx(tmp_path, [gateway, gateway]))
        simulator.knobs(gate="nginx", gate_after=1)
        with say(url, "hello", stream=True) as response:
            # The rest of the answer waits for us.
            events = response.iter_lines()
            assert any(b'"content"' in line for line in events)
            assert simulator.state()["open_streams"] == 1
        simulator.wait("open_streams", equals=0)


@NEEDS_NGINX
def test_a_gateway_that_is_away_is_passed_over_and_all_of_them_are_an_error(
    running: Running, simulator: Simulator, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{reserved_port()}"
    with ExitStack() as stack:
        gateway = stack.enter_context(two_of(running, simulator, running.new_database()))
        url = stack.enter_context(nginx(tmp_path, [nobody, gateway]))
        assert all(say(url, "hello").ok for _ in range(6))
        # What a gateway says passes as it is.
        refused = requests.get(f"{url}/v1/models", timeout=10)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    with ExitStack() as stack:
        url = stack.enter_context(nginx(tmp_path, [nobody, nobody]))
        away = say(url, "hello")
        assert (away.status_code, away.json()["error"]["code"]) == (503, "service_unavailable")
        assert away.headers["Retry-After"] == "5"


def converse(url: str, text: str, stream: bool) -> None:
    """A message in a conversation, by a client that repeats what may be repeated."""
    with openai.OpenAI(base_url=f"{url}/v1/conversations/trip", api_key="the-key") as client:
        answer = client.chat.completions.create(
            model="k2", messages=[{"role": "user", "content": text}], stream=stream
        )
        assert not stream or list(answer)


@NEEDS_NGINX
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_a_gateway_had_been_sent_when_it_was_killed_is_not_repeated(
    running: Running, simulator: Simulator, tmp_path: Path, stream: bool
) -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(
            running.gateway(simulator.url, GATEWAY_API_KEYS="the-key", COMMIT_AFTER_S="60", LEASE_S="2")
        )
        url = stack.enter_context(nginx(tmp_path, [gateway.url, gateway.url]))
        converse(url, "hello", stream)
        simulator.knobs(gate="killed", gate_after=0)
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(converse, url, "only once", stream)
            simulator.wait("open_streams", equals=1)
            (worker,) = gateway.process.children()
            os.kill(worker, signal.SIGKILL)
            simulator.open_gate("killed")
            with pytest.raises(openai.APIStatusError) as lost:
                said.result()
        assert (lost.value.status_code, lost.value.code) == (502, "gateway_lost")
        assert "may have received" in lost.value.message and "Retry-After" not in lost.value.response.headers
        wait_until("another worker runs", lambda: gateway.log().count(" ready version=") == 2)
    assert [turn.text.count("only once") for turn in simulator.turns()] == [0, 1]


@NEEDS_NGINX
def test_what_a_gateway_had_been_sent_that_stays_silent_is_not_repeated(
    running: Running, simulator: Simulator, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(two_of(running, simulator, running.new_database()))
        # The system takes the connection, and what is sent on it.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        url = stack.enter_context(nginx(tmp_path, [silent_url, gateway], proxy_read_timeout=1))
        with pytest.raises(openai.APIStatusError) as lost:
            converse(url, "hello", False)
        assert (lost.value.status_code, lost.value.code) == (502, "gateway_lost")
        with silent.accept()[0] as first, first.makefile("rb") as sent:
            assert b"hello" in sent.read()
    assert not simulator.turns()


@NEEDS_NGINX
def test_a_gateway_that_takes_no_connection_is_passed_over(
    running: Running, simulator: Simulator, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(two_of(running, simulator, running.new_database()))
        # Nobody takes connections from its line, and one that waits there fills it: the next gets no answer at all.
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        full_url = f"http://127.0.0.1:{full.getsockname()[1]}"
        url = stack.enter_context(nginx(tmp_path, [full_url, gateway], proxy_connect_timeout=1))
        assert all(say(url, "hello").ok for _ in range(6))
        assert len(simulator.turns()) == 6


@NEEDS_NGINX
def test_a_page_can_read_what_nginx_itself_says(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        url = stack.enter_context(nginx(tmp_path, [silent_url, silent_url], proxy_read_timeout=1))
        for method, size, status in (("POST", 9, 502), ("GET", 0, 503), ("POST", 18_000_000, 413)):
            answer = requests.request(
                method, f"{url}/v1/models", data=b"x" * size, headers={"Origin": "https://page.example"}, timeout=60
            )
            assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
            exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"retry-after", "x-should-retry"} <= set(exposed)


@NEEDS_NGINX
def test_nginx_has_files_for_all_its_connections_where_the_system_allows_few(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{reserved_port()}"
    (connections,) = re.findall(r"worker_connections (\d+);", (DEPLOY / "nginx.conf").read_text())

    def limits() -> list[int]:
        master = (tmp_path / "pid").read_text().strip()
        workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        texts = [Path(f"/proc/{worker}/limits").read_text() for worker in workers]
        return [int(limit) for text in texts for limit in re.findall(r"Max open files +(\d+)", text)]

    with nginx(tmp_path, [nobody, nobody]) as url:
        assert requests.get(url, timeout=10).status_code == 503
        wait_until("all may open more", lambda: min(limits()) > int(connections))


def test_nginx_waits_for_as_long_as_a_whole_answer_may_take() -> None:
    """Two turns, each with a time of its own: JSON that Kimi got wrong is sent back to it once."""
    (waits_s,) = re.findall(r"proxy_read_timeout (\d+)s;", (DEPLOY / "nginx.conf").read_text())
    (total_s,) = [setting.default for setting in describe_settings() if setting.name == "TOTAL_TIMEOUT_S"]
    assert int(waits_s) > 2 * int(total_s or 0)


def test_compose_starts_what_was_tried_here() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"gateway-1", "gateway-2", "nginx", "postgres"}
    known = {setting.name for setting in describe_settings()}
    for name in ("gateway-1", "gateway-2"):
        assert set(services[name]["environment"]) <= known
        assert f"server {name}:8000" in (DEPLOY / "nginx.conf").read_text()
    assert (ROOT / "deploy" / services["gateway-1"]["env_file"]).parent.resolve() == ROOT
    for service in services.values():
        for dependency in service.get("depends_on", {}):
            # The image of the gateways has its health check in the Dockerfile.
            assert dependency.startswith("gateway-") or "healthcheck" in services[dependency]
    assert "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text()
    # No secret stands in it: each comes from .env, and without it compose says so.
    for name in ("POSTGRES_PASSWORD", "GATEWAY_API_KEYS", "GATEWAY_SECRET"):
        assert f"${{{name}:?" in (DEPLOY / "compose.yaml").read_text()


def test_compose_starts_nginx_again_with_the_gateways_whose_addresses_it_has_looked_up() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert all(services["nginx"]["depends_on"][name]["restart"] for name in ("gateway-1", "gateway-2"))


def test_a_container_is_given_the_time_that_gunicorn_may_take_to_stop() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    gunicorn = (ROOT / "gunicorn.conf.py").read_text()
    (answers_s,) = re.findall(r"graceful_timeout = (\d+)", gunicorn)
    (renewals_s,) = re.findall(r"deadline = time.monotonic\(\) \+ (\d+)", gunicorn)
    for name, needed_s in (
        ("gateway-1", int(answers_s) + int(renewals_s)),
        ("gateway-2", int(answers_s) + int(renewals_s)),
        ("nginx", int(answers_s)),
    ):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > needed_s, name


def test_the_health_check_of_the_image_asks_the_gateway_itself(running: Running, simulator: Simulator) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M)
    _, *arguments = json.loads(command)
    nobody = f"http://127.0.0.1:{reserved_port()}"

    def is_well(url: str) -> bool:
        # Docker's own settings, or .env, may give all containers a proxy.
        env = {"PORT": url.rpartition(":")[2], "http_proxy": nobody}
        return (
            subprocess.run([sys.executable, *arguments], env=env, check=False, stderr=subprocess.DEVNULL).returncode
            == 0
        )

    with two_of(running, simulator, running.new_database()) as url:
        assert is_well(url)
    assert not is_well(nobody)


def test_stopping_a_container_waits_for_a_token_that_is_being_renewed(running: Running, simulator: Simulator) -> None:
    """gunicorn as the first process of its own world, as in a container: when it ends, all end with it."""
    if subprocess.run(["unshare", "-pf", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no process world of its own: needs root")
    simulator.knobs(refresh_delay_s=2)
    token = mint("alice", 7_776_000, "refresh")
    with running.gateway(simulator.url, server="container", KIMI_TOKENS=token) as gateway:
        # gunicorn loses a signal that comes while a worker is being started.
        gateway.wait_for_workers()
        wait_until("the refresh has been asked for", lambda: simulator.requests("RefreshToken"))
        (first,) = gateway.process.children()
        os.kill(first, signal.SIGTERM)
        gateway.process.popen.wait(60)
    assert gateway.tables.token_version() == 2
    simulator.knobs(refresh_delay_s=0)
    with running.gateway(simulator.url, database=gateway.database, KIMI_TOKENS=token) as again:
        assert ask(again, True).finish_reason == "stop"
    assert (simulator.state()["refreshes"], simulator.state()["stale_refreshes"]) == (1, 0)
