"""Stateless requests that continue in the Kimi chat that holds what they repeat."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI

from tests.attachments.samples import OTHER_PNG, PNG, Sample
from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    EACH_GENERATION_AND_POSTGRESQL,
    SHIPPED,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    read_stream,
    wait_until,
)

ON = SHIPPED | {"CONTINUE_CHATS": "1"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
READ = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}


@pytest.fixture
def on(shared_gateway: Share) -> Iterator[Gateway]:
    gateway = shared_gateway(**ON)
    gateway.tables.forget_open_chats()
    yield gateway


class Talk:
    """A client that sends its whole history, or the last messages of it."""

    def __init__(self, gateway: Gateway, last: int | None = None, **body: Any) -> None:
        self.gateway, self.last, self.body = gateway, last, body
        self.history: list[dict[str, Any]] = []
        self.system: str | None = None
        self.answers: list[Any] = []

    def ask(self, text: str, **headers: str) -> Any:
        """Raises AssertionError: if the answer is an error."""
        return self.send({"role": "user", "content": f"{text} {CANARY}"}, **headers)

    def send(self, *new: dict[str, Any], **headers: str) -> Any:
        self.history += new
        shown = self.history[-self.last :] if self.last else self.history
        told = [{"role": "system", "content": self.system}] if self.system else []
        response = self.gateway.chat(
            {"model": self.gateway.model, **self.body, "messages": [*told, *shown]}, headers=headers
        )
        assert response.ok, response.text
        self.answers.append(response)
        message = response.json()["choices"][0]["message"]
        self.history.append({k: message[k] for k in ("role", "content", "tool_calls") if k in message})
        return response

    def how(self) -> list[str]:
        """What the header said each time."""
        return [response.headers.get("x-conversation", "-") for response in self.answers]


def chats(simulator: Simulator) -> set[str]:
    return {turn.chat for turn in simulator.turns()}


# Each of the three meets each of the others' values in one of the cases.
@pytest.mark.parametrize(
    ("profile", "last", "system"),
    [
        pytest.param(profile, last, system, id=f"{profile}, {system}, {last or 'whole history'}")
        for profile, system, last in (
            ("sse-2025", "none", None),
            ("sse-2025", "same", 4),
            ("sse-2025", "changing", None),
            ("connect-2026-09", "none", 4),
            ("connect-2026-09", "same", None),
            ("connect-2026-09", "changing", 4),
        )
    ],
    indirect=["profile"],
)
def test_twenty_turns_are_one_chat(
    on: Gateway, simulator: Simulator, profile: Profile, last: int | None, system: str
) -> None:
    """Through openai's own SDK."""
    client = OpenAI(base_url=on.url + "/v1", api_key="any", max_retries=0)
    history: list[Any] = []
    for number in range(20):
        history.append({"role": "user", "content": f"question {number} {CANARY}"})
        told = {"none": [], "same": ["Be brief."], "changing": [f"It is {number} o'clock."]}[system]
        messages = [*({"role": "system", "content": text} for text in told), *(history[-last:] if last else history)]
        if number % 2:
            raw = client.chat.completions.with_raw_response.create(model=on.model, messages=messages)
            answer = raw.parse().choices[0].message.content
            assert raw.headers["x-conversation"] == "continued"
        else:
            stream = client.chat.completions.create(model=on.model, messages=messages, stream=True)
            answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        history.append({"role": "assistant", "content": answer})
    turns = simulator.turns()
    assert len(turns) == 20 and len({turn.chat for turn in turns}) == 1 and len({t.account for t in turns}) == 1
    for number, turn in enumerate(turns):
        if number and (profile.speaks_connect or system != "changing"):
            assert turn.text == f"question {number} {CANARY}"
        assert f"question {number} {CANARY}" in turn.text and f"question {number - 1} " not in turn.text
        if system == "changing":
            # As such where Kimi takes it, else in the text.
            instructions = turn.body["options"]["system_prompt"] if profile.speaks_connect else turn.text
            assert f"It is {number} o'clock." in instructions and f"It is {number - 1} o'clock." not in instructions
    assert simulator.requests("DeleteChat") == []
    assert "chat_not_noted" not in on.log()


@EACH_GENERATION_AND_POSTGRESQL
def test_an_edit_begins_a_branch_where_the_protocol_can(
    on: Gateway, simulator: Simulator, profile: Profile, database: str
) -> None:
    talk = Talk(on)
    for word in ("one", "two", "three"):
        talk.ask(word)
    # Another answer to the last question.
    del talk.history[-2:]
    talk.ask("three")
    # Another second question.
    del talk.history[2:]
    talk.ask("deux")
    talk.ask("trois")
    texts = [turn.text for turn in simulator.turns()]
    if profile.speaks_connect:
        assert talk.how() == ["new", *["continued"] * 5] and len(chats(simulator)) == 1
        assert texts == [f"{word} {CANARY}" for word in ("one", "two", "three", "three", "deux", "trois")]
        parents = [turn.body["message"].get("parent_id") for turn in simulator.turns()]
        assert parents[2] == parents[3] and parents[4] == parents[1] and len(set(parents)) == 4
    else:
        assert talk.how() == ["new", "continued", "continued", "new", "new", "continued"]
        assert "user]" in texts[3] and "two" in texts[3] and "two" not in texts[4]


@EACH_GENERATION_AND_POSTGRESQL
def test_of_two_at_once_one_continues_and_the_other_does_not_wait(
    on: Gateway, simulator: Simulator, profile: Profile, database: str
) -> None:
    talk = Talk(on)
    talk.ask("one")
    simulator.knobs(gate="both", gate_after=0)
    messages = [*talk.history, {"role": "user", "content": f"two {CANARY}"}]
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(on.chat, {"model": on.model, "messages": messages}) for _ in range(2)]
        simulator.wait("open_streams", equals=2)
        simulator.open_gate("both")
        responses = [one.result() for one in both]
    assert sorted(r.headers["x-conversation"] for r in responses) == ["continued", "new"]
    assert len(chats(simulator)) == 2


def test_nothing_crosses_keys(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, CONTINUE_CHATS="1", GATEWAY_API_KEYS="a=key-of-a,b=key-of-b") as gateway:
        talk = Talk(gateway)
        talk.ask("one", Authorization="Bearer key-of-a")
        talk.ask("two", Authorization="Bearer key-of-b")
        talk.ask("three", Authorization="Bearer key-of-b")
        assert talk.how() == ["new", "new", "continued"]


@pytest.mark.parametrize(
    ("change", "continues"),
    [
        ({}, True),
        ({"tools": [WEATHER]}, False),
        ({"enable_thinking": True}, False),
        ({"temperature": 1, "max_tokens": 5000}, True),
    ],
    ids=["nothing", "tools", "thinking", "what Kimi does not know"],
)
def test_tools_and_the_form_of_the_model_must_be_the_same(
    on: Gateway, simulator: Simulator, change: dict[str, Any], continues: bool
) -> None:
    talk = Talk(on)
    talk.ask("one")
    talk.body = change
    talk.ask("two")
    assert talk.how()[1] == ("continued" if continues else "new")


def test_instructions_that_were_taken_back_need_a_new_chat(on: Gateway, simulator: Simulator) -> None:
    talk = Talk(on)
    talk.system = "Be rude."
    talk.ask("one")
    talk.system = None
    talk.ask("two")
    assert talk.how() == ["new", "new"]


@EACH_GENERATION
def test_what_clients_strip_does_not_count(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    """The thinking, links of citations, space at the ends."""
    simulator.knobs(cite=True)
    talk = Talk(on, model=profile.thinking_model if profile.speaks_connect else "k1.5-thinking", enable_search=True)
    talk.ask("one")
    content = talk.history[-1]["content"]
    assert talk.answers[-1].json()["choices"][0]["message"].get("reasoning_content")
    talk.history[-1]["content"] = re.sub(r" ?\[\d+\]\(http[^)]*\)", "", content) + "\n"
    talk.ask("two")
    assert talk.how() == ["new", "continued"]


def test_another_end_that_is_alike_is_another_conversation(on: Gateway, simulator: Simulator) -> None:
    """Who sends the last messages only cannot be told from who began with them, if two conversations end alike."""
    simulator.knobs(say="You are welcome, and I am glad that it was of some help to you in the end. " * 2)
    for word in ("north", "south"):
        talk = Talk(on)
        talk.ask(word)
        talk.ask("thanks")
    talk.history = talk.history[-2:]
    talk.ask("more")
    assert talk.how() == ["new", "continued", "new"]


@EACH_GENERATION
@pytest.mark.parametrize(
    "fault", ["not_found", "http_500", "stream_pushing", "forbidden_html", "http_429", "too_long", "drop"]
)
def test_whatever_fails_in_an_open_chat_is_answered_in_a_new_one(
    on: Gateway, simulator: Simulator, profile: Profile, fault: str
) -> None:
    talk = Talk(on)
    talk.ask("one")
    simulator.knobs(
        fail=fault, fail_at="turn", fail_times=1, retry_after="1", **({"fail_after": 0} if fault == "drop" else {})
    )
    talk.ask("two")
    talk.ask("three")
    assert talk.how() == ["new", "new", "continued"]
    assert "one" in simulator.turns()[-2].text and simulator.turns()[-1].text == f"three {CANARY}"


@EACH_GENERATION
def test_a_chat_that_kimi_has_lost_is_replaced(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    talk = Talk(on)
    talk.ask("one")
    simulator.reset()
    talk.ask("two")
    talk.ask("three")
    assert talk.how() == ["new", "new", "continued"]
    assert "one" in simulator.prompts()[-2]


@EACH_GENERATION
def test_an_account_that_rests_does_not_hold_up_its_conversations(
    on: Gateway, simulator: Simulator, profile: Profile
) -> None:
    talk = Talk(on)
    talk.ask("one")
    (account,) = {turn.account for turn in simulator.turns()}
    on.tables.let_accounts_of_open_chats_cool_down(60)
    talk.ask("two")
    assert talk.how() == ["new", "new"] and simulator.turns()[-1].account != account


@EACH_GENERATION
def test_only_a_complete_answer_advances_a_chat(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    talk = Talk(on)
    talk.ask("one")
    body = {"model": on.model, "messages": [*talk.history, {"role": "user", "content": f"two {CANARY}"}]}
    simulator.knobs(fail="drop", fail_at="turn", fail_after=2, fail_times=1, resume="absent", get_message="absent")
    cut = on.chat({**body, "stream": True}, stream=True)
    assert read_stream(cut).error is not None
    wait_until("the chat is free", lambda: not on.tables.open_chats_in_use())
    # Cut by the client's own limit.
    simulator.knobs(fail="")
    assert on.chat({**body, "max_tokens": 3}).json()["choices"][0]["finish_reason"] == "length"
    # Kimi is told to stop first.
    wait_until("the chat is free", lambda: not on.tables.open_chats_in_use())
    talk.ask("two")
    talk.ask("three")
    # Without parent ids nobody could leave out what was cut.
    assert talk.how() == (
        ["new", "continued", "continued"] if profile.speaks_connect else ["new", "new", "continued"]
    )
    if profile.speaks_connect:
        parents = [turn.body["message"].get("parent_id") for turn in simulator.turns()]
        assert parents[1] == parents[2] == parents[3] and len(chats(simulator)) == 1


@EACH_GENERATION
def test_an_agent_sends_each_result_alone(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    steps: list[Any] = [
        {"call": "weather", "args": '{"city": "Ulm"}'},
        [{"call": "weather"}, {"call": "read"}],
        "done",
    ]
    simulator.knobs(plan=json.dumps(steps))
    talk = Talk(on, tools=[WEATHER, READ])
    talk.ask("go")
    while calls := talk.history[-1].get("tool_calls"):
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": f"result of {call['id']}"} for call in calls
        ]
        talk.send(*results)
    assert talk.how() == ["new", "continued", "continued"] and len(chats(simulator)) == 1
    prompts = simulator.prompts()
    assert ["functions]" in prompt for prompt in prompts] == [True, False, False]
    assert all("go" not in prompt.split() for prompt in prompts[1:])
    assert prompts[2].count("result of ") == 2


@EACH_GENERATION
def test_an_answer_that_was_repaired_continues(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    """The repair goes into the same chat, and the next request finds what its client was shown."""
    simulator.knobs(tools="broken", tools_times=1, call="weather")
    talk = Talk(on, tools=[WEATHER])
    talk.ask("one")
    (call,) = talk.history[-1]["tool_calls"]
    talk.send({"role": "tool", "tool_call_id": call["id"], "content": "sunny"})
    assert talk.how() == ["new", "continued"] and len(chats(simulator)) == 1
    assert simulator.prompts()[1].startswith("The last message could not be used.")
    assert "sunny" in simulator.prompts()[2] and CANARY not in simulator.prompts()[2]


@EACH_GENERATION
def test_json_answers_continue(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    """What was asked for besides, and what stood around the JSON, the client never saw."""
    talk = Talk(on, response_format={"type": "json_object"})
    for said in ('```json\n{"a": 1}\n```', '{"b": 2}'):
        simulator.knobs(say=said)
        talk.ask("JSON, please")
    assert talk.how() == ["new", "continued"] and len(chats(simulator)) == 1
    assert "JSON, please" in simulator.prompts()[1] and simulator.prompts()[1].count("JSON, please") == 1


def test_each_choice_has_its_chat_and_the_quoted_one_continues(on: Gateway, simulator: Simulator) -> None:
    simulator.knobs(stamp=True)
    question = {"role": "user", "content": f"one {CANARY}"}
    response = on.chat({"model": on.model, "messages": [question], "n": 3})
    first = {turn.chat for turn in simulator.turns()}
    assert len(first) == 3 and response.headers["x-conversation"] == "new"
    quoted = response.json()["choices"][1]["message"]
    messages = [question, {"role": "assistant", "content": quoted["content"]}, {"role": "user", "content": CANARY}]
    again = on.chat({"model": on.model, "messages": messages})
    assert again.headers["x-conversation"] == "continued" and simulator.turns()[-1].chat in first


def test_a_repetition_with_an_idempotency_key_is_one_turn(on: Gateway, simulator: Simulator, name: str) -> None:
    talk = Talk(on)
    talk.ask("one")
    messages: list[Any] = [*talk.history, {"role": "user", "content": f"two {CANARY}"}]
    body = {"model": on.model, "messages": messages}
    responses = [on.chat(body, headers={"Idempotency-Key": name}) for _ in range(2)]
    assert [r.headers["x-conversation"] for r in responses] == ["continued", "continued"]
    assert responses[0].json()["usage"] == responses[1].json()["usage"]
    assert len(simulator.turns()) == 2
    talk.history = [*messages, responses[1].json()["choices"][0]["message"]]
    talk.ask("three")
    assert talk.how()[-1] == "continued"


def test_usage_counts_what_the_client_sent(on: Gateway, shared_gateway: Share, simulator: Simulator) -> None:
    talk = Talk(on)
    for word in ("one", "two", "three"):
        talk.ask(word * 50)
    usages = [answer.json()["usage"] for answer in talk.answers]
    as_before = shared_gateway(**SHIPPED, CONTINUE_CHATS="0").chat({"model": on.model, "messages": talk.history[:-1]})
    assert usages[2]["prompt_tokens"] == as_before.json()["usage"]["prompt_tokens"]
    assert "prompt_tokens_details" not in as_before.json()["usage"] and "x-conversation" not in as_before.headers
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[0] == 0 < cached[1] < cached[2] < usages[2]["prompt_tokens"]


def test_messages_and_responses_continue(on: Gateway, simulator: Simulator, shared_gateway: Share) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"one {CANARY}"}]
    body = {"model": on.model, "max_tokens": 900, "system": "Be brief."}
    first = on.post("/v1/messages", json={**body, "messages": messages})
    messages += [{"role": "assistant", "content": first.json()["content"]}, {"role": "user", "content": CANARY}]
    second = on.post("/v1/messages", json={**body, "messages": messages})
    assert [r.headers["x-conversation"] for r in (first, second)] == ["new", "continued"]
    usage = second.json()["usage"]
    assert usage["cache_read_input_tokens"] > 0 and usage["input_tokens"] > 0
    # Codex always says that nothing is to be stored.
    gateway = shared_gateway(**SHIPPED, CONTINUE_CHATS="all")
    for where, expected in ((on, [None, None]), (gateway, ["new", "continued"])):
        items: list[Any] = [{"role": "user", "content": f"one {CANARY}"}]
        first = where.post("/v1/responses", json={"model": on.model, "input": items, "store": False})
        items += [*first.json()["output"], {"role": "user", "content": f"two {CANARY}"}]
        second = where.post("/v1/responses", json={"model": on.model, "input": items, "store": False})
        assert [r.headers.get("x-conversation") for r in (first, second)] == expected
    assert second.json()["usage"]["input_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("settings", "body"),
    [({"CONTINUE_CHATS": "0"}, {}), ({"CONTINUE_CHATS": "1"}, {"store": False})],
    ids=["switched off", "store: false"],
)
def test_without_it_everything_is_as_before(
    shared_gateway: Share, simulator: Simulator, settings: dict[str, str], body: dict[str, Any]
) -> None:
    talk = Talk(shared_gateway(**SHIPPED, **settings), **body)
    talk.ask("one")
    talk.ask("two")
    assert talk.how() == ["-", "-"] and len(chats(simulator)) == 2
    assert all("prompt_tokens_details" not in answer.json()["usage"] for answer in talk.answers)
    simulator.wait("deleted_chats", equals=2)


@EACH_GENERATION_AND_POSTGRESQL
def test_chats_are_deleted_when_they_are_old_or_too_many(
    running: Running, simulator: Simulator, profile: Profile, database: str
) -> None:
    with running.gateway(simulator.url, CONTINUE_CHATS="1", CONTINUE_MAX="2", CONTINUE_IDLE_S="20") as gateway:
        for number in range(4):
            talk = Talk(gateway)
            talk.ask(f"one {number}")
        simulator.wait("deleted_chats", at_least=2)
        talk.ask("two")
        assert talk.how() == ["new", "continued"]
        gateway.tables.let_open_chats_age(20)
        simulator.wait("deleted_chats", equals=4)
        wait_until("nothing is left", lambda: not gateway.tables.open_chats() + len(gateway.tables.chats_to_delete()))


@BOTH_DATABASES
def test_chats_that_run_count_among_the_chats_of_a_key(running: Running, simulator: Simulator, database: str) -> None:
    def opened() -> Talk:
        talk = Talk(gateway)
        talk.ask("one")
        return talk

    with (
        running.gateway(simulator.url, CONTINUE_CHATS="1", CONTINUE_MAX="2") as gateway,
        ThreadPoolExecutor() as pool,
    ):
        talks = [opened(), opened()]
        simulator.knobs(gate="both", gate_after=0)
        answers = [pool.submit(talks[0].ask, "two")]
        simulator.wait("gate_waiting:both", at_least=1)
        simulator.knobs(gate="")
        # The other one, which was used before it, goes.
        talks.append(opened())
        simulator.wait("deleted_chats", at_least=1)
        simulator.knobs(gate="both")
        answers.append(pool.submit(talks[2].ask, "two"))
        simulator.wait("gate_waiting:both", at_least=2)
        simulator.knobs(gate="")
        # Both have a request: there is no room for another one.
        opened()
        simulator.wait("deleted_chats", at_least=2)
        simulator.open_gate("both")
        assert [answer.result().headers["x-conversation"] for answer in answers] == ["continued", "continued"]
        assert gateway.tables.open_chats() == 2


@BOTH_DATABASES
def test_a_kill_loses_no_chat(running: Running, simulator: Simulator, database: str) -> None:
    kept = running.new_database()
    settings = {"CONTINUE_CHATS": "1", "LEASE_S": "1"}
    with running.gateway(simulator.url, database=kept, **settings) as gateway:
        talk = Talk(gateway)
        talk.ask("one")
        gateway.kill()
    with running.gateway(simulator.url, database=kept, **settings) as gateway:
        talk.gateway = gateway
        talk.ask("two")
        assert talk.how() == ["new", "continued"]
        gateway.kill()
    with running.gateway(simulator.url, database=kept, CONTINUE_CHATS="0", CONTINUE_IDLE_S="0.1") as gateway:
        assert gateway.get("/healthz").ok
        simulator.wait("deleted_chats", equals=1)


@EACH_GENERATION
def test_nextchats_requests_continue(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    """As recorded with 2.16.1: the last four messages and the new one; a title after the first answer; a summary of
    what is left out, which then stands in front."""
    settings = {"temperature": 0.5, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1}
    history: list[dict[str, str]] = []
    memory: list[dict[str, str]] = []
    how = []

    def send(messages: list[dict[str, str]], *, stream: bool) -> tuple[str, str | None]:
        body = {"messages": messages, "stream": stream, "model": on.model, **settings}
        response = on.chat(body, stream=stream)
        answer = read_stream(response).content if stream else response.json()["choices"][0]["message"]["content"]
        return answer, response.headers.get("x-conversation")

    for number in range(8):
        question = {"role": "user", "content": f"question {number} {CANARY}"}
        answer, told = send([*memory, *history[-4:], question], stream=True)
        how.append(told)
        history += [question, {"role": "assistant", "content": answer}]
        if number == 0:
            title = {"role": "user", "content": "Please generate a four to five word title."}
            assert send([*history, title], stream=False)[1] == "continued"
        if number == 3:
            summary = {"role": "system", "content": "Summarize the discussion briefly."}
            assert send([*history, summary], stream=True)[1] is None
            memory = [{"role": "system", "content": "This is a summary of the chat history: questions."}]
    # Without branches the title takes the first chat.
    assert how == ["new", "continued" if profile.speaks_connect else "new", *["continued"] * 6]
    simulator.wait("deleted_chats", equals=1)


@EACH_GENERATION
def test_open_webuis_requests_continue(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    """Its whole history, and beside it tasks of its own in one message, each of which holds the history as text."""
    talk = Talk(on)
    talk.system = "You are in a web page."
    for number in range(4):
        talk.ask(f"question {number}")
        said = "\n".join(f"{m['role'].upper()}: {m['content']}" for m in talk.history)
        task = {"role": "user", "content": f"### Task:\nSuggest a title.\n<chat_history>\n{said}\n</chat_history>"}
        assert on.chat({"model": on.model, "messages": [task], "stream": False}).headers["x-conversation"] == "new"
    assert talk.how() == ["new", *["continued"] * 3]
    # One chat for the conversation, and one for each task.
    assert len(chats(simulator)) == 5


def test_a_client_that_sends_the_last_messages_after_all_of_them_continues(on: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="An answer that is much longer than any phrase that people say again and again, of course.")
    talk = Talk(on)
    for word in ("one", "two", "three"):
        talk.ask(f"question {word}")
    talk.last = 3
    talk.ask("question four")
    assert talk.how() == ["new", "continued", "continued", "continued"] and len(chats(simulator)) == 1


@EACH_GENERATION
def test_a_picture_is_sent_once(on: Gateway, simulator: Simulator, profile: Profile) -> None:
    def question(sample: Sample) -> dict[str, Any]:
        picture = {"type": "image_url", "image_url": {"url": sample.url}}
        return {"role": "user", "content": [{"type": "text", "text": f"Look. {CANARY}"}, picture]}

    talk = Talk(on)
    talk.send(question(PNG))
    talk.ask("two")
    assert talk.how() == ["new", "continued"] and simulator.prompts()[1] == f"two {CANARY}"
    assert [one["digest"] for one in simulator.state()["uploads"]] == [PNG.digest]
    # Another one in its place is another conversation.
    talk.history[0] = question(OTHER_PNG)
    talk.ask("three")
    assert talk.how()[2] == "new" and len(simulator.state()["uploads"]) == 2
