"""The simulator as Kimi of September 2026: what of it no request of the gateway shows (``kimi-protocol-2.md`` 7).

The rows of that section are named in brackets.
"""

import base64
import hashlib
import json
from typing import Any

import pytest
import requests

from app.upstreams.kimi.http import X_MSH_VERSION
from tests.running import CONNECT_STREAM, Simulator, frame, mint

SEPTEMBER = pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)

_CHAT = "apiv2/kimi.gateway.chat.v1.ChatService/Chat"
_MODELS = "apiv2/kimi.gateway.config.v1.ConfigService/GetAvailableModels"
_PROGRESS = "apiv2-files/kimi.gateway.file.v1.FileService/GetFileParseProgress"
_REFRESH_R1 = "api/auth/token/refresh"
_REFRESH_R2 = "api/account.gateway.v1.AuthService/RefreshToken"

PICTURE, PAPER = ("chart.png", b"\x89PNG of rain", "image/png"), ("report.pdf", b"%PDF of rain", "application/pdf")
EACH_KIND = pytest.mark.parametrize("file", [PICTURE, PAPER], ids=["picture", "document"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# One account for all calls that need one.
LOGIN = bearer(mint("alice", site="kimi.ai"))


def call(simulator: Simulator, path: str, body: object, headers: dict[str, str] = LOGIN) -> requests.Response:
    return requests.post(f"{simulator.url}/{path}", json=body, headers=headers, timeout=60)


def upload(simulator: Simulator, file: tuple[str, bytes, str]) -> requests.Response:
    url = f"{simulator.url}/apiv2-files/file/upload"
    return requests.post(url, files={"file": file}, headers=LOGIN, timeout=60)


def turn(*blocks: dict[str, Any]) -> bytes:
    message = {"role": "user", "scenario": "SCENARIO_CHAT", "blocks": list(blocks)}
    return frame({"scenario": "SCENARIO_CHAT", "tools": [], "message": message, "options": {"model": "k2d6-chat"}})


def frames_of(answer: requests.Response) -> list[dict[str, Any]]:
    body, frames = answer.content, []
    while body:
        size = 5 + int.from_bytes(body[1:5], "big")
        frames.append(json.loads(body[5:size]))
        body = body[size:]
    return frames


def ask(simulator: Simulator, body: bytes, headers: dict[str, str] = LOGIN) -> list[dict[str, Any]]:
    """The frames of the answer without heartbeats."""
    answer = requests.post(f"{simulator.url}/{_CHAT}", body, headers={**CONNECT_STREAM, **headers}, timeout=60)
    assert answer.ok, answer.text
    return [found for found in frames_of(answer) if "heartbeat" not in found]


# Tokens


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


@SEPTEMBER
@pytest.mark.parametrize("path", [_REFRESH_R1, _REFRESH_R2])
def test_tokens_name_their_site_and_live_for_15_minutes(simulator: Simulator, path: str) -> None:
    """K1, K2."""
    pair = call(simulator, path, {"refresh_token": mint("alice", 7_776_000, "refresh", site="kimi.ai")}, {}).json()
    for name, kind, lifetime_s in (("access", "access", 900), ("refresh", "refresh", 7_776_000)):
        said = claims(pair.get(f"{name}Token") or pair[f"{name}_token"])
        assert (said["iss"], said["aud"], said["typ"]) == ("account", ["kimi.ai"], kind)
        assert (said["membership"], said["code_membership"]) == ({"level": 10}, {"level": 10})
        assert said["exp"] - said["iat"] == lifetime_s
    before = claims(mint("alice"))
    assert before["iss"] == "user-center" and not {"aud", "membership"} & before.keys()


@SEPTEMBER
@pytest.mark.parametrize("spelling", ["refresh_token", "refreshToken"])
def test_a_used_refresh_token_works_once_more_where_kimi_allows_that(simulator: Simulator, spelling: str) -> None:
    """K19, in either spelling."""
    for grace_s, statuses in ((0, [200, 401, 401]), (60, [200, 200, 401])):
        simulator.knobs(refresh_grace_s=grace_s)
        body = {spelling: mint("alice", 7_776_000, "refresh", site="kimi.ai")}
        assert [call(simulator, _REFRESH_R2, body, {}).status_code for _ in statuses] == statuses


@SEPTEMBER
def test_a_cookie_is_no_login(simulator: Simulator) -> None:
    """K17."""
    cookie = {"Cookie": f"kimi-auth={mint('alice', site='kimi.ai')}"}
    body, headers = turn({"text": {"content": "hello"}}), {**CONNECT_STREAM, **cookie}
    assert requests.post(f"{simulator.url}/{_CHAT}", body, headers=headers, timeout=60).status_code == 401
    assert call(simulator, _PROGRESS, {"file_ids": []}, cookie).status_code == 401


# Models and turns


@SEPTEMBER
def test_the_version_decides_which_models_anybody_is_shown(simulator: Simulator) -> None:
    """K5, K13."""

    def listed(**headers: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = call(simulator, _MODELS, {}, headers).json()["availableModels"]
        return found

    new = listed(**{"x-msh-version": X_MSH_VERSION})
    assert [entry["id"] for entry in new] == ["k2d6-chat", "k28-agent-preview", "k3-agent", "k3-agent-swarm"]
    for old in (listed(), listed(**{"x-msh-version": "1.0.0"})):
        assert all("id" not in entry for entry in old)


@SEPTEMBER
def test_a_model_is_named_by_its_id(simulator: Simulator) -> None:
    """K3, K4: not by its key; and the swarm has a scenario of its own."""

    def answers(model: str, scenario: str, **more: str) -> bool:
        message = {"role": "user", "blocks": [{"text": {"content": "hello"}}]}
        body = {"scenario": scenario, "message": message, "options": {"model": model}, **more}
        return "done" in str(ask(simulator, frame(body)))

    assert answers("k2d6-chat", "SCENARIO_CHAT") and not answers("k2d6", "SCENARIO_CHAT")
    assert answers("k3-agent", "SCENARIO_OK_COMPUTER") and not answers("k3", "SCENARIO_OK_COMPUTER")
    assert not answers("k2d6-chat", "SCENARIO_K2D6")
    for swarm, is_taken in (("both", True), ("new", False)):
        simulator.knobs(swarm=swarm)
        assert answers("k3-agent-swarm", "SCENARIO_OK_COMPUTER_SWARM", agentMode="TYPE_ULTRA")
        assert answers("k3-agent-swarm", "SCENARIO_OK_COMPUTER", agentMode="TYPE_ULTRA") is is_taken


@SEPTEMBER
def test_a_turn_needs_no_version_of_connect(simulator: Simulator) -> None:
    """K14: the gateway sends one all the same."""
    assert {"eventOffset", "done"} <= ask(simulator, turn({"text": {"content": "hello"}}))[-2].keys()


# Files


@SEPTEMBER
@EACH_KIND
def test_an_upload_is_answered_without_a_status(simulator: Simulator, file: tuple[str, bytes, str]) -> None:
    """K7."""
    name, content, media_type = file
    answer = upload(simulator, file).json()["file"]
    is_picture = media_type.startswith("image/")
    assert answer.keys() == {"id", "meta", "blob", *(["parseResult"] if is_picture else [])}
    meta = answer["meta"]
    assert meta.pop("createTime").endswith("Z")
    assert meta == {
        "name": name,
        "contentType": media_type,
        "sizeBytes": str(len(content)),
        "checksum": hashlib.sha256(content).hexdigest(),
        "ext": name.rpartition(".")[2],
        "type": "FILE_TYPE_IMAGE" if is_picture else "FILE_TYPE_DOCUMENT",
    }
    assert requests.get(answer["blob"]["signUrl"], timeout=60).content == content


@SEPTEMBER
@EACH_KIND
def test_pictures_are_read_in_steps_like_documents(simulator: Simulator, file: tuple[str, bytes, str]) -> None:
    """K8."""
    file_id = upload(simulator, file).json()["file"]["id"]
    for name in ("PROCESSING", "SUCCESS", "SUCCESS"):
        told = call(simulator, _PROGRESS, {"file_ids": [file_id, "unknown"]}).json()
        assert told == {"progresses": [{"fileId": file_id, "status": f"PROCESS_STATUS_{name}"}]}


@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
@pytest.mark.parametrize("kind", ["image", "file"])
def test_the_older_service_reads_pictures_too(simulator: Simulator, kind: str) -> None:
    """K9."""
    login = bearer(mint("alice"))
    file_id = call(simulator, "api/pre-sign-url", {"action": kind, "name": "rain.png"}, login).json()["file_id"]
    assert call(simulator, "api/file", {"type": kind, "name": "rain.png", "file_id": file_id}, login).ok
    told = call(simulator, "api/file/parse_process", {"ids": [file_id]}, login).text
    events = [json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line]
    assert [event["status"] for event in events] == ["parsing", "parsed"]


@SEPTEMBER
@pytest.mark.parametrize(
    "status", [{}, {"status": "PROCESS_STATUS_SUCCESS"}, {"status": 3, "fail_reason": ""}], ids=str
)
def test_a_turn_takes_files_in_each_form_and_order(simulator: Simulator, status: dict[str, Any]) -> None:
    """K10, K11: the frame with the files moves the numbers of all that follow."""
    file_id = upload(simulator, PICTURE).json()["file"]["id"]
    text, picture = {"message_id": "", "text": {"content": "What is it?"}}, {"file": {"id": file_id, **status}}
    for blocks in ((text, picture), (picture, text)):
        chat, files, echo, *_ = ask(simulator, turn(*blocks))
        assert [found["eventOffset"] for found in (chat, files, echo)] == [1, 2, 3]
        assert (files["op"], files["mask"]) == ("append", "chat.files")
        assert [found["id"] for found in files["chat"]["files"]] == [file_id]
        assert [*echo["message"]["blocks"][0]][-1] == "text" and echo["message"]["blocks"][1]["file"]["id"] == file_id
    _, echo, *_ = ask(simulator, turn(text))
    assert echo["eventOffset"] == 2 and echo["message"]["role"] == "user"


@SEPTEMBER
def test_a_file_has_a_size_at_most(simulator: Simulator) -> None:
    """K20: which one is not certain."""
    simulator.knobs(upload_max_bytes=1000)
    assert upload(simulator, ("log.txt", b"x" * 1000, "text/plain")).ok
    refused = upload(simulator, ("log.txt", b"x" * 1001, "text/plain"))
    assert (refused.status_code, refused.json()["code"]) == (413, "invalid_argument")
