"""Kimi's catalogue decides how a model is asked for; the table holds where it cannot be had."""

from typing import Any

import pytest

from app.chat import Effort, Options
from app.simulator import catalogue
from app.simulator.knobs import Knobs
from app.simulator.tokens import SiteName
from app.upstreams.kimi.http import X_MSH_VERSION
from app.upstreams.kimi.listing import Listing, encode_listing, parse_listing
from app.upstreams.kimi.model_table import CONNECT, SSE, ConnectForm, KimiModels
from tests.running import CANARY, Gateway, Running, Share, Simulator, ask, mint, wait_until

KIMI_AI: SiteName = "kimi.ai"
KIMI_COM: SiteName = "kimi.com"
# An address that is neither, such as that of a proxy.
ELSEWHERE = "127.0.0.1:1"
SEPTEMBER = pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)


def listed(site: SiteName, version: str = X_MSH_VERSION, **knobs: Any) -> Listing:
    return parse_listing(catalogue.listed(Knobs(profile="connect-2026-09", **knobs), site, version))


def models(**listings: Listing) -> KimiModels:
    made = KimiModels([SSE, CONNECT])
    for site, listing in listings.items():
        made.learn(site.replace("_", "."), listing)
    return made


def form(made: KimiModels, model: str, site: str = KIMI_AI, **options: Any) -> ConnectForm:
    return made.connect(model, Options(**options), site)[0]


# Which form


@pytest.mark.parametrize(
    ("site", "list_of", "scenario"),
    [
        (KIMI_AI, KIMI_AI, "SCENARIO_CHAT"),
        (KIMI_COM, KIMI_COM, "SCENARIO_K2D5"),
        (KIMI_AI, None, "SCENARIO_CHAT"),
        (KIMI_COM, None, "SCENARIO_K2D5"),
        (ELSEWHERE, None, "SCENARIO_CHAT"),
        (ELSEWHERE, KIMI_COM, "SCENARIO_K2D5"),
    ],
)
def test_the_chat_model_is_asked_for_as_its_site_does(site: str, list_of: SiteName | None, scenario: str) -> None:
    made = models()
    if list_of is not None:
        made.learn(site, listed(list_of))
    for model, effort in (("kimi-k2.6", "NONE"), ("kimi-k2.6-thinking", "LOW"), ("kimi-k2.5", "NONE")):
        found = form(made, model, site)
        assert (found.scenario, found.search) == (scenario, True)
        assert found.options == {
            "thinking": True,
            "enable_plugin": False,
            "reasoning_effort": f"REASONING_EFFORT_{effort}",
            "model": "k2d6-chat",
        }
    assert not form(made, "kimi-k2.6-nosearch", site).search


def test_a_chat_model_that_has_moved_is_found_by_its_name() -> None:
    moved = {"availableModels": [{"id": "k2d6-chat", "key": "k2d6", "scenario": "SCENARIO_NEW"}]}
    assert form(models(kimi_ai=parse_listing(moved)), "kimi-k2.6").scenario == "SCENARIO_NEW"
    renamed = {"availableModels": [{"id": "k2d6-next", "key": "k2d6", "scenario": "SCENARIO_CHAT"}]}
    assert form(models(kimi_ai=parse_listing(renamed)), "kimi-k2.6").options["model"] == "k2d6-next"


def test_a_list_of_before_august_2026_means_what_it_meant_then() -> None:
    old = listed(KIMI_AI, "1.0.0")
    assert old.is_old and not listed(KIMI_AI).is_old
    for model in ("kimi-k2.6", "kimi-k2.6-thinking"):
        found = form(models(kimi_ai=old), model)
        assert found.scenario == "SCENARIO_K2D5" and "model" not in found.options
        assert found.options["thinking"] is model.endswith("thinking")
    assert form(models(kimi_ai=old), "kimi-k3").scenario == "SCENARIO_K3"


def test_agents_are_asked_for_with_the_id_of_their_entry() -> None:
    made = models(kimi_ai=listed(KIMI_AI))
    swarm = form(made, "k3-agent-swarm")
    assert (swarm.scenario, swarm.kimiplus_id, swarm.agent_mode) == (
        "SCENARIO_OK_COMPUTER_SWARM",
        "ok-computer",
        "TYPE_ULTRA",
    )
    assert swarm.options == {
        "thinking": True,
        "enable_plugin": False,
        "reasoning_effort": "REASONING_EFFORT_HIGH",
        "model": "k3-agent-swarm",
        "context_length": "CONTEXT_LENGTH_L",
    }
    for model, effort in (("kimi-k3", "LOW"), ("kimi-k3-thinking", "HIGH"), ("k3-agent", "HIGH")):
        found = form(made, model)
        assert (found.scenario, found.options["model"]) == ("SCENARIO_OK_COMPUTER", "k3-agent")
        assert found.options["reasoning_effort"] == f"REASONING_EFFORT_{effort}"


EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@pytest.mark.parametrize(
    ("model", "chosen"),
    [
        ("k2d6", "NONE NONE LOW LOW LOW LOW LOW"),
        ("k3-agent", "LOW LOW LOW HIGH HIGH MAX MAX"),
    ],
)
def test_an_effort_chooses_the_nearest_one_that_is_offered(model: str, chosen: str) -> None:
    made = models(kimi_ai=listed(KIMI_AI))
    id_ = "kimi-k2.6" if model == "k2d6" else model
    found = [
        form(made, id_, thinking=effort not in ("none", "minimal"), effort=effort).options["reasoning_effort"]
        for effort in EFFORTS
    ]
    assert [name.removeprefix("REASONING_EFFORT_") for name in found] == chosen.split()


def test_a_model_that_cannot_but_think_says_so() -> None:
    made = models(kimi_ai=listed(KIMI_AI))
    assert made.unmet("k3-agent", Options(thinking=False)) == ["thinking-unavoidable"]
    assert made.unmet("kimi-k3", Options(thinking=False)) == ["thinking-unavoidable"]
    assert made.unmet("kimi-k2.6", Options(thinking=False)) == []


def test_a_longer_context_is_an_id_of_its_own_where_it_is_available() -> None:
    ids = {model.id for model in models(kimi_ai=listed(KIMI_AI)).of(CONNECT)}
    assert {"k3-agent", "k28-agent-preview", "k3-agent-swarm"} <= ids and "k3-agent-xl" not in ids
    paid = models(kimi_ai=listed(KIMI_AI, level=40))
    assert "k3-agent-xl" in {model.id for model in paid.of(CONNECT)}
    assert form(paid, "k3-agent-xl").options["context_length"] == "CONTEXT_LENGTH_XL"
    assert form(paid, "k3-agent-xl").options["model"] == "k3-agent"


def test_what_only_one_site_lists_is_served_there() -> None:
    made = models(kimi_ai=listed(KIMI_AI, catalogue_extra="k31-agent"), kimi_com=listed(KIMI_COM))
    assert made.sites("k31-agent") == frozenset({KIMI_AI})
    assert made.sites("k3-agent") == frozenset({KIMI_AI, KIMI_COM})
    assert made.sites("kimi-k2.6") is None
    made.learn(KIMI_AI, listed(KIMI_AI))
    assert made.rank("k31-agent", CONNECT) is None


def test_a_list_is_kept_whole() -> None:
    for listing in (listed(KIMI_AI), listed(KIMI_COM, level=40), listed(KIMI_AI, "1.0.0")):
        assert parse_listing(encode_listing(listing)) == listing


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"id": "../x", "scenario": "SCENARIO_X"},
        {"id": "x"},
        {"id": 7, "scenario": "SCENARIO_X"},
        {"id": "x", "scenario": "S C"},
        {"id": "x", "scenario": "S", "kimiPlusId": ["ok"]},
    ],
)
def test_an_entry_that_makes_no_sense_is_left_out(entry: dict[str, Any]) -> None:
    good = {"id": "x", "scenario": "SCENARIO_X"}
    assert [offer.id for offer in parse_listing({"availableModels": [entry, good]}).offers] == ["x"]


@pytest.mark.parametrize(
    "more",
    [
        {"reasoningEffortOptions": 7, "defaultReasoningEffort": 7},
        {"reasoningEffortOptions": [7, {}, {"effort": 7}, {"effort": "REASONING_EFFORT_FOREVER"}]},
        {"contextLengthOptions": "L", "defaultContextLength": ["L"]},
        {
            "contextLengthOptions": [
                7,
                {"contextLength": "long"},
                {"contextLength": "CONTEXT_LENGTH_M", "available": 1},
            ]
        },
        {"label": "Preview", "displayName": 7},
    ],
)
def test_a_field_that_makes_no_sense_counts_as_missing(more: dict[str, Any]) -> None:
    (offer,) = parse_listing({"availableModels": [{"id": "x", "scenario": "SCENARIO_X", **more}]}).offers
    assert offer.title == "x" and offer.efforts == () and not any(context.available for context in offer.contexts)
    assert form(models(kimi_ai=Listing((offer,))), "x").options["model"] == "x"


# Over the wire


def wait_for_list(gateway: Gateway) -> None:
    wait_until("the catalogue is there", lambda: gateway.get("/v1/models/k3-agent").ok)


@SEPTEMBER
def test_new_entries_appear_by_themselves_and_are_served(gateway: Gateway, simulator: Simulator) -> None:
    wait_for_list(gateway)
    assert gateway.get("/v1/models/k3-agent-swarm").json()["name"] == "K3 Swarm"
    for model in ("k3-agent", "k28-agent-preview", "k3-agent-swarm", "kimi-k3", "kimi-k2.6"):
        assert gateway.say("hello", model=model).ok
    asked = [turn.body["options"]["model"] for turn in simulator.turns()]
    assert asked == ["k3-agent", "k28-agent-preview", "k3-agent-swarm", "k3-agent", "k2d6-chat"]
    request = simulator.requests("ChatService/Chat")[-1]
    assert request["headers"]["x-msh-version"] == X_MSH_VERSION


@SEPTEMBER
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": "…", "reasoning_effort": "max"}),
        ("/v1/chat/completions", {"messages": "…", "reasoning": {"effort": "max"}}),
        ("/v1/responses", {"input": "hello", "reasoning": {"effort": "max"}, "store": False}),
        ("/v1/messages", {"messages": "…", "max_tokens": 100, "output_config": {"effort": "max"}}),
    ],
)
def test_each_api_chooses_an_effort_in_its_own_words(
    gateway: Gateway, simulator: Simulator, path: str, body: dict[str, Any]
) -> None:
    wait_for_list(gateway)
    if "messages" in body:
        body = {**body, "messages": [{"role": "user", "content": f"hello {CANARY}"}]}
    assert gateway.post(path, json={"model": "k3-agent", **body}).ok
    assert simulator.turns()[-1].body["options"]["reasoning_effort"] == "REASONING_EFFORT_MAX"


@SEPTEMBER
def test_the_list_is_public(running: Running, simulator: Simulator) -> None:
    """A gateway whose only token has expired shows what Kimi offers."""
    expired = mint("alice", -5, site="kimi.ai")
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={expired}") as gateway:
        wait_for_list(gateway)
    asked = simulator.requests("GetAvailableModels")
    # A gateway of another test may ask meanwhile, which has a token.
    assert [request for request in asked if "authorization" not in request["headers"]]


# Refused forms


@SEPTEMBER
def test_a_form_that_is_refused_is_replaced_once_and_remembered(running: Running, simulator: Simulator) -> None:
    simulator.knobs(refuse_forms="SCENARIO_CHAT")
    with running.gateway(simulator.url) as gateway:
        wait_for_list(gateway)
        for stream in (True, False, True):
            assert ask(gateway, stream, model="kimi-k2.6").finish_reason == "stop"
        asked = [turn.body["scenario"] for turn in simulator.turns()]
        assert asked == ["SCENARIO_CHAT", "SCENARIO_K2D5", "SCENARIO_K2D5", "SCENARIO_K2D5"]
        assert "form_replaced" in gateway.log()
        counted = "SELECT kind, times FROM unrecognised"
        wait_until(
            "it is counted",
            lambda: gateway.database.run(counted) == [("refused form SCENARIO_CHAT k2d6-chat", 1)],
        )
        database = gateway.database
    with running.gateway(simulator.url, database=database) as gateway:
        assert gateway.say("hello", model="kimi-k2.6-thinking").ok
    assert simulator.turns()[-1].body["scenario"] == "SCENARIO_K2D5"
    assert len(simulator.turns()) == 5


@SEPTEMBER
def test_a_request_that_is_refused_in_every_form_is_an_error_of_its_own(
    gateway: Gateway, simulator: Simulator
) -> None:
    wait_for_list(gateway)
    simulator.knobs(refuse_forms="k2d6-chat,SCENARIO_K2D5")
    refused = gateway.say("hello", model="kimi-k2.6")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_refused")
    assert len(simulator.turns()) == 2
    simulator.knobs(refuse_forms="")
    assert gateway.say("hello", model="kimi-k2.6").ok
    # Nothing was remembered: it may have been the text.
    assert simulator.turns()[-1].body["scenario"] == "SCENARIO_CHAT"


@SEPTEMBER
def test_a_conversation_goes_on_in_the_next_form(running: Running, simulator: Simulator, name: str) -> None:
    with running.gateway(simulator.url) as gateway:
        wait_for_list(gateway)
        assert gateway.say("I like tea", conversation=name, model="kimi-k3").ok
        simulator.knobs(refuse_forms="SCENARIO_OK_COMPUTER")
        # The table's other form of K3 is unknown here, too: the client learns that it is the model.
        assert gateway.say("what did I say", conversation=name, model="kimi-k3").status_code == 400
        simulator.knobs(refuse_forms="SCENARIO_CHAT")
        told = ask(gateway, False, "what did I say", conversation=name, model="kimi-k2.5")
        assert "I like tea" in told.content


@SEPTEMBER
def test_a_model_that_another_one_answers_for_says_so(shared_gateway: Share, simulator: Simulator) -> None:
    """`k2` where there is no K2 any more."""
    gateway = shared_gateway()
    for stream in (True, False):
        response = gateway.say("hello", stream=stream, model="k2")
        assert ask(gateway, stream, model="k2").finish_reason == "stop"
        assert response.headers["x-kimi-notice"] == "model-replaced"


# Instructions

SYSTEM, QUESTION = {"role": "system", "content": "Be brief."}, {"role": "user", "content": f"hello {CANARY}"}


def sent(simulator: Simulator) -> tuple[str | None, str]:
    """The instructions and the text of the latest turn."""
    body = simulator.turns()[-1].body
    return body["options"].get("system_prompt"), body["message"]["blocks"][0]["text"]["content"]


@SEPTEMBER
def test_instructions_are_sent_apart_from_the_text(gateway: Gateway, simulator: Simulator) -> None:
    def ask_with(*messages: dict[str, str], conversation: str | None = None) -> tuple[str | None, str]:
        assert gateway.chat({"model": gateway.model, "messages": list(messages)}, conversation).ok
        return sent(simulator)

    wait_until("the list is there", lambda: gateway.get("/v1/models/k3-agent").ok)
    assert ask_with(SYSTEM, QUESTION) == ("Be brief.", QUESTION["content"])
    developer = {"role": "developer", "content": "Be kind."}
    assert ask_with(SYSTEM, developer, QUESTION) == ("Be brief.\n\nBe kind.", QUESTION["content"])
    assert ask_with(QUESTION) == (None, QUESTION["content"])
    # What does not come first keeps its place, and what has a name keeps it.
    for messages in ((QUESTION, SYSTEM, QUESTION), ({**SYSTEM, "name": "boss"}, QUESTION), (SYSTEM,)):
        system, text = ask_with(*messages)
        assert system is None and "Be brief." in text
    history = (QUESTION, {"role": "assistant", "content": "good day"}, QUESTION)
    system, text = ask_with(SYSTEM, *history)
    assert system == "Be brief." and "Be brief." not in text and "good day" in text
    # A chat that continues has to remember them.
    system, text = ask_with(SYSTEM, QUESTION, conversation="remembers")
    assert system is None and "Be brief." in text


@SEPTEMBER
def test_without_a_list_instructions_are_text(running: Running, simulator: Simulator) -> None:
    """The site may be one that does not take them apart."""
    simulator.knobs(catalogue="absent")
    with running.gateway(simulator.url) as gateway:
        assert gateway.chat({"model": gateway.model, "messages": [SYSTEM, QUESTION]}).ok
    system, text = sent(simulator)
    assert system is None and "Be brief." in text


@pytest.mark.parametrize("profile", ["connect-2026", "sse-2025"], indirect=True)
def test_where_the_protocol_has_no_place_for_instructions_they_are_text(
    gateway: Gateway, simulator: Simulator
) -> None:
    assert gateway.chat({"model": gateway.model, "messages": [SYSTEM, QUESTION]}).ok
    assert "Be brief." in simulator.prompts()[-1]
    assert "system_prompt" not in str(simulator.turns()[-1].body)


@SEPTEMBER
def test_instructions_count_as_a_part_of_the_prompt(gateway: Gateway) -> None:
    def tokens(*messages: dict[str, str]) -> int:
        reply = gateway.chat({"model": gateway.model, "messages": list(messages)})
        counted: int = reply.json()["usage"]["prompt_tokens"]
        return counted

    long = {"role": "system", "content": "Be brief. " * 50}
    assert tokens(long, QUESTION) > tokens(QUESTION) + 100
