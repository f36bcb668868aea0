"""What an exercise is told by the runner, and how it tells what it has proven. Standard library only, because it is
imported in every client's environment."""

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

GATEWAY = os.environ["GATEWAY_URL"]
BASE = f"{GATEWAY}/v1"
KEY = os.environ["GATEWAY_KEY"]
SIMULATOR = os.environ["SIMULATOR_URL"]

# One of each of Kimi's generations.
MODEL = "k2"
THINKING = "kimi-k2.6-thinking"

TEXT = "Tea is ready: 茶好了。"
THOUGHT = "First the water, then the leaves."


def prompt(say: str = TEXT, **words: object) -> str:
    """A question that the simulator answers with ``say``. The canary must never be found in a log."""
    wishes = {"say": say, "think": THOUGHT, **words}
    inside = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in wishes.items())
    return f"Hello {os.environ['CANARY']} [[sim {inside}]]"


def slowly(say: str = TEXT) -> str:
    """One whose answer comes in pieces that nobody could mistake for one."""
    return prompt(say, delay_s=0.1)


def cut_short() -> str:
    """One whose answer breaks off after ``Tea is r``."""
    return prompt(delay_s=0.1, fail="drop", fail_after=2)


def refused() -> str:
    """One that fails with a 502, on any account: the gateway asks twice, and says that it need not be asked again."""
    return prompt(fail="error_unknown")


def knobs(**values: object) -> None:
    """For clients whose questions are not ours to write."""
    ask_simulator("knobs", values)


# What Kimi does when it is first to call a function, and how many calls that makes.
WAYS = (("obey", 1), ("parallel", 2), ("broken", 1))


def calls(behaviour: str, name: str = "weather", arguments: object = None, **more: object) -> None:
    """From here on Kimi calls this function where it is offered, the first time in this way, and afterwards says what
    it returned. It thinks nothing, because some clients show thoughts as text."""
    knobs()
    arguments = {"city": "Ulm"} if arguments is None else arguments
    knobs(tools=behaviour, tools_times=1, call=name, args=json.dumps(arguments), think="", **more)


def steps(*plan: object) -> None:
    """From here on Kimi takes these steps of an agent: words, or calls ``{call, args, value, say}``. ``%R%`` in words
    is what the calls have returned."""
    knobs()
    knobs(plan=json.dumps(plan), think="")


def turns() -> int:
    """How often Kimi has been asked."""
    return int(ask_simulator("state")["turns"])


def chats() -> int:
    """How many chats were opened at Kimi."""
    return int(ask_simulator("state")["total_chats"])


@contextlib.contextmanager
def asked(times: int, opens: int | None = None) -> Iterator[None]:
    """Within, Kimi is asked so many times: a failure that is permanent is not repeated by the client. ``opens``: in
    so many new chats."""
    before, chats_before = turns(), chats()
    yield
    assert turns() == before + times, f"{turns() - before} turns instead of {times}"
    opened = chats() - chats_before
    assert opens in (None, opened), f"{opened} new chats instead of {opens}"


@dataclass
class Failed:
    """The error, once it was raised."""

    error: Any = None


@contextlib.contextmanager
def fails(kind: type[Exception]) -> Iterator[Failed]:
    """Within, this is raised."""
    failed = Failed()
    try:
        yield failed
    except kind as error:
        failed.error = error
        return
    raise AssertionError(f"no {kind.__name__}")


def proved(fact: str, besides: str = "") -> None:
    """``fact`` of the catalogue, or ``also`` with a few words of its own."""
    print(json.dumps({"proved": fact, "words": besides}), flush=True)


def version(of: str) -> None:
    print(json.dumps({"version": of}), flush=True)


def ask_simulator(path: str, values: object = None) -> Any:
    """Raises HTTPError: if it is no path of the simulator's control."""
    data = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(f"{SIMULATOR}/_sim/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)
