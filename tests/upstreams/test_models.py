"""What a model id means, which generation serves it, and what Kimi's own catalogue adds."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import UpstreamError
from app.settings.sites import site_at
from app.store import Store
from app.upstreams.account import Account
from app.upstreams.kimi.clients import KimiClients
from app.upstreams.kimi.connect import KimiConnect
from app.upstreams.kimi.connect_resume import ResumePolicy
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.listing import Offer
from app.upstreams.kimi.model_table import KimiModels
from app.upstreams.kimi.uploads import Uploads
from tests.running import (
    CANARY,
    CONNECT_ONLY,
    SHIPPED,
    Answer,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    ask,
    mint,
    read_stream,
    wait_until,
)
from tests.running.tables import Tables
from tests.running.wire import connect_turn, said

SEARCH = [{"type": "TOOL_TYPE_SEARCH", "search": {}}]
INSTANT = {"thinking": False, "enable_plugin": False, "reasoning_effort": "REASONING_EFFORT_NONE"}
THINKING = {"thinking": True, "enable_plugin": False, "reasoning_effort": "REASONING_EFFORT_LOW"}

# id → scenario, tools, options
CONNECT_WIRE: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "k2": ("SCENARIO_K2", SEARCH, {"thinking": False}),
    "k2-nosearch": ("SCENARIO_K2", [], {"thinking": False}),
    "kimi-k2.5": ("SCENARIO_K2D5", SEARCH, INSTANT),
    "kimi-k2.5-nosearch": ("SCENARIO_K2D5", [], INSTANT),
    "kimi-k2.5-thinking": ("SCENARIO_K2D5", SEARCH, THINKING),
    "kimi-k2.5-thinking-nosearch": ("SCENARIO_K2D5", [], THINKING),
    "kimi-k2.6": ("SCENARIO_K2D5", SEARCH, INSTANT),
    "kimi-k2.6-nosearch": ("SCENARIO_K2D5", [], INSTANT),
    "kimi-k2.6-thinking": ("SCENARIO_K2D5", SEARCH, THINKING),
    "kimi-k2.6-thinking-nosearch": ("SCENARIO_K2D5", [], THINKING),
    "kimi-k3": ("SCENARIO_K3", [], {"thinking": False, "enable_plugin": False}),
    "kimi-k3-thinking": ("SCENARIO_K3_THINKING", [], {"thinking": True, "enable_plugin": False}),
}
SSE_ONLY = {"k1.5", "k1.5-nosearch", "k1.5-thinking", "k1.5-thinking-nosearch"}


def wait_for_catalogue(gateway: Gateway, model: str) -> None:
    """Until it is known: it decides about the forms of requests."""
    wait_until("the catalogue is there", lambda: gateway.get(f"/v1/models/{model}").ok)


@pytest.mark.parametrize("profile", ["connect-2026"], indirect=True)
def test_an_id_means_on_connect_what_the_table_says(gateway: Gateway, simulator: Simulator) -> None:
    """At a site of spring 2026."""
    wait_for_catalogue(gateway, "k2d6-agent")
    for model, (scenario, tools, options) in CONNECT_WIRE.items():
        assert gateway.say("hello", model=model).json()["model"] == model
        body = simulator.turns()[-1].body
        assert (body["scenario"], body["message"]["scenario"]) == (scenario, scenario)
        assert (body["tools"], body["options"]) == (tools, options), model
        assert "chat_id" not in body and "parent_id" not in body["message"]
    request = simulator.requests("ChatService/Chat")[-1]
    assert request["headers"]["connect-protocol-version"] == "1"
    assert request["headers"]["content-type"] == "application/connect+json"


def test_the_table_is_whole(gateway: Gateway, simulator: Simulator) -> None:
    both = ["kimi_rest", "kimi_connect"]
    assert {
        model.id for upstream in both for model in KimiModels(both).of(upstream)
    } == CONNECT_WIRE.keys() | SSE_ONLY


@CONNECT_ONLY
def test_thinking_is_reasoning_content_on_connect_too(
    gateway: Gateway, simulator: Simulator, profile: Profile
) -> None:
    simulator.knobs(think="First 先想, then say.", say="42")
    for stream in (True, False):
        answer = ask(gateway, stream, model=profile.thinking_model)
        assert (answer.reasoning, answer.content) == ("First 先想, then say.", "42")


@CONNECT_ONLY
def test_nothing_but_the_answer_is_in_a_connect_answer(gateway: Gateway, simulator: Simulator) -> None:
    """No echo, no title, no search, no tool, no unknown frame; blocks joined, the last message not doubled."""
    for more in ({}, {"completion": "whole"}, {"text_blocks": 3}, {"text_blocks": 2, "completion": "whole"}):
        simulator.knobs(
            say="Only this and that.",
            search=3,
            unknown=True,
            comments=True,
            empty_text=True,
            gzip_frames=True,
            **more,
        )
        for stream in (True, False):
            assert ask(gateway, stream, "What is the weather?").content == "Only this and that."


@CONNECT_ONLY
def test_an_answer_that_kimi_rewrites_is_an_error(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(reset_block=True, say="The answer.")
    answer = read_stream(gateway.say("hello", stream=True))
    assert answer.error is not None and answer.error["code"] == "answer_rewritten" and answer.finish_reason is None
    whole = gateway.say("hello")
    assert (whole.status_code, whole.json()["error"]["code"]) == (502, "answer_rewritten")


@CONNECT_ONLY
def test_a_turn_names_the_last_answer_that_counts(gateway: Gateway, simulator: Simulator, name: str) -> None:
    """So that a turn that failed is left aside: the next one does not build on it."""
    gateway.say("I like tea", conversation=name)
    simulator.knobs(fail="exception", fail_after=1)
    assert gateway.say("I like gin", conversation=name).status_code == 503
    simulator.knobs(fail="")
    told = gateway.say("what did I say", conversation=name).json()["choices"][0]["message"]["content"]
    assert "I like tea" in told and "gin" not in told
    first, failed, last = (turn.body["message"].get("parent_id") for turn in simulator.turns())
    assert first is None and failed == last is not None


@CONNECT_ONLY
def test_an_answer_out_of_another_chat_is_no_answer(gateway: Gateway, simulator: Simulator, name: str) -> None:
    """It knows nothing of the conversation, and looks as if it did."""
    assert gateway.say("I like tea", conversation=name).ok
    simulator.script(connect_turn([said("text", "You never said anything.")]))
    response = gateway.say("what did I say", conversation=name)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "conversation_lost")


@CONNECT_ONLY
def test_a_degraded_model_is_a_header_and_a_line_in_the_log(gateway: Gateway, simulator: Simulator) -> None:
    for stream in (True, False):
        assert "x-kimi-notice" not in gateway.say("hello", stream=stream).headers
    simulator.knobs(degrade=True)
    for stream in (True, False):
        response = gateway.say("hello", stream=stream)
        assert response.headers["x-kimi-notice"] == "model-degraded"
        assert "lighter" not in response.text
    assert "upstream_notice upstream=kimi_connect kind=model-degraded" in gateway.log()


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_what_nobody_knows_is_counted_by_name(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(unknown=True, say="one two three four five", token_chars=4)
    assert ask(gateway, False).content == "one two three four five"
    wanted = {("kimi_connect", kind) for kind in ("mask block.canvas", "op merge", "frame telemetry")}
    # Counted when the turn is over, which its client does not wait for.
    wait_until("all of it is counted", lambda: wanted <= gateway.tables.unrecognised())


# KIMI_PROTOCOL


@pytest.mark.parametrize(
    ("protocol", "served", "not_served"),
    [("sse", "k2", "kimi-k2.6"), ("connect", "k2", "k1.5")],
)
def test_a_protocol_can_be_switched_off(
    shared_gateway: Share, simulator: Simulator, protocol: str, served: str, not_served: str
) -> None:
    gateway = shared_gateway(**SHIPPED, KIMI_PROTOCOL=protocol)
    ids = [model["id"] for model in gateway.get("/v1/models").json()["data"]]
    assert served in ids and not_served not in ids
    assert gateway.say("hello", model=served).ok
    refused = gateway.say("hello", model=not_served)
    assert refused.status_code == 404 and "KIMI_PROTOCOL" in refused.json()["error"]["message"]
    path = {"sse": "/completion/stream", "connect": "ChatService/Chat"}
    assert simulator.requests(path.pop(protocol)) and not simulator.requests(path.popitem()[1])


def test_where_a_generation_is_gone_the_other_serves_what_it_can(running: Running, simulator: Simulator) -> None:
    """Found out once per worker, then remembered; nothing that only the lost one serves is promised."""
    with running.gateway(simulator.url) as gateway:
        for status in (404, 405, 410, 307):
            known = gateway.log().count("upstream_unavailable upstream=kimi_rest")
            simulator.reset()
            simulator.knobs(profile="connect-2026", gone_status=status)
            for stream in (False, True, False):
                assert gateway.say("hello", stream=stream).status_code == 200
            assert len([r for r in simulator.requests("/api/chat") if r["path"] == "/api/chat"]) == 1
            assert gateway.log().count("upstream_unavailable upstream=kimi_rest") == known + 1
            error = gateway.say("hello", model="k1.5").json()["error"]
            assert "KIMI_PROTOCOL" in error["message"] or "KIMI_BASE_URL" in error["message"]
            # And back: the other one goes, the first one has returned.
            simulator.knobs(profile="sse-2025", gone_status=status)
            for _ in range(3):
                assert gateway.say("hello").ok
            assert gateway.say("hello", model="k1.5").ok
            gone = gateway.say("hello", model="kimi-k2.6")
            assert (gone.status_code, gone.json()["error"]["code"]) == (502, "upstream_error")


def test_a_new_conversation_also_goes_where_it_is_served(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        simulator.knobs(profile="connect-2026")
        assert gateway.say("I like tea", conversation="moved").ok
        told = Answer.of_completion(gateway.say("what did I say", conversation="moved"))
        assert "I like tea" in told.content
    assert len(simulator.state()["chats"]) == 1


def test_a_conversation_stays_with_the_generation_that_opened_it(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        gateway.say("one", conversation="old", model="k2")
        gateway.say("one", conversation="new", model="kimi-k2.6")
        # k2 is at home with SSE; in a chat of Connect's it is served there.
        assert gateway.say("two", conversation="new", model="k2").ok
        assert simulator.requests("ChatService/Chat")[-1]["frames"][0]["scenario"] == "SCENARIO_K2"
        refused = gateway.say("two", conversation="old", model="kimi-k2.6")
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "model", "model_not_in_conversation")
        assert "'k2'" in error["message"]
        assert gateway.say("three", conversation="old", model="k1.5").ok
        # Its generation is gone: it is not continued elsewhere as if nothing had happened.
        simulator.knobs(profile="connect-2026", gone_status=410)
        assert gateway.say("four", conversation="old").status_code >= 400
        database = gateway.database
    with running.gateway(simulator.url, database=database, KIMI_PROTOCOL="connect") as gateway:
        lost = gateway.say("five", conversation="old")
        assert (lost.status_code, lost.json()["error"]["code"]) == (409, "conversation_lost")
        assert "KIMI_PROTOCOL" in lost.json()["error"]["message"]


# The catalogue


def test_the_catalogue_adds_models_and_survives_without_kimi(running: Running, simulator: Simulator) -> None:
    def offered(gateway: Gateway) -> set[str]:
        return {model["id"] for model in gateway.get("/v1/models").json()["data"]}

    with running.gateway(simulator.url, users="zoe") as gateway:
        wait_until("the catalogue is there", lambda: "k2d6-agent" in offered(gateway))
        # What the table knows under a name of its own is not offered twice.
        assert not {"k2d6", "k2d6-thinking"} & offered(gateway)
        assert gateway.get("/v1/models/k2d6-agent").json()["name"] == "K2.6 Agent"
        assert gateway.say("hello", model="k2d6-agent-ultra").ok
        (body,) = simulator.requests("ChatService/Chat")[-1]["frames"]
        assert (body["scenario"], body["kimiplus_id"]) == ("SCENARIO_OK_COMPUTER", "ok-computer")
        assert (body["agentMode"], body["tools"]) == ("TYPE_ULTRA", [])
        assert body["options"]["model"] == "k2d6-agent-ultra"
        database = gateway.database
    simulator.reset()
    with running.gateway(simulator.url, users="zoe", database=database) as gateway:
        assert "k2d6-agent" in offered(gateway)
        assert "zoe" not in {request["account"] for request in simulator.requests("GetAvailableModels")}


def test_a_catalogue_that_cannot_be_read_is_asked_for_again(running: Running, simulator: Simulator) -> None:
    database = running.new_database()
    Store(database.url).close()
    # An address is known to the database without its scheme.
    site = simulator.url.removeprefix("http://")
    Tables(database).keep_a_catalogue(site, "[{")
    with running.gateway(simulator.url, database=database) as gateway:
        wait_until("the catalogue is there", lambda: gateway.get("/v1/models/k2d6-agent").ok)
        assert "catalogue_unreadable" in gateway.log() and "Traceback" not in gateway.log()
    assert json.loads(Tables(database).catalogue(site))


NO_CATALOGUES = [
    b"",
    b"{",
    b"[]",
    b'{"availableModels":{}}',
    b'{"availableModels":[1,{"key":"../x","scenario":"S"},{"key":"a b","scenario":"S"},{"scenario":""}]}',
]


@pytest.mark.parametrize("body", NO_CATALOGUES)
def test_a_catalogue_that_makes_no_sense_offers_nothing(simulator: Simulator, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    simulator.script(body, match="GetAvailableModels", headers=headers, account="zoe")
    http = KimiHttp(simulator.url, Timeouts(30.0, 30.0, 30.0))
    account = Account("acc", "zoe", mint("zoe"), None, False, None, None, None, site_at(simulator.url).name)
    offers: Sequence[Offer] = ()
    with contextlib.closing(http), contextlib.suppress(UpstreamError):
        clients = KimiClients([site_at(simulator.url)], lambda _url, _proxy: http)
        connect = KimiConnect(clients, KimiModels(["kimi_connect"]), ResumePolicy(0, 1), Uploads(1))
        offers = connect.listing(account).offers
    assert not offers


@pytest.mark.parametrize(("status", "body"), [(200, NO_CATALOGUES[0]), (200, NO_CATALOGUES[4]), (500, b"")])
def test_a_site_without_a_catalogue_serves_chats(
    running: Running, simulator: Simulator, status: int, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    simulator.script(body, match="GetAvailableModels", status=status, headers=headers, times=9)
    with running.gateway(simulator.url) as gateway:
        wait_until("it was asked for", lambda: simulator.requests("GetAvailableModels"))
        assert gateway.say(f"hello {CANARY}").ok
        ids = {model["id"] for model in gateway.get("/v1/models").json()["data"]}
        assert ids == CONNECT_WIRE.keys() | SSE_ONLY


@pytest.mark.parametrize(
    ("model", "wish", "wire", "notice"),
    [
        ("k1.5", {"reasoning_effort": "high"}, ("k1.5-thinking", False), "search-unavailable"),
        ("k1.5-thinking", {"enable_thinking": False}, ("k1.5", False), None),
        ("k1.5-thinking", {"enable_thinking": False, "enable_search": True}, ("k1.5", True), None),
        ("k1.5", {"enable_search": False}, ("k1.5", False), None),
        ("k2-nosearch", {"web_search_options": {}}, ("k2", True), None),
        ("k2", {"reasoning_effort": "none"}, ("k2", True), None),
        # There is no such form: the answer comes as it is, and says so.
        ("k2", {"reasoning_effort": "high"}, ("k2", True), "thinking-unavailable"),
        ("k1.5", {"enable_thinking": True, "enable_search": True}, ("k1.5-thinking", False), "search-unavailable"),
    ],
)
@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_a_wish_chooses_the_form_of_the_model(
    gateway: Gateway,
    simulator: Simulator,
    model: str,
    wish: dict[str, Any],
    wire: tuple[str, bool],
    notice: str | None,
) -> None:
    response = gateway.say("hello", model=model, **wish)
    body = simulator.turns()[-1].body
    assert (body["model"], body["use_search"]) == wire
    # What the client asked for is what it sees.
    assert response.json()["model"] == model
    assert response.headers.get("x-kimi-notice") == notice


@pytest.mark.parametrize(
    ("model", "wish", "same_as", "notice"),
    [
        ("kimi-k2.6", {"reasoning_effort": "high"}, "kimi-k2.6-thinking", None),
        ("kimi-k2.6", {"thinking": {"type": "enabled"}, "enable_search": False}, "kimi-k2.6-thinking-nosearch", None),
        ("kimi-k2.5-thinking-nosearch", {"enable_thinking": False, "use_search": True}, "kimi-k2.5", None),
        ("kimi-k3", {"enable_thinking": True}, "kimi-k3-thinking", None),
        ("kimi-k3-thinking", {"enable_thinking": False}, "kimi-k3", None),
        ("kimi-k3", {"web_search": True}, "kimi-k3", "search-unavailable"),
        # Its tools are Kimi's choice.
        ("kimi-k3", {"enable_search": False}, "kimi-k3", "search-unavoidable"),
        ("k2", {"enable_thinking": True, "enable_search": False}, "k2-nosearch", "thinking-unavailable"),
    ],
)
@pytest.mark.parametrize("profile", ["connect-2026"], indirect=True)
def test_a_wish_chooses_the_form_of_the_model_on_connect(
    gateway: Gateway, simulator: Simulator, model: str, wish: dict[str, Any], same_as: str, notice: str | None
) -> None:
    wait_for_catalogue(gateway, "k2d6-agent")
    response = gateway.say("hello", model=model, stream=True, **wish)
    assert read_stream(response).finish_reason == "stop"
    scenario, tools, options = CONNECT_WIRE[same_as]
    body = simulator.turns()[-1].body
    assert (body["scenario"], body["tools"], body["options"]) == (scenario, tools, options)
    assert response.headers.get("x-kimi-notice") == notice
