"""``python -m bench.continuing [--rounds 5] [--quick]``: what it saves to continue in the chat that holds a history.

A client with its whole history asks 20 times. Two gateways of the same code, one with CONTINUE_CHATS=0 and one with
CONTINUE_CHATS=1, do so in turn. Per turn: bytes and calls to Kimi, and CPU time of the gateway; and the time to the
first token of the last turn, from a simulator that needs 20 µs for each character that it reads. Then the time of one
look-up in the store, with few and with 100,000 known chats. Asserts nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import requests
import sqlalchemy as sa

from app.chat import ChatRequest, Message, text_message
from app.conversations.recognition import Reader, Turn, Turns
from app.store import Store, tables
from bench.processes import settle
from bench.servers import GATEWAY, Running, Server, Simulator, running, servers, simulator

_TURNS = 20
_QUESTION = "Please go on with the next part, and mind what we have said about it. " * 4
_TOKENS = 400
_READ_US = 20.0
_MODELS = ("k2", "kimi-k2.6")
_COLUMNS = ("KB to Kimi", "calls to Kimi", "CPU ms", "first token of the last turn, ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.continuing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--chats", type=int, default=100_000, help="known chats for the look-up")
    wishes = parser.parse_args()
    rounds, turns = (1, 3) if wishes.quick else (wishes.rounds, _TURNS)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        upstream = stack.enter_context(simulator(Path(folder)))
        both = [stack.enter_context(running(server, upstream, Path(folder))) for server in _gateways()]
        for model in _MODELS:
            _compare(both, upstream, model, rounds, turns)
    _look_up(1_000 if wishes.quick else wishes.chats)


def _gateways() -> list[Server]:
    gateway = next(server for server in servers() if server.name == GATEWAY)
    return [
        replace(gateway, name=f"CONTINUE_CHATS={mode}", env={**gateway.env, "CONTINUE_CHATS": mode})
        for mode in ("0", "1")
    ]


def _compare(both: Sequence[Running], upstream: Simulator, model: str, rounds: int, turns: int) -> None:
    figures: dict[str, list[list[float]]] = {server.name: [] for server in both}
    for _ in range(rounds):
        for server in both:
            figures[server.name].append(_conversation(server, upstream, model, turns))
    print(f"\n{model}: per turn, medians of {rounds} conversations of {turns} turns")
    print("| | " + " | ".join(_COLUMNS) + " |")
    print("|---|" + "---|" * len(_COLUMNS))
    for name, rows in figures.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"| `{name}` | " + " | ".join(f"{value:.1f}" for value in medians) + " |")


def _conversation(server: Running, upstream: Simulator, model: str, turns: int) -> list[float]:
    upstream.set_knobs(tokens=_TOKENS, read_us=_READ_US, record=1)
    assert server.process is not None, "a gateway has a process"
    session = requests.Session()
    session.trust_env = False
    history: list[dict[str, str]] = [{"role": "system", "content": "You are of help."}]
    settle([server.process])
    cpu_s, first_ms = server.process.cpu_s(), 0.0
    for number in range(turns):
        history.append({"role": "user", "content": f"{number}. {_QUESTION}"})
        first_ms, answer = _ask(session, server.port, model, history)
        history.append({"role": "assistant", "content": answer})
    settle([server.process])
    cpu_s = server.process.cpu_s() - cpu_s
    sent = requests.get(f"{upstream.url}/_sim/requests", timeout=60).json()
    calls = [call for call in sent if "GetAvailableModels" not in call["path"]]
    size = sum(call["body_bytes"] for call in calls)
    return [size / 1000 / turns, len(calls) / turns, cpu_s * 1000 / turns, first_ms]


def _ask(session: requests.Session, port: int, model: str, history: Sequence[dict[str, str]]) -> tuple[float, str]:
    """Milliseconds to the first token, and the answer."""
    body = {"model": model, "messages": list(history), "stream": True}
    began, first_ms, texts = time.monotonic(), 0.0, []
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with session.post(url, json=body, stream=True, timeout=120) as response:
        response.raise_for_status()
        for line in response.iter_lines(chunk_size=None):
            if not line.startswith(b"data: {"):
                continue
            first_ms, text = _taken(line[6:], first_ms, began)
            texts.append(text)
    return first_ms, "".join(texts)


def _taken(data: bytes, first_ms: float, began: float) -> tuple[float, str]:
    chunk: dict[str, Any] = orjson.loads(data)
    text = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    if text and not first_ms:
        first_ms = (time.monotonic() - began) * 1000
    return first_ms, text


def _look_up(most: int) -> None:
    """The time of a look-up that finds its chat, and of one that finds none, in SQLite."""
    print("\nµs per look-up, of them for the digests of 40 messages of 1,500 characters")
    print("| known chats | found | not found | digests |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/bench.db"
        store = Store(url)
        known = 0
        for count in (100, most):
            _add_chats(url, known, count)
            known = count
            found = _median_us(lambda number, known=known: store.open_chats.find(f"digest-{number % known}"))
            missing = _median_us(lambda number: store.open_chats.find(f"missing-{number}"))
            print(f"| {known} | {found:.0f} | {missing:.0f} | {_digests_us(store):.0f} |")
        store.close()


def _add_chats(url: str, first: int, count: int) -> None:
    """Chats of five turns."""
    history = [Turn(n, n - 1, f"message-{n}", ("0" * 24, "1" * 24), "2" * 24, 2 * n, "") for n in range(1, 6)]
    turns = Turns(history).dump()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for at in range(first, count, 5000):
            numbers = range(at, min(at + 5000, count))
            chats = [
                {
                    "upstream": "kimi_connect",
                    "chat_id": f"chat-{number}",
                    "owner": f"key-{number % 2000}",
                    "account_id": "account",
                    "site": "kimi.com",
                    "turns": turns,
                    "last_turn": 5,
                    "used_at": float(number),
                    "holder": "",
                    "process_id": "",
                }
                for number in numbers
            ]
            connection.execute(sa.insert(tables.open_chats), chats)
            rows = [
                {
                    "upstream": "kimi_connect",
                    "chat_id": f"chat-{number}",
                    "number": turn,
                    "digest": f"digest-{number}" if turn == 5 else f"digest-{number}-{turn}",
                }
                for number in numbers
                for turn in range(1, 6)
            ]
            connection.execute(sa.insert(tables.open_chat_turns), rows)
    engine.dispose()


def _median_us(step: Any, times: int = 2000) -> float:
    taken = []
    for number in range(times):
        began = time.perf_counter()
        step(number * 7919)
        taken.append((time.perf_counter() - began) * 1e6)
    return statistics.median(taken)


def _digests_us(store: Store) -> float:
    pairs = [(text_message("user", "q" * 1500), text_message("assistant", "a" * 1500)) for _ in range(20)]
    messages: list[Message] = [message for pair in pairs for message in pair]
    request = ChatRequest("k2", (*messages, text_message("user", "next")))
    reader = Reader(store.digest_key, "key", ())
    return _median_us(lambda _: reader.read(request), 200)


if __name__ == "__main__":
    main()
