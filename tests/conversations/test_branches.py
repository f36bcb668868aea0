"""Branches: a client that sends its whole history continues from an earlier answer, and Kimi forgets what came after
it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from app.chat import Message, ToolCall, text_message
from app.conversations.branches import MAX_TURNS, NOTHING, Digests, History, KnownTurn, KnownTurns
from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    EACH_GENERATION_AND_POSTGRESQL,
    Answer,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    wait_until,
)

SECRET = "a secret of twelve or more"
RECALL = "what did I say"
ON_CONNECT = pytest.mark.parametrize("profile", ["connect-2026"], indirect=True)
BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@dataclass
class Client:
    """It sends its whole history with every request."""

    gateway: Gateway
    conversation: str
    stream: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)
    last: requests.Response | None = None

    def ask(self, text: str, **body: Any) -> str:
        self.messages.append({"role": "user", "content": f"{text} {CANARY}"})
        return self.send(**body)

    def send(self, **body: Any) -> str:
        response = self.last = self.gateway.chat(
            {"model": self.gateway.model, "messages": self.messages, "stream": self.stream, **body},
            self.conversation,
        )
        assert response.ok, response.text
        if self.stream:
            content = Answer.of_events(response.content).content
        else:
            content = response.json()["choices"][0]["message"]["content"]
        self.messages.append({"role": "assistant", "content": content})
        return content

    def back_to(self, turns: int) -> list[dict[str, Any]]:
        """Leaves the later turns out, and returns them."""
        left, self.messages = self.messages[2 * turns :], self.messages[: 2 * turns]
        return left

    @property
    def rebuilt(self) -> str | None:
        assert self.last is not None
        return self.last.headers.get("x-conversation-rebuilt")


def recalled(*texts: str) -> str:
    """The answer to ``RECALL`` where this was said before on the branch."""
    return "\n".join(["你之前说过：", *(f"{number}. {text} {CANARY}" for number, text in enumerate(texts, 1))])


def parents(simulator: Simulator) -> list[str]:
    """The answer that each turn follows in a chat of Connect; empty: none."""
    return [turn.body["message"].get("parent_id", "") for turn in simulator.turns()]


def chats(simulator: Simulator) -> list[str]:
    return [turn.chat for turn in simulator.turns()]


def deleted(simulator: Simulator) -> int:
    return int(simulator.state()["deleted_chats"])


@EACH_GENERATION_AND_POSTGRESQL
@BOTH_MODES
def test_an_edited_message_is_answered_without_what_came_after_it(
    gateway: Gateway, simulator: Simulator, profile: Profile, database: str, name: str, stream: bool
) -> None:
    client = Client(gateway, name, stream)
    for text in ("tea", "coffee", "milk"):
        client.ask(text)
    client.back_to(1)
    answer = client.ask(RECALL)
    if profile.speaks_connect:
        assert answer == recalled("tea") and client.rebuilt is None
        assert parents(simulator)[3] == parents(simulator)[1] and len(set(chats(simulator))) == 1
        assert simulator.prompts()[3] == f"{RECALL} {CANARY}"
        # The conversation goes on behind it.
        assert client.ask(RECALL) == recalled("tea", RECALL)
    else:
        assert client.rebuilt == "history"
        text = simulator.prompts()[3]
        assert "tea" in text and RECALL in text and "coffee" not in text and "milk" not in text
        simulator.wait("deleted_chats", equals=1)
        client.ask("water")
        assert simulator.prompts()[4] == f"water {CANARY}" and client.rebuilt is None
        assert chats(simulator)[4] == chats(simulator)[3] != chats(simulator)[2]
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 5
    wait_until("no chat is left to be deleted", lambda: not gateway.tables.chats_to_delete())
    assert CANARY.encode() not in gateway.database.content()


@EACH_GENERATION
@BOTH_MODES
def test_the_same_question_again_takes_the_place_of_its_answer(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str, stream: bool
) -> None:
    client = Client(gateway, name, stream)
    client.ask("tea")
    for _ in range(3):
        answer = client.ask(RECALL)
        if profile.speaks_connect:
            assert answer == recalled("tea")
        client.back_to(1)
    if profile.speaks_connect:
        assert len(set(chats(simulator))) == 1 and len(set(parents(simulator)[1:])) == 1
    else:
        texts = simulator.prompts()
        assert len(set(chats(simulator))) == 3 and all(text.count(RECALL) == 1 for text in texts[1:])
        simulator.wait("deleted_chats", equals=2)


@EACH_GENERATION
def test_a_client_may_go_back_to_the_branch_that_it_left(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    client = Client(gateway, name)
    for text in ("tea", "coffee"):
        client.ask(text)
    old = client.back_to(1)
    client.ask("milk")
    client.back_to(1)
    client.messages += old
    answer = client.ask(RECALL)
    text = simulator.prompts()[-1]
    if profile.speaks_connect:
        assert answer == recalled("tea", "coffee")
        assert len(set(chats(simulator))) == 1 and text == f"{RECALL} {CANARY}"
    else:
        assert "tea" in text and "coffee" in text and "milk" not in text


@EACH_GENERATION
def test_a_message_alone_is_the_next_one_although_the_client_sent_its_whole_history(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    """It may be the first one in other words, or of a program that has been started again and wants to go on."""
    client = Client(gateway, name)
    for text in ("tea", "coffee", "milk"):
        client.ask(text)
    for text in ("other", "tea"):
        assert gateway.say(text, name).ok
    assert len(set(chats(simulator))) == 1 and simulator.prompts()[3:] == [f"other {CANARY}", f"tea {CANARY}"]
    if profile.speaks_connect:
        assert len(set(parents(simulator))) == 5


@EACH_GENERATION
def test_a_client_that_sends_its_last_message_only_may_repeat_itself(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    for text in ("next", "next", "other", "next", "next"):
        assert gateway.say(text, name).ok
    assert len(set(chats(simulator))) == 1
    assert "next" in gateway.say(RECALL, name).text
    assert simulator.prompts()[-1] == f"{RECALL} {CANARY}"
    if profile.speaks_connect:
        assert len(set(parents(simulator))) == 6


@ON_CONNECT
@pytest.mark.parametrize(
    "repeated",
    [
        ("next", "yes", "tea", "yes", "next", "yes"),  # the newest turns alone
        ("next", "yes"),
        ("next", "no"),  # an answer, or a question, in other words
        ("first", "yes", "next", "yes"),
        ("a summary", "yes"),
        (
            "next",
            "yes",
            "next",
            "yes",
            "coffee",
            "yes",
            "next",
            "yes",
        ),  # an edited message, and all that came after it
    ],
)
def test_what_is_unclear_is_said_behind_the_last_answer(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str, repeated: tuple[str, ...]
) -> None:
    simulator.knobs(say="yes")
    client = Client(gateway, name)
    for text in ("next", "next", "tea", "next"):
        client.ask(text)
    client.messages = [
        {"role": "assistant", "content": text} if number % 2 else {"role": "user", "content": f"{text} {CANARY}"}
        for number, text in enumerate(repeated)
    ]
    client.ask("and?")
    assert len(set(chats(simulator))) == 1 and len(set(parents(simulator))) == 5
    assert simulator.prompts()[-1] == f"and? {CANARY}"


@ON_CONNECT
def test_a_request_that_is_sent_again_after_its_answer_is_no_second_question(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    """As of a client that has lost the connection before it had all of the answer."""
    client = Client(gateway, name)
    for text in ("tea", "coffee", RECALL):
        client.ask(text)
    client.back_to(2)
    assert client.ask(RECALL) == recalled("tea", "coffee")


@EACH_GENERATION
def test_space_at_the_ends_and_parts_of_a_message_do_not_matter(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    simulator.knobs(say="\n Hello. \n")
    client = Client(gateway, name)
    client.ask("tea")
    client.ask("coffee")
    client.back_to(1)
    client.messages[0]["content"] = [{"type": "text", "text": f" tea {CANARY}"}, {"type": "text", "text": " "}]
    client.messages[1]["content"] = "Hello."
    client.ask("milk")
    if profile.speaks_connect:
        assert parents(simulator)[2] == parents(simulator)[1]
    else:
        assert client.rebuilt == "history"


@EACH_GENERATION_AND_POSTGRESQL
def test_a_branch_that_fails_leaves_the_conversation_as_it_was(
    quick: Gateway, simulator: Simulator, profile: Profile, database: str, name: str
) -> None:
    client = Client(quick, name)
    for text in ("tea", "coffee", "milk"):
        client.ask(text)
    later = client.back_to(1)
    before = deleted(simulator)
    simulator.knobs(fail="drop", fail_after=1)
    asked = {"role": "user", "content": f"water {CANARY}"}
    body = {"model": quick.model, "messages": [*client.messages, asked]}
    assert quick.chat(body, name).status_code in (502, 504)
    simulator.knobs(fail="", fail_after=None)
    if not profile.speaks_connect:
        wait_until("the chat of the branch is deleted", lambda: deleted(simulator) == before + 1)
    assert quick.get(f"/v1/chat/completions/{name}").json()["turns"] == 3
    client.messages += later
    client.ask(RECALL)
    assert client.rebuilt is None and simulator.prompts()[-1] == f"{RECALL} {CANARY}"
    assert chats(simulator)[-1] == chats(simulator)[2]


@BOTH_DATABASES
@ON_CONNECT
def test_branches_survive_a_restart(running: Running, simulator: Simulator, profile: Profile, database: str) -> None:
    with running.gateway(simulator.url) as gateway:
        client = Client(gateway, "branches")
        for text in ("tea", "coffee"):
            client.ask(text)
        kept = gateway.database
    with running.gateway(simulator.url, database=kept) as gateway:
        client.gateway = gateway
        client.back_to(1)
        assert client.ask(RECALL) == recalled("tea")


@ON_CONNECT
def test_a_branch_in_a_chat_that_is_lost_is_rebuilt_from_the_history(
    quick: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    client = Client(quick, name)
    for text in ("tea", "coffee"):
        client.ask(text)
    simulator.reset()
    client.back_to(1)
    client.ask("milk")
    assert client.rebuilt == "history"
    text = simulator.prompts()[-1]
    assert "tea" in text and "milk" in text and "coffee" not in text
    # The new chat does not hold the first answer as a message of its own.
    client.back_to(1)
    client.ask("water")
    text = simulator.prompts()[-1]
    assert client.rebuilt == "history" and "tea" in text and "milk" not in text
    client.ask("juice")
    client.back_to(2)
    assert client.ask(RECALL).count(CANARY) >= 1 and client.rebuilt is None
    assert chats(simulator)[-1] == chats(simulator)[-3]


def test_an_imported_history_can_be_asked_again(gateway: Gateway, simulator: Simulator, name: str) -> None:
    """The first request brought it."""
    client = Client(gateway, name)
    client.messages = [
        {"role": "user", "content": f"tea {CANARY}"},
        {"role": "assistant", "content": "Tea it is."},
    ]
    client.ask("coffee")
    client.back_to(1)
    client.ask("milk")
    assert client.rebuilt == "history" and "coffee" not in simulator.prompts()[-1]
    assert len(set(chats(simulator))) == 2


@ON_CONNECT
def test_instructions_and_functions_are_said_on_every_branch(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    client = Client(gateway, name)
    client.messages = [{"role": "system", "content": "be brief"}]
    client.ask("tea")
    client.ask("coffee", tools=tools)
    del client.messages[3:]
    client.ask("milk", tools=tools)
    text = simulator.prompts()[2]
    assert "be brief" in text and "functions]" in text and parents(simulator)[2] == parents(simulator)[1]
    # A branch without functions forgets that another one has read of them.
    del client.messages[3:]
    client.ask("water")
    client.ask("juice", tools=tools)
    assert "functions]" not in simulator.prompts()[3] and "functions]" in simulator.prompts()[4]
    assert "be brief" not in simulator.prompts()[4]


@ON_CONNECT
def test_a_history_with_calls_and_results_shows_its_branch(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    simulator.knobs(call="weather", args='{"city": "Ulm", "days": 2}')
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Well? {CANARY}"}]
    first = gateway.chat({"model": gateway.model, "messages": messages, "tools": tools}, name)
    said = first.json()["choices"][0]["message"]
    (call,) = said["tool_calls"]
    call["function"]["arguments"] = '{"days":2,"city":"Ulm"}'
    result = {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "sunny"}]}
    messages += [said, result]
    for content in ("sunny", "rainy", "sunny"):
        result["content"] = content
        assert gateway.chat({"model": gateway.model, "messages": messages, "tools": tools}, name).ok
    assert len(set(parents(simulator)[1:])) == 1 and len(set(chats(simulator))) == 1


@EACH_GENERATION
def test_a_transcript_rebuilds_the_branch_alone(
    shared_gateway: Share, simulator: Simulator, profile: Profile, name: str
) -> None:
    gateway = shared_gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET=SECRET)
    client = Client(gateway, name)
    for text in ("tea", "coffee", "milk"):
        client.ask(text)
    client.back_to(1)
    client.ask("water")
    client.ask("juice")
    simulator.reset()
    response = gateway.say("last", name)
    assert response.ok and response.headers["x-conversation-rebuilt"] == "transcript"
    text = simulator.prompts()[-1]
    places = [text.index(f"{said} {CANARY}") for said in ("tea", "water", "juice", "last")]
    assert places == sorted(places) and "coffee" not in text and "milk" not in text


def test_the_transcript_of_a_branch_holds_the_history_that_the_first_request_brought(
    shared_gateway: Share, simulator: Simulator, name: str
) -> None:
    gateway = shared_gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET=SECRET)
    client = Client(gateway, name)
    client.messages = [
        {"role": "user", "content": f"tea {CANARY}"},
        {"role": "assistant", "content": "Tea it is."},
    ]
    client.ask("coffee")
    client.back_to(1)
    client.ask("milk")
    simulator.reset()
    response = gateway.say("last", name)
    assert response.ok and response.headers["x-conversation-rebuilt"] == "transcript"
    text = simulator.prompts()[-1]
    places = [text.index(said) for said in ("tea", "Tea it is.", "milk", "last")]
    assert places == sorted(places) and "coffee" not in text


@ON_CONNECT
def test_messages_of_anthropic_branch_too(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    messages: list[dict[str, Any]] = []

    def ask(text: str) -> str:
        messages.append({"role": "user", "content": f"{text} {CANARY}"})
        body = {"model": gateway.model, "max_tokens": 1000, "messages": messages}
        content = gateway.post(f"/v1/conversations/{name}/messages", json=body).json()["content"]
        messages.append({"role": "assistant", "content": content})
        return str(content[-1]["text"])

    ask("tea")
    ask("coffee")
    del messages[2:]
    assert ask(RECALL) == recalled("tea")


@ON_CONNECT
def test_no_history_leads_into_the_conversation_of_another_key(
    shared_gateway: Share, simulator: Simulator, profile: Profile, name: str
) -> None:
    gateway = shared_gateway(GATEWAY_API_KEYS="first-key,second-key")

    def ask(key: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        response = gateway.chat(
            {"model": gateway.model, "messages": messages}, name, headers={"Authorization": f"Bearer {key}"}
        )
        assert response.ok, response.text
        return dict(response.json()["choices"][0]["message"])

    messages = [{"role": "user", "content": f"tea {CANARY}"}]
    messages.append(ask("first-key", messages))
    history = [*messages, {"role": "user", "content": f"coffee {CANARY}"}]
    ask("first-key", history)
    ask("second-key", [{"role": "user", "content": f"milk {CANARY}"}])
    # The history of the other's conversation is none of its own: it goes on behind its last answer.
    ask("second-key", history)
    first, _, third, fourth = simulator.turns()
    assert first.chat != third.chat == fourth.chat


# The comparison itself

DIGESTS = Digests(b"key", "owner", "conversation")


def history(*said: str) -> History:
    """Questions and answers by turns; the last one is the new question."""
    return DIGESTS.history(
        [text_message("assistant" if number % 2 else "user", text) for number, text in enumerate(said)]
    )


def grown(known: KnownTurns, number: int, parent: int, *said: str) -> KnownTurns:
    """With a turn in which this was said, and answered."""
    repeated = history(*said[:-1])
    turn = DIGESTS.turn(repeated.question, text_message("assistant", said[-1]))
    path = DIGESTS.path(repeated.path, turn)
    new = KnownTurn(number, parent, f"m{number}", path, turn)
    return known.with_turn(new, in_new_chat=False)[0]


def conversation() -> KnownTurns:
    """Three turns, and a second branch behind the first of them."""
    known = KnownTurns([KnownTurn(0, -1, None, NOTHING, "")])
    known = grown(known, 1, 0, "a", "A")
    known = grown(known, 2, 1, "a", "A", "b", "B")
    known = grown(known, 3, 2, "a", "A", "b", "B", "c", "C")
    return grown(known, 4, 1, "a", "A", "d", "D")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (("a", "A", "x"), 1),
        (("a", "A", "d"), 1),
        (("a", "A", "b", "B", "x"), 2),
        (("a", "A", "b", "B", "c", "C", "x"), 3),
        (("x",), None),
        (("a",), None),
        (("a", "A", "d", "D", "x"), None),
        (("d", "D", "x"), None),
        (("a", "other", "x"), None),
        (("other", "A", "x"), None),
        (("b", "B", "x"), None),
        (("a", "A", "d", "D", "e", "E", "x"), None),
        (("a", "A"), 1),
        ((), None),
    ],
)
def test_a_history_belongs_to_the_turn_that_it_ends_with(said: tuple[str, ...], number: int | None) -> None:
    found = conversation().branch_of(history(*said), 4)
    assert (None if found is None else found.number) == number


def test_turns_are_the_same_when_they_were_stored() -> None:
    known = conversation()
    text = known.dump()
    assert KnownTurns.load(text).dump() == text and KnownTurns.load(None).dump() == "[]"
    assert KnownTurns.load(text).path_to(4) == known.path_to(4)


def test_a_branch_has_the_turns_before_it() -> None:
    is_said = conversation().branch_to(4)
    assert [number for number in range(1, 5) if is_said(number)] == [1, 4]
    # Of older gateways' turns there is no record.
    is_said = grown(KnownTurns([]), 6, 5, "f", "F").branch_to(6)
    assert [number for number in range(1, 9) if is_said(number)] == [1, 2, 3, 4, 5, 6]


def test_too_many_turns_leave_the_newest_of_the_branch() -> None:
    known = conversation()
    for number in range(5, MAX_TURNS):
        known, dropped = known.with_turn(KnownTurn(number, number - 1, "m", str(number), ""), in_new_chat=False)
        assert dropped == []
    known, dropped = known.with_turn(KnownTurn(MAX_TURNS, MAX_TURNS - 1, "m", "new", ""), in_new_chat=False)
    assert dropped == [2, 3] and known.get(2) is None and known.get(1) is not None
    for number in range(MAX_TURNS + 1, MAX_TURNS + 10):
        known, _ = known.with_turn(KnownTurn(number, number - 1, "m", "", ""), in_new_chat=False)
    assert len(known.path_to(MAX_TURNS + 9)) == MAX_TURNS
    assert known.branch_to(MAX_TURNS + 9)(1)


def test_in_a_new_chat_the_ids_of_older_answers_are_not_known() -> None:
    new = KnownTurn(5, 4, "m5", "path", "turn")
    known, _ = conversation().with_turn(new, in_new_chat=True)
    assert [turn.message_id for turn in known.path_to(5)] == [None, None, "m5"]


def test_digests_differ_by_conversation_and_key() -> None:
    said = [text_message("user", "a"), text_message("assistant", "A")]
    digests = [
        Digests(key, owner, its_id).history(said).path
        for key, owner, its_id in ((b"k", "o", "c"), (b"l", "o", "c"), (b"k", "p", "c"), (b"k", "o", "d"))
    ]
    assert len(set(digests)) == 4


def test_messages_are_apart_in_a_digest() -> None:
    def digest(*texts: str) -> str:
        return DIGESTS.turn([text_message("user", text) for text in texts], text_message("assistant", "A"))

    assert len({digest("ab"), digest("a", "b"), digest("a\nb"), digest("", "ab")}) == 4
    assert digest(" ab\n") == digest("ab")


def test_calls_are_a_part_of_an_answer() -> None:
    def digest(*calls: ToolCall) -> str:
        return DIGESTS.turn([], Message("assistant", (), tool_calls=calls))

    call = ToolCall("1", "f", '{"a": 1, "b": 2}')
    assert digest(call) == digest(ToolCall("call_2", "f", '{"b":2,"a":1}'))
    assert len({digest(), digest(call), digest(call, call), digest(ToolCall("1", "g", call.arguments))}) == 4


@pytest.mark.parametrize("arguments", ["no JSON", "[" * 2000, "[" * 500 + "]" * 500, '"\ud800"', ""])
def test_arguments_may_be_any_text(arguments: str) -> None:
    said = Message(
        "assistant", text_message("assistant", "\ud800").parts, tool_calls=(ToolCall("1", "f", arguments),)
    )
    assert DIGESTS.turn([], said) == DIGESTS.turn([], said)
