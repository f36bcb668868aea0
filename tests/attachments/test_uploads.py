"""How attachments reach an account of Kimi: waiting, failing, switching, remembering."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.attachments.samples import CHAT, OTHER_PNG, PDF, PNG, TEXT, Sample, seen
from tests.attachments.test_attachments import streamed_text, text_of
from tests.running import (
    CANARY,
    EACH_GENERATION,
    SHIPPED,
    Answer,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    mint,
    wait_until,
)
from tests.running.commands import run_command

UPLOADS = {"sse-2025": "/api/pre-sign-url", "connect-2026-09": "/apiv2-files/file/upload"}


def named(sample: Sample, name: str) -> dict[str, object]:
    return {"type": "file", "file": {"file_data": sample.url, "filename": name}}


def uploads(simulator: Simulator) -> list[str]:
    """The accounts that were sent files, in order."""
    return [one["owner"] for one in simulator.state()["uploads"]]


@EACH_GENERATION
def test_the_same_picture_is_uploaded_once_for_each_account(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice,bob", **SHIPPED)
    for _ in range(6):
        assert PNG.digest in text_of(gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG))), CHAT)
    assert sorted(uploads(simulator)) == ["alice", "bob"]
    # Under another name Kimi may read it as something else.
    assert gateway.chat(CHAT.ask(gateway.model, named(PNG, "other.png"))).ok
    assert len(uploads(simulator)) == 3


@EACH_GENERATION
def test_a_file_that_kimi_has_forgotten_is_uploaded_again(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED)
    assert gateway.chat(CHAT.ask(gateway.model, CHAT.part(PDF))).ok
    # Forgets its files.
    simulator.reset()
    said = text_of(gateway.chat(CHAT.ask(gateway.model, CHAT.part(PDF), CHAT.part(PNG))), CHAT)
    assert PDF.arrived() in said and PNG.digest in said
    assert "files_forgotten" in gateway.log()
    before = len(uploads(simulator))
    assert gateway.chat(CHAT.ask(gateway.model, CHAT.part(PDF), CHAT.part(PNG))).ok
    assert len(uploads(simulator)) == before


@EACH_GENERATION
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_another_account_gets_the_files_again(shared_gateway: Share, simulator: Simulator, stream: bool) -> None:
    gateway = shared_gateway(users="alice,bob", **SHIPPED)
    simulator.knobs(fail="account_abnormal", fail_at="turn", fail_times=1)
    response = gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG), CHAT.part(PDF), stream=stream))
    said = streamed_text(response) if stream else text_of(response, CHAT)
    assert seen(said) == [PNG.unnamed, PDF.unnamed]
    assert sorted(uploads(simulator)) == ["alice", "alice", "bob", "bob"]


def test_what_an_account_had_is_forgotten_with_the_account(running: Running, simulator: Simulator) -> None:
    database = running.new_database()
    sites = {"KIMI_BASE_URL": simulator.url, "KIMI_AUTH_URL": simulator.url}
    site = simulator.profile.site
    with running.gateway(simulator.url, users="alice", database=database, **SHIPPED) as gateway:
        run_command(database, "accounts", "add", "--name", "home", mint("bob", site=site), **sites)
        ask = CHAT.ask(gateway.model, CHAT.part(PNG))
        wait_until("both have it", lambda: gateway.chat(ask).ok and set(uploads(simulator)) == {"alice", "bob"})
        assert gateway.tables.uploads() == 2
        code, said = run_command(database, "accounts", "remove", "home", **sites)
        assert code == 0, said
        assert gateway.tables.uploads() == 1


@EACH_GENERATION
def test_an_upload_that_fails_is_tried_again(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice,bob", **SHIPPED)
    simulator.control("POST", "script", json={"match": UPLOADS[simulator.profile.name], "status": 500, "times": 1})
    assert PNG.digest in text_of(gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG))), CHAT)


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_an_upload_that_kimi_sheds_is_repeated_after_a_moment(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED)
    simulator.knobs(shed_uploads=1)
    assert PNG.digest in text_of(gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG))), CHAT)
    assert "upload_shed" in gateway.log()


@EACH_GENERATION
def test_a_rejected_token_is_renewed_in_the_middle_of_an_upload(running: Running, simulator: Simulator) -> None:
    token = mint("alice", 3600, "refresh", site=simulator.profile.site)
    settings: dict[str, Any] = {"KIMI_TOKENS": token, **SHIPPED}
    with running.gateway(simulator.url, **settings) as gateway:
        simulator.control("POST", "script", json={"match": UPLOADS[simulator.profile.name], "status": 401})
        said = text_of(gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG), CHAT.part(TEXT))), CHAT)
        assert seen(said) == [PNG.unnamed, TEXT.unnamed]
        assert simulator.state()["refreshes"] >= 2


@EACH_GENERATION
def test_a_file_that_kimi_cannot_read_is_a_400_that_names_its_place(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG), named(PDF, "broken.pdf")))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "file_parse_failed")
    assert (
        error["param"] == "messages[0].content[1]" and "cannot read this file (application/pdf)" in error["message"]
    )
    # It is not remembered as a good one.
    assert gateway.chat(CHAT.ask(gateway.model, named(PDF, "broken.pdf"))).status_code == 400
    assert simulator.state()["turns"] == 0


@EACH_GENERATION
def test_a_document_that_is_never_read_fails_in_time_and_an_image_is_sent(
    shared_gateway: Share, simulator: Simulator
) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED, FILE_READ_S="1", FAILOVER_S="0")
    response = gateway.chat(CHAT.ask(gateway.model, named(PDF, "stuck.pdf")))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (504, "messages[0].content[0]")
    assert "FILE_READ_S" in error["message"]
    assert PNG.digest in text_of(gateway.chat(CHAT.ask(gateway.model, named(PNG, "stuck.png"))), CHAT)


@EACH_GENERATION
def test_a_client_sees_heartbeats_while_kimi_reads(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice", **(SHIPPED | {"FIRST_EVENT_TIMEOUT_S": "2"}))
    simulator.knobs(parse_answers=6)
    response = gateway.chat(CHAT.ask(gateway.model, named(TEXT, "slow.txt"), stream=True), stream=True)
    answer = Answer.of_events(response.content)
    assert answer.error is None and TEXT.digest in answer.content


@EACH_GENERATION
def test_kimi_says_what_is_wrong_with_a_file(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(upload_max_bytes=10)
    response = gateway.chat(CHAT.ask(gateway.model, CHAT.part(PDF)))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "file_refused", "messages[0].content[0]")
    assert f"is too large for Kimi ({len(PDF.data)} bytes)" in error["message"]


@EACH_GENERATION
def test_a_conversation_sends_only_what_is_new(shared_gateway: Share, simulator: Simulator, name: str) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED)
    first = {"role": "user", "content": [CHAT.part(PNG), CHAT.text(f"What is it? {CANARY}")]}
    said = text_of(gateway.chat({"model": gateway.model, "messages": [first]}, name), CHAT)
    second = {"role": "user", "content": [CHAT.part(OTHER_PNG), CHAT.text("And this?")]}
    history = [first, {"role": "assistant", "content": said}, second]
    said = text_of(gateway.chat({"model": gateway.model, "messages": history}, name), CHAT)
    assert seen(said) == [OTHER_PNG.unnamed]
    third = [*history, {"role": "assistant", "content": said}, {"role": "user", "content": "Thanks"}]
    assert seen(text_of(gateway.chat({"model": gateway.model, "messages": third}, name), CHAT)) == []
    assert len({turn.chat for turn in simulator.turns()}) == 1 and len(uploads(simulator)) == 2


@EACH_GENERATION
def test_a_lost_chat_is_rebuilt_with_the_files_of_its_history(
    shared_gateway: Share, simulator: Simulator, name: str
) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED)
    first = {"role": "user", "content": [CHAT.part(PNG), CHAT.text(f"What is it? {CANARY}")]}
    said = text_of(gateway.chat({"model": gateway.model, "messages": [first]}, name), CHAT)
    simulator.reset()
    history = [first, {"role": "assistant", "content": said}, {"role": "user", "content": "Sure?"}]
    response = gateway.chat({"model": gateway.model, "messages": history}, name)
    assert response.headers["x-conversation-rebuilt"] == "history"
    assert PNG.digest in text_of(response, CHAT)


def test_the_same_key_with_another_picture_is_another_request(gateway: Gateway, simulator: Simulator) -> None:
    key = {"Idempotency-Key": "picture-key"}
    ask = CHAT.ask(gateway.model, CHAT.part(PNG))
    first = gateway.chat(ask, headers=key)
    assert gateway.chat(ask, headers=key).json()["id"] == first.json()["id"]
    other = gateway.chat(CHAT.ask(gateway.model, CHAT.part(OTHER_PNG)), headers=key)
    assert other.status_code == 400 and simulator.state()["turns"] == 1


@EACH_GENERATION
def test_a_client_that_leaves_ends_the_upload(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED)
    simulator.knobs(parse_answers=-1)
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{gateway.url}/v1/chat/completions",
            json=CHAT.ask(gateway.model, CHAT.part(PDF)),
            timeout=1,
        )
    gateway.wait_until_idle()
    assert simulator.state()["turns"] == 0


@EACH_GENERATION
def test_a_gateway_that_is_killed_in_an_upload_leaves_nothing_wrong(running: Running, simulator: Simulator) -> None:
    database = running.new_database()
    settings: dict[str, Any] = {**SHIPPED, "FILE_READ_S": "60", "LEASE_S": "1"}
    ask = CHAT.ask(simulator.profile.model, CHAT.part(PNG), named(PDF, "stuck.pdf"))
    with (
        running.gateway(simulator.url, users="alice", database=database, **settings) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(requests.post, f"{gateway.url}/v1/chat/completions", json=ask, timeout=60)
        simulator.wait("files", equals=2)
        gateway.kill()
        with pytest.raises(requests.RequestException):
            asked.result()
    with running.gateway(simulator.url, users="alice", database=database, **settings) as gateway:
        ask = CHAT.ask(gateway.model, CHAT.part(PNG), CHAT.part(PDF))
        assert seen(text_of(gateway.chat(ask), CHAT)) == [PNG.unnamed, PDF.unnamed]


@EACH_GENERATION
def test_a_long_prompt_may_be_sent_as_a_file(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice", **SHIPPED, LONG_PROMPT_AS_FILE="20000")
    text = "Read this. " * 2000
    for system in ([], [{"role": "system", "content": "Be brief."}]):
        body = {"model": gateway.model, "messages": [*system, {"role": "user", "content": text + CANARY}]}
        response = gateway.chat(body)
        assert response.ok and response.headers["x-kimi-notice"] == "prompt-sent-as-file", response.text
        (arrived,) = seen(text_of(response, CHAT))
        assert arrived.startswith("conversation-") and response.json()["usage"]["prompt_tokens"] > 4000
    digest = Sample("", "", (text + CANARY).encode()).digest
    assert simulator.state()["uploads"][0]["digest"] == digest
    short = gateway.chat({"model": gateway.model, "messages": [{"role": "user", "content": CANARY}]})
    assert seen(text_of(short, CHAT)) == []


@EACH_GENERATION
def test_a_long_turn_of_an_open_chat_says_its_instructions_in_the_file(
    shared_gateway: Share, simulator: Simulator, profile: Profile
) -> None:
    """A short one says them beside the text, where Kimi takes them there, so the chat need not hold them."""
    gateway = shared_gateway(users="alice", **SHIPPED, CONTINUE_CHATS="1", LONG_PROMPT_AS_FILE="20000")
    system, text = "Be brief. ", "Read this. " * 2000
    for rule in (system, system * 3000):
        messages = [{"role": "system", "content": rule}, {"role": "user", "content": f"First {CANARY}"}]
        first = gateway.chat({"model": gateway.model, "messages": messages})
        messages += [
            {"role": "assistant", "content": text_of(first, CHAT)},
            {"role": "user", "content": text + CANARY},
        ]
        second = gateway.chat({"model": gateway.model, "messages": messages})
        assert second.headers["x-conversation"] == "continued"
        assert second.headers["x-kimi-notice"] == "prompt-sent-as-file"
        if profile.speaks_connect:
            size = re.search(r"([0-9]+) bytes", simulator.state()["uploads"][-1]["file"])
            assert size is not None and int(size[1]) > len(rule) + len(text)
            assert "system_prompt" not in simulator.turns()[-1].body["options"]
