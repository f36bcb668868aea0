"""Whatever clients do, Kimi is told what they said, all of it, and nothing of any other conversation.

The simulator recites what it was told in a chat, so that its answers show it. Each request goes also to a gateway
that opens a new chat for each. CONTINUE_EXAMPLES: how many random histories are tried.
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.running import CANARY, EACH_GENERATION, Gateway, Profile, Running, Simulator

EXAMPLES = int(os.environ.get("CONTINUE_EXAMPLES", "8"))
KEYS = ("key-of-one", "key-of-two")
WORD = re.compile(r"\bw[0-9]+\b")


@dataclass
class Talk:
    """A conversation as its client knows it."""

    key: str
    messages: list[dict[str, str]] = field(default_factory=list)
    system: str = ""

    def said(self, messages: Sequence[dict[str, str]]) -> list[str]:
        """Words in the order in which they were first said."""
        users = [m["content"] for m in messages if m["role"] == "user"]
        return list(dict.fromkeys(word for text in users for word in WORD.findall(text)))

    def ask(self, gateway: Gateway, *, last: int | None = None) -> str:
        told = [{"role": "system", "content": self.system}] if self.system else []
        shown = self.messages[-last:] if last else self.messages
        headers = {"Authorization": f"Bearer {self.key}"}
        response = gateway.chat({"model": gateway.model, "messages": [*told, *shown]}, headers=headers)
        assert response.ok, response.text
        return str(response.json()["choices"][0]["message"]["content"])


@pytest.fixture
def both(running: Running, simulator: Simulator, profile: Profile) -> Iterator[tuple[Gateway, Gateway]]:
    """One that continues, and one that does not."""
    simulator.knobs(recite=r"\bw[0-9]+\b")
    common: dict[str, Any] = {
        "GATEWAY_API_KEYS": ",".join(KEYS),
        "KIMI_PROTOCOL": profile.protocol,
        "LOG_LEVEL": "INFO",
    }
    with (
        running.gateway(simulator.url, CONTINUE_CHATS="1", CONTINUE_MAX="4", **common) as on,
        running.gateway(simulator.url, CONTINUE_CHATS="0", **common) as off,
    ):
        yield on, off


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "ask", "ask", "ask", "ask a little", "again", "edit", "copy", "two at once", "instruct"]
        ),
        st.integers(0, 5),
        st.integers(0, 5),
        # The same words are said in several conversations.
        st.integers(0, 30),
    ),
    min_size=4,
    max_size=14,
)


@EACH_GENERATION
@pytest.mark.long
def test_kimi_knows_what_was_said_and_nothing_else(both: tuple[Gateway, Gateway], profile: Profile) -> None:
    on, off = both
    on.wait_until_idle()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(STEPS)
    def try_steps(steps: list[tuple[str, int, int, int]]) -> None:
        on.tables.forget_open_chats()
        talks: list[Talk] = []
        for step, which, where, word in steps:
            # Mostly the answer tells nothing, so that many conversations have the same pairs of messages.
            says = "[[sim reset]]" if where % 3 == 0 else "[[sim reset say=Yes.]]"
            _take(step, talks, on, off, which, where, f"w{word} {CANARY} {says}")

    try_steps()
    continued = on.log().count("conversation=continued")
    assert continued > EXAMPLES, "little was tried"


def _take(step: str, talks: list[Talk], on: Gateway, off: Gateway, which: int, where: int, text: str) -> None:
    if step == "begin" or not talks:
        talks.append(Talk(KEYS[which % 2]))
        step = "ask"
    talk = talks[which % len(talks)]
    messages = talk.messages
    question = {"role": "user", "content": text}
    match step:
        case "instruct":
            talk.system = f"Instruction {where % 3}."
            return
        case "copy":
            talks.append(Talk(talk.key, list(messages), talk.system))
            return
        case "again" if messages:
            messages.pop()
        case "edit" if messages:
            # Everything from this question on is said anew.
            del messages[where % (len(messages) // 2) * 2 :]
            messages.append(question)
        case _:
            messages.append(question)
    whole = talk.said(messages)
    if "say=Yes." in messages[-1]["content"]:
        whole = ["Yes."]
    if step == "two at once":
        with ThreadPoolExecutor() as pool:
            answer, other = pool.map(lambda _: talk.ask(on), range(2))
        assert answer == other
    elif step == "ask a little":
        answer = talk.ask(on, last=4)
        told, heard = set(talk.said(messages[-4:])), set(answer.split())
        # Kimi may remember what the client leaves out.
        assert heard == {"Yes."} == set(whole) or told <= heard <= set(whole), (answer, whole)
        messages.append({"role": "assistant", "content": answer})
        return
    else:
        answer = talk.ask(on)
    assert answer == talk.ask(off) == " ".join(whole)
    messages.append({"role": "assistant", "content": answer})
