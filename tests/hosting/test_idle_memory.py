"""What an idle gateway has loaded, and so its memory. ``python -m bench.idle`` measures that."""

from pathlib import Path

import requests

from tests.running.answers import ask
from tests.running.running import Running
from tests.running.simulator import Simulator

_CONFIGURATION = "tests/hosting/listing_modules.py"

# Each takes memory, and is needed by few gateways or few requests.
_LOADED_WHEN_NEEDED = {
    *("app.cli", "app.console.site", "app.api.completions.body", "app.api.messages.body", "app.api.responses.body"),
    *("cryptography", "jsonschema_rs", "prometheus_client", "psycopg", "sqlalchemy.orm", "unittest"),
}
# Hardly anything of what the master loads stays shared with the workers.
_NOT_IN_THE_MASTER = {"app.chat", "app.hosting.worker", "app.store", "flask", "gevent", "requests", "sqlalchemy"}


def test_a_gateway_loads_late_what_few_need(running: Running, simulator: Simulator, tmp_path: Path) -> None:
    arguments = f"-c {_CONFIGURATION}"
    with running.gateway(
        simulator.url, server="gevent", GUNICORN_CMD_ARGS=arguments, MODULES_FOLDER=str(tmp_path)
    ) as gateway:
        assert requests.get(f"{gateway.url}/readyz", timeout=120).ok
        assert ask(gateway, stream=True).finish_reason == "stop"
    worker, master = ((tmp_path / name).read_text().split() for name in ("worker", "master"))
    assert {"app.factory", "app.api.chat_completions.body"} <= set(worker)
    assert not _LOADED_WHEN_NEEDED.intersection(worker)
    assert not _NOT_IN_THE_MASTER.intersection(master)
