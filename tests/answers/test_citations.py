"""What becomes of Kimi's references to web pages: annotations, links, both, or nothing."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.running import CANARY, EACH_GENERATION, EVERY_PROFILE, Gateway, Profile, Share, Simulator, frame
from tests.running.made_up_turns import same_every_time

_PAGES = ["https://site1.example/page", "https://site2.example/page"]


@dataclass
class Answer:
    """An answer with the annotations that came beside it."""

    content: str
    annotations: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None

    def cited(self) -> list[tuple[str, str]]:
        """The pieces of the text that are annotated, and with which page."""
        return [(self.content[a["start_index"] : a["end_index"]], a["url"]) for a in self.annotations]


def ask(gateway: Gateway, stream: bool, text: str = "hello", **body: Any) -> Answer:
    response = gateway.say(text, stream=stream, **body)
    assert response.status_code == 200, response.text
    return read(response, stream)


def read(response: requests.Response, stream: bool) -> Answer:
    if not stream:
        message = response.json()["choices"][0]["message"]
        return Answer(message["content"], [a["url_citation"] for a in message.get("annotations", [])])
    answer, places = Answer(""), 0
    for block in response.content.decode().split("\n\n"):
        if not block.startswith("data: {"):
            continue
        chunk = json.loads(block[6:])
        answer.error = answer.error or chunk.get("error")
        for choice in chunk.get("choices", []):
            answer.content += choice["delta"].get("content") or ""
            if "annotations" in choice["delta"]:
                places += 1
                assert choice["finish_reason"] is not None
                answer.annotations = [a["url_citation"] for a in choice["delta"]["annotations"]]
    assert places <= 1
    return answer


@pytest.mark.parametrize("stream", [True, False])
@EVERY_PROFILE
def test_references_become_links_and_annotations(
    gateway: Gateway, simulator: Simulator, profile: Profile, stream: bool
) -> None:
    simulator.knobs(cite=True, search=2, say="It rains. Bring a coat.", token_chars=7)
    answer = ask(gateway, stream)
    links = [f"[{number}]({url})" for number, url in enumerate(_PAGES, start=1)]
    assert answer.content == f"It rains. Bring a coa{''.join(links)}t."
    assert answer.cited() == list(zip(links, _PAGES, strict=True))
    assert all(a["title"].startswith("hello") for a in answer.annotations)


@EVERY_PROFILE
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_a_marker_is_found_however_it_is_split(
    gateway: Gateway, simulator: Simulator, profile: Profile, size: int
) -> None:
    new = "\ue3a0cite\U0001f6e0web_search:1#0:~:text=snow, ice\ue3a8"
    marker = new if profile.name.startswith("connect-2026") else "[^1^]"
    simulator.knobs(search=1, say=f"Cold{marker}. Snow{marker}!", token_chars=size, cut="random:3")
    link = f"[1]({_PAGES[0]})"
    answer = ask(gateway, stream=True)
    assert answer.content == f"Cold{link}. Snow{link}!"
    assert answer.cited() == [(link, _PAGES[0])] * 2


@pytest.mark.parametrize("stream", [True, False])
@EACH_GENERATION
def test_the_setting_says_what_a_reference_becomes(
    shared_gateway: Share, simulator: Simulator, profile: Profile, stream: bool
) -> None:
    marker = "\U0001f6e0web_search:1#0\U0001f6e0" if profile.speaks_connect else "[^1^]"
    said = f"Good morning. It rains 🌧 in Nanjing{marker}. Bye."
    simulator.knobs(search=1, say=said)
    link = f"[1]({_PAGES[0]})"
    expected = {
        "annotations": (said.replace(marker, ""), [("It rains 🌧 in Nanjing", _PAGES[0])]),
        "markdown": (said.replace(marker, link), []),
        "both": (said.replace(marker, link), [(link, _PAGES[0])]),
        "off": (said, []),
    }
    for style, (content, cited) in expected.items():
        # One gateway for both generations: the model says which one answers.
        gateway = shared_gateway(CITATIONS=style, KIMI_PROTOCOL="auto")
        answer = ask(gateway, stream)
        assert (answer.content, answer.cited()) == (content, cited), style


def test_without_links_an_annotation_covers_the_sentence(shared_gateway: Share, simulator: Simulator) -> None:
    cases = {
        "多云，26到33℃[^1^]。明天有雨[^2^]。": ["多云，26到33℃", "明天有雨"],
        "First. Second![^1^][^2^] Third": ["Second!", "Second!"],
        "One line\nanother. [^1^]": ["another. "],
        "[^1^]At the beginning": [""],
        "Version 3.11 is out[^1^]": ["Version 3.11 is out"],
        "很长" * 1500 + "[^1^]": ["很长" * 200],
    }
    gateway = shared_gateway(CITATIONS="annotations", KIMI_PROTOCOL="auto")
    for said, cited in cases.items():
        simulator.knobs(search=2, say=said, token_chars=1)
        answer = ask(gateway, stream=True)
        assert answer.content == said.replace("[^1^]", "").replace("[^2^]", "")
        assert [text for text, _ in answer.cited()] == cited


_LINK = f"[1]({_PAGES[0]})"


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ("Code `[^1^]` stays, text[^1^] not", f"Code `[^1^]` stays, text{_LINK} not"),
        ("``a ` [^1^]`` and[^1^]", f"``a ` [^1^]`` and{_LINK}"),
        ("```js\nx[^1^]\n```\nafter[^1^]", f"```js\nx[^1^]\n```\nafter{_LINK}"),
        ("~~~\n[^1^]\n```\n[^1^]\n~~~\n[^1^]", f"~~~\n[^1^]\n```\n[^1^]\n~~~\n{_LINK}"),
        ("- item\n  ````\n  ```\n  [^1^]\n  ````\n[^1^]", f"- item\n  ````\n  ```\n  [^1^]\n  ````\n{_LINK}"),
        ("```inline [^1^]``` then[^1^]", f"```inline [^1^]``` then{_LINK}"),
        ("an open ` tick[^1^]\n\nnext[^1^]", f"an open ` tick[^1^]\n\nnext{_LINK}"),
        ("a footnote[^1] and its text\n\n[^1]: here", "a footnote[^1] and its text\n\n[^1]: here"),
        ("[^a^] [^1^ ] [1^] [^^] [^12345^] [", "[^a^] [^1^ ] [1^] [^^] [^12345^] ["),
        ("a tool 🛠 and 🛠️ and 🎨paint and 🛠web_search", "a tool 🛠 and 🛠️ and 🎨paint and 🛠web_search"),
        ("Really![^1^]", f"Really! {_LINK}"),
        ("[[^1^]]", f"[{_LINK}]"),
        ("nobody knows[^9^] that", "nobody knows that"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_only_markers_are_taken_for_markers(
    gateway: Gateway, simulator: Simulator, said: str, content: str, size: int
) -> None:
    simulator.knobs(search=1, say=said, token_chars=size)
    answer = ask(gateway, stream=True)
    assert answer.content == content
    assert [text for text, _ in answer.cited()] == [_LINK] * content.count(_LINK)


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ("a🛠web_search:1#0🛠b", "a{1}b"),
        ("a🛠web_search:1#0🛠🛠web_search:1#1🛠b", "a{1}{2}b"),
        ("a🛠web_search:1#1🛠web_search:1#0🛠b", "a{2}{1}b"),
        ("a\ue3a0cite🛠web_search:1#0\ue3a8b", "a{1}b"),
        ("a\ue3a0cite\U0001f3a8web_search:1#0:~:text=x `y` [z]\U0001f3a8b", "a{1}b"),
        ("a🛠web_search:1#0 und", "a{1} und"),
        ("a🛠web_search:1#0", "a{1}"),
        ("a🛠web_search:1#0🛠🎨 art", "a{1}🎨 art"),
        ("a🛠web_search:8#8🛠b", "ab"),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_the_markers_of_2026(
    gateway: Gateway, simulator: Simulator, profile: Profile, said: str, content: str, size: int
) -> None:
    simulator.knobs(search=2, say=said, token_chars=size)
    # Numbers go by the order in which pages are first cited.
    places = [place for place in ("{1}", "{2}") if place in content]
    places.sort(key=content.index)
    for number, place in enumerate(places, start=1):
        content = content.replace(place, f"[{number}]({_PAGES[int(place[1]) - 1]})")
    assert ask(gateway, stream=True).content == content


@pytest.mark.parametrize("profile", ["sse-2025", "connect-2025"], indirect=True)
def test_a_page_that_comes_after_the_text_is_cited_all_the_same(
    gateway: Gateway, simulator: Simulator, profile: Profile
) -> None:
    said = "It rains[^1^]."
    if profile.speaks_connect:
        simulator.knobs(search=1, say=said, refs="after")
    else:
        card = {"url": _PAGES[0], "title": "Rain"}
        events = [
            {"event": "req", "id": "q"},
            {"event": "cmpl", "text": said},
            {"event": "ref_docs", "ref_cards": [card]},
            {"event": "all_done"},
        ]
        simulator.script(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))
    answer = ask(gateway, stream=True)
    # No page was known when the marker came, and nothing had been searched: it was passed on, and is what is cited.
    assert answer.content == said
    assert answer.cited() == [("[^1^]", _PAGES[0])]


def test_what_looks_like_a_marker_and_had_no_search_stays(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="write [^1^] to cite", token_chars=1)
    answer = ask(gateway, stream=True, enable_search=False)
    assert (answer.content, answer.annotations) == ("write [^1^] to cite", [])


def test_the_text_before_a_failure_is_whole(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="text and [^1", token_chars=1, fail="drop")
    answer = ask(gateway, stream=True)
    assert answer.error is not None
    assert answer.content == "text and [^1"


def test_text_that_cannot_become_a_marker_is_not_held_back(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(search=1, say="a list: [x]", token_chars=1, gate="here", gate_after=10)
    got = ""
    with gateway.say("hello", stream=True) as response:
        for line in response.iter_lines(chunk_size=1, decode_unicode=True):
            if line.startswith("data: {"):
                got += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            if got == "a list: [x":
                # All that Kimi has said is here, while Kimi has not said the rest.
                simulator.open_gate("here")
    assert got == "a list: [x]"


@pytest.mark.parametrize(
    "page",
    [
        {"url": "javascript:alert(1)", "title": "t"},
        {"url": "https://a.example/ b", "title": "t"},
        {"url": "x" * 5000, "title": "t"},
        {"url": 7, "title": "t"},
        {"title": "t"},
    ],
)
def test_an_address_that_is_not_fit_for_a_link_is_none(
    gateway: Gateway, simulator: Simulator, page: dict[str, Any]
) -> None:
    good = {"type": "get_res", "successNum": 2, "url": "https://ok.example/(x)|y", "title": "a\nb " + "c" * 400}
    _script(simulator, [page | {"type": "get_res", "successNum": 1}, good], "text[^1^] and[^2^].")
    answer = ask(gateway, stream=False)
    link = "[2](https://ok.example/%28x%29%7Cy)"
    assert answer.content == f"text and{link}."
    assert answer.cited() == [(link, "https://ok.example/(x)|y")]
    assert answer.annotations[0]["title"].startswith("a b ccc") and len(answer.annotations[0]["title"]) == 300


def _script(simulator: Simulator, found: list[dict[str, Any]], text: str) -> None:
    events = [{"event": "search_plus", "msg": msg} for msg in found]
    events += [{"event": "cmpl", "text": text}, {"event": "all_done"}]
    simulator.script(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))


# Pieces of a text, and what becomes of each; between two of them stands a blank.
_NEW = "\ue3a0cite\U0001f6e0web_search:1#{}:~:text=a quote\ue3a8"
_PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="`~[🛠🎨\ue3a0\ue3a8\r\n"), max_size=8)
_PIECES = st.one_of(
    _PLAIN.map(lambda text: (text, text)),
    st.sampled_from(["`[^1^]`", "[^1]", "[^", "[", "[^1", "[^1^ ]", "🛠 ", "🎨", "\n", "\n\n```\n[^1^]\n```\n"]).map(
        lambda text: (text, text)
    ),
    st.sampled_from([1, 2]).map(lambda n: (f"[^{n}^]", f"[{n}](https://p{n}.example/)")),
    st.sampled_from([1, 2]).map(lambda n: (_NEW.format(n), f"<{n}>")),
)


@pytest.mark.parametrize("profile", ["sse-2025", "connect-2026-09"], indirect=True)
def test_any_text_is_the_same_in_any_pieces(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    session = requests.Session()

    @same_every_time(60)
    @given(pieces=st.lists(_PIECES, min_size=1, max_size=10), seed=st.integers(0, 2**32))
    def same_answer(pieces: list[tuple[str, str]], seed: int) -> None:
        said = "x " + " ".join(raw for raw, _ in pieces)
        expected = "x " + " ".join(shown for _, shown in pieces)
        if not profile.speaks_connect:
            # Its sources have numbers only: the other markers name no known page, and are taken out.
            expected = expected.replace("<1>", "").replace("<2>", "")
        else:
            numbers: dict[str, int] = {}
            for _, shown in pieces:
                if shown in ("<1>", "<2>"):
                    numbers.setdefault(shown, len(numbers) + 1)
            for shown, number in numbers.items():
                expected = expected.replace(shown, f"[{number}](https://p{shown[1]}.example/)")
        chance = random.Random(seed)
        parts, at = [], 0
        while at < len(said):
            size = chance.choice([1, 1, 2, 3, 10])
            parts.append(said[at : at + size])
            at += size
        simulator.script(connect_stream(parts) if profile.speaks_connect else sse_stream(parts))
        body = {"model": gateway.model, "messages": [{"role": "user", "content": CANARY}], "stream": True}
        response = session.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=30)
        answer = read(response, stream=True)
        assert answer.error is None
        assert answer.content == expected
        for text, url in answer.cited():
            assert text.endswith(f"]({url})") and text[0] == "["

    with session:
        same_answer()


def sse_stream(parts: list[str]) -> bytes:
    found = [
        {"event": "search_plus", "msg": {"type": "get_res", "successNum": n, "url": f"https://p{n}.example/"}}
        for n in (1, 2)
    ]
    events = [*found, *({"event": "cmpl", "text": part} for part in parts), {"event": "all_done"}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def connect_stream(parts: list[str]) -> bytes:
    """Pages under both kinds of name: by number as in 2025, by place as in 2026."""
    pages = [{"title": "t", "url": f"https://p{n}.example/"} for n in (1, 2)]
    refs = [{"op": "set", "ref": {"id": str(n), "search": {"base": pages[n - 1]}}} for n in (1, 2)]
    results = [{"searchResult": {"base": pages[n - 1], "refIndex": f"web_search:1#{n}"}} for n in (1, 2)]
    frames: list[Any] = [
        {"op": "set", "chat": {"id": "c-1"}},
        {"op": "set", "mask": "message", "message": {"id": "a-1", "role": "assistant"}},
        *refs,
        {"op": "set", "mask": "block.tool.contents", "block": {"id": "1", "tool": {"contents": results}}},
        *(
            {"op": "append", "mask": "block.text.content", "block": {"id": "2", "text": {"content": part}}}
            for part in parts
        ),
        {"op": "set", "mask": "message.status", "message": {"id": "a-1", "status": "MESSAGE_STATUS_COMPLETED"}},
        {"done": {}},
    ]
    return b"".join(map(frame, frames)) + frame({}, flags=2)
