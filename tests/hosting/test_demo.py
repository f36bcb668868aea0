"""`make demo`: the first thing that a newcomer sees."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.running import Process, wait_until

# `curl -N URL -d 'BODY'`, as the demo prints it.
_COMMAND = re.compile(r"curl (?:-N )?(http://127\.0\.0\.1:\d+)(\S+) -d '(.*?)'\n", re.DOTALL)


@contextmanager
def demo(folder: Path, port: int) -> Iterator[Process]:
    env = {"PATH": os.environ["PATH"], "PORT": str(port)}
    process = Process(["-m", "app.hosting.demo"], env, folder / "demo.log")
    try:
        wait_until("the demo is ready", lambda: "Ctrl-C" in process.log.read_text() or not process.runs, 60)
        yield process
    finally:
        process.stop()


def test_each_command_that_the_demo_prints_works_and_it_warns_of_nothing(tmp_path: Path) -> None:
    # Somebody else listens there, so the demo takes another port.
    with socket.create_server(("127.0.0.1", 0)) as other, demo(tmp_path, other.getsockname()[1]) as process:
        output = process.log.read_text()
        answers = [
            requests.post(url + path, data=body.encode(), timeout=30) for url, path, body in _COMMAND.findall(output)
        ]
        stream, _, memory = answers
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.text.count("data: ") > 3 and stream.text.endswith("data: [DONE]\n\n")
        assert "My cat is called Ada" in json.loads(memory.text)["choices"][0]["message"]["content"]
        assert "WARNING" not in process.log.read_text(), output
    assert "The demo has ended" in process.log.read_text()
