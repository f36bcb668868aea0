"""Requests as ten programs sent them (``tests/data/frontends``), each in both modes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.running import Gateway, Share, Simulator

FOLDER = Path(__file__).parents[1] / "data" / "frontends"
RECORDED = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
# The key in the recordings.
KEY = "sk-REMOVED"
# Written by the HTTP library of the test.
_OF_THE_CONNECTION = {"host", "connection", "content-length", "accept-encoding", "transfer-encoding"}
# The last events of a whole answer, by API.
ENDS = {"chat/completions": "data: [DONE]", "completions": "data: [DONE]", "responses": "response.completed"}
ENDS |= {"messages": "message_stop"}


@pytest.fixture
def keyed(shared_gateway: Share, simulator: Simulator) -> Gateway:
    return shared_gateway(GATEWAY_API_KEYS=KEY)


def expected(recorded: dict[str, Any]) -> set[int]:
    """The recordings were made when images could not be sent, and are of failures, too, which no simulated Kimi makes
    here."""
    if "image_url" in json.dumps(recorded["body"]):
        return {200, 400, 404}
    answered = recorded["answered"]
    # The client left; JSON was asked for, and Kimi did not write it.
    return {200} if answered in (None, 502) else {answered}


def modes(body: Any) -> list[bool | None]:
    """As it was sent, and in the other mode."""
    if not isinstance(body, dict) or "model" not in body:
        return [None]
    return [bool(body.get("stream")), not body.get("stream")]


@pytest.mark.parametrize("name", list(RECORDED))
def test_what_programs_send_is_answered(keyed: Gateway, simulator: Simulator, name: str) -> None:
    # Without what told the simulator of that time how to answer.
    recorded = json.loads(re.sub(r"\[\[sim.*?\]\]", "", RECORDED[name].read_text()))
    headers = {name: text for name, text in recorded["headers"].items() if name not in _OF_THE_CONNECTION}
    if recorded["answered"] == 502:
        simulator.knobs(say='{"title": "Tea", "language": "English"}')
    for stream in modes(recorded["body"]):
        body = recorded["body"]
        if stream is not None and stream != bool(body.get("stream")):
            # Options of a stream belong to one.
            body = {field: value for field, value in body.items() if field != "stream_options"} | {"stream": stream}
        answer = requests.request(
            recorded["method"],
            keyed.url + recorded["path"],
            headers=headers,
            data=None if body is None else json.dumps(body),
            timeout=60,
        )
        assert answer.status_code in expected(recorded), answer.text
        if recorded["headers"].get("origin"):
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"] and answer.headers["x-should-retry"] == "false"
        elif stream:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            endpoint = recorded["path"].removeprefix("/v1/").partition("?")[0]
            assert ENDS[endpoint] in answer.text and '"error":{' not in answer.text
        elif answer.status_code == 200:
            assert answer.json().get("error") is None
        # Functions have an effect by now, and images are sent.
        if answer.ok and recorded["ignored"] != "tools" and "image_url" not in json.dumps(body):
            assert answer.headers.get("x-ignored-params") == recorded["ignored"]


def test_there_are_sixty_one_of_them_without_keys_or_paths() -> None:
    assert len(RECORDED) == 61
    for path in RECORDED.values():
        text = path.read_text()
        keys = re.findall(r"(?:Bearer |\"x-api-key\": \")([^\"]+)", text)
        assert set(keys) <= {KEY}, path.name
        assert not re.search(r"/(?:home|root|tmp|Users)/", text), path.name
