"""Which turn of a chat a request follows, by digests alone."""

from app.chat import ChatRequest, Message, Role, Tool, ToolCall, text_message
from app.conversations.recognition import MAX_MESSAGES, Reader, Said, Turn, Turns

READER = Reader(b"a secret", "key_of_one", ())


def said(*texts: str, model: str = "k2", tools: tuple[Tool, ...] = (), told: str = "") -> Said:
    """A request whose first message is the user's, and then each in turn."""
    roles: tuple[Role, Role] = ("user", "assistant")
    messages = [text_message(roles[number % 2], text) for number, text in enumerate(texts)]
    first = [text_message("system", told)] if told else []
    return READER.read(ChatRequest(model, (*first, *messages), tools=tools))


def chat(*texts: str) -> Turns:
    """A chat in which so much was said, a question and an answer in turn, each pair as a turn of its own."""
    turns = Turns([])
    path = ""
    for number in range(1, len(texts) // 2 + 1):
        digests = said(*texts[: 2 * number], "new").before[-2:]
        path = READER.path(path, digests)
        turn = Turn(number, number - 1, f"message {number}", digests, path, 2 * number, "")
        turns, _ = turns.with_turn(turn)
    return turns


def test_all_that_was_said_is_recognised_up_to_any_turn() -> None:
    turns = chat("a", "A", "b", "B", "c", "C")
    assert turns.is_repeated(said("a", "A", "b", "B", "c", "C", "new"), 3)
    assert turns.is_repeated(said("a", "A", "b", "B", "new"), 2) and turns.is_last(3) and not turns.is_last(2)
    for other in (("a", "A", "x", "B"), ("a", "x", "b", "B"), ("x", "A", "b", "B"), ("a", "A")):
        assert not turns.is_repeated(said(*other, "new"), 2)


def test_the_end_alone_is_recognised_and_no_other_part() -> None:
    turns = chat("a" * 100, "A", "b" * 100, "B", "c" * 100, "C")
    assert turns.is_end_repeated(said("c" * 100, "C", "new"), 3)
    assert turns.is_end_repeated(said("b" * 100, "B", "c" * 100, "C", "new"), 3)
    assert not turns.is_end_repeated(said("a" * 100, "A", "c" * 100, "C", "new"), 3)
    assert not turns.is_end_repeated(said("a" * 100, "A", "b" * 100, "B", "c" * 100, "C", "new"), 3)


def test_a_set_phrase_is_no_end_of_another_conversation() -> None:
    """Unless the request begins with an answer: so no conversation begins."""
    turns = chat("a", "A", "thanks", "You are welcome!")
    assert not turns.is_end_repeated(said("thanks", "You are welcome!", "new"), 2)
    thanks = (
        text_message("user", "thanks"),
        text_message("assistant", "You are welcome!"),
        text_message("user", "new"),
    )
    request = ChatRequest("k2", (text_message("assistant", "A"), *thanks))
    assert turns.is_end_repeated(READER.read(request), 2)
    # Two of them are not said again by chance.
    turns = chat("a", "A", "b", "B", "thanks", "You are welcome!")
    assert turns.is_end_repeated(said("b", "B", "thanks", "You are welcome!", "new"), 3)


def test_there_must_be_a_question_and_its_answer() -> None:
    greeting = READER.read(ChatRequest("k2", (text_message("assistant", "Hello!"), text_message("user", "Hello."))))
    assert greeting.pair is None and said("only a question").pair is None
    assert said("a", "A", "b").pair is not None and said("a", "A").new == ()


def test_the_model_and_its_functions_are_a_part_of_what_is_looked_for() -> None:
    pair = said("a", "A", "b").pair
    assert pair == said("x", "X", "a", "A", "c", told="Be brief.").pair
    assert pair != said("a", "A", "b", model="k1.5").pair != said("a", "A", "b", tools=(Tool("read"),)).pair
    assert pair != Reader(b"a secret", "key_of_two", ()).read(_request("a", "A", "b")).pair
    assert pair != Reader(b"another", "key_of_one", ()).read(_request("a", "A", "b")).pair


def _request(*texts: str) -> ChatRequest:
    roles: tuple[Role, Role] = ("user", "assistant")
    return ChatRequest("k2", tuple(text_message(roles[n % 2], text) for n, text in enumerate(texts)))


def test_an_answer_in_several_messages_is_one() -> None:
    """As the Responses API divides one that calls a function."""
    call = ToolCall("id", "read", '{"a": 1}')
    question, result = text_message("user", "go"), Message("tool", text_message("tool", "done").parts)
    whole = Message("assistant", text_message("assistant", "I read.").parts, tool_calls=(call,))
    parts = (text_message("assistant", "I read."), Message("assistant", (), tool_calls=(call,)))
    other = Message("assistant", whole.parts, tool_calls=(ToolCall("other id", "read", '{"a":1}'),))
    one, several, with_other_id = (
        READER.read(ChatRequest("k2", (question, *answer, result))) for answer in ((whole,), parts, (other,))
    )
    assert one == several == with_other_id


def test_an_argument_that_is_the_default_does_not_count() -> None:
    """As Claude Code repeats its calls."""
    schema = '{"type":"object","properties":{"path":{},"all":{"default":false},"most":{"default":0}}}'
    tools = (Tool("edit", schema=schema),)
    reader = Reader(b"a secret", "key_of_one", tools)

    def digest(arguments: str) -> str:
        call = ToolCall("id", "edit", arguments)
        return reader.message(Message("assistant", (), tool_calls=(call,)))

    plain = digest('{"path": "a"}')
    assert plain == digest('{"all": false, "path": "a"}') == digest('{"path":"a","most":0,"all":false}')
    assert plain not in (digest('{"path": "a", "all": true}'), digest('{"path": "a", "all": 0}'), digest("{not json"))
    assert digest('["path"]') != plain


def test_no_more_messages_are_known_than_agreed_and_the_newest_are() -> None:
    texts = [f"message {number}" for number in range(200)]
    turns = chat(*texts)
    known = turns.messages_to(100)
    assert len(known) <= MAX_MESSAGES and known == list(said(*texts, "new").before[-len(known) :])
    assert turns.is_repeated(said(*texts, "new"), 100)
    assert not turns.is_repeated(said("another", *texts[1:], "new"), 100)
    assert turns.is_end_repeated(said(*texts[-4:], "new"), 100)
    # A chat that begins with a long history.
    digests = said(*texts, "new").before
    first = Turn(1, 0, "message 1", digests, READER.path("", digests), 200, "")
    turns, _ = Turns([]).with_turn(first)
    turns, _ = turns.with_turn(Turn(2, 1, "message 2", ("x", "y"), "path", 202, ""))
    assert len(turns.messages_to(2)) == MAX_MESSAGES and turns.messages_to(2)[-2:] == ["x", "y"]


def test_other_branches_are_forgotten_first() -> None:
    turns = chat(*(f"message {number}" for number in range(60)))
    for number in range(31, 36):
        turns, dropped = turns.with_turn(Turn(number, 2, "m", ("x", "y"), f"path {number}", 6, ""))
    # Those behind the second turn went, the oldest first; those before it are on the way to the newest.
    assert turns.get(1) and turns.get(2) and turns.get(35) and turns.get(3) is None
    assert Turns.load(turns.dump()).messages_to(35) == turns.messages_to(35)
