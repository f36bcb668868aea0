"""Whatever an upstream sends: the client gets a clear error or an answer, and the worker keeps its memory."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.dialects import GENERATIONS
from bench.victim import hostile
from tests.running import Gateway, Running, wait_until

MODELS = {generation.name: generation.model for generation in GENERATIONS}

# What the upstream does, and the error that the client gets. The limits are tens of megabytes, and what is sent would
# be gigabytes. Each name is one of ``bench.victim.hostile``.
CONNECT = {
    "huge_chunk": "envelopes without a payload",
    "gzip_body": "envelopes without a payload",
    "empty_envelopes": "envelopes without a payload",
    "gzip_envelopes": "a message of more than 100000 values",
    "structured_frames": "a message of more than 100000 values",
    "half_pairs": "a message of more than 100000 values",
    "many_chats": "named more than 20 chats",
    "many_blocks": "more than 1000 blocks",
    "endless_large_answer": "answer needs more than 16 MB",
    "large_head": "a head of more than",
    "endless_interim": "a head of more than",
    "endless_trailers": "trailers",
    "endless_trailer": "between HTTP chunks",
    "endless_chunk_size": "between HTTP chunks",
    "endless_json": "expected a stream",
}
SSE = {
    "sse_endless_line": "a line of more than",
    "sse_endless_event": "an event of more than",
    "sse_huge_chunk": "a line of more than",
    "sse_gzip_body": "a line of more than",
    "sse_close_delimited": "a line of more than",
    "sse_json": "expected a stream",
}


class Upstream:
    """``bench.victim.hostile`` in this process; what it does can be changed."""

    def __init__(self) -> None:
        class Handler(hostile.Handler):
            pass

        self._handler = Handler
        self._server = hostile.Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def behave(self, name: str | Callable[[hostile.Write], None]) -> None:
        behaviour = hostile.BEHAVIOURS[name] if isinstance(name, str) else name
        self._handler.behaviour = staticmethod(behaviour)

    def bytes_under_way(self) -> int:
        """What was sent and has not been read. The columns of /proc/net/tcp: ``man 5 proc_net``."""
        port = f":{self._server.server_address[1]:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        queues = [row[4].split(":") for row in rows if port in row[1] + row[2]]
        return sum(int(size, 16) for pair in queues for size in pair)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def attacked(running: Running, upstream: Upstream) -> Iterator[Gateway]:
    memory = str(96 << 20)
    with running.gateway(
        upstream.url, FAILOVER_S="0", QUEUE_WAIT_S="0.3", LOG_LEVEL="INFO", ANSWER_MEMORY_BYTES=memory
    ) as gateway:
        gateway.wait_for_workers()
        yield gateway


def megabytes(worker: int, field: str) -> float:
    status = Path(f"/proc/{worker}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(field))


@pytest.mark.parametrize(
    ("generation", "behaviour"), [("connect", name) for name in CONNECT] + [("sse", name) for name in SSE]
)
def test_what_is_too_much_is_a_protocol_error_and_needs_little_memory(
    attacked: Gateway, upstream: Upstream, generation: str, behaviour: str
) -> None:
    upstream.behave(behaviour)
    (worker,) = attacked.process.children()
    before, log = megabytes(worker, "VmRSS"), len(attacked.log())
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    response = ask(attacked, generation)
    error = response["error"]
    assert error["code"] == "upstream_protocol_error", error
    assert {**CONNECT, **SSE}[behaviour] in error["message"], error
    assert megabytes(worker, "VmHWM") - before < 100
    assert len(attacked.log()) - log < 10_000


def ask(gateway: Gateway, generation: str) -> dict[str, Any]:
    body = {"model": MODELS[generation], "messages": [{"role": "user", "content": "hello"}]}
    found: dict[str, Any] = gateway.post("/v1/chat/completions", json=body).json()
    return found


class LongAnswers:
    """Answers of 8 MB each, complete except for their end, until they are released."""

    def __init__(self) -> None:
        self.text = "🦊" * (8 << 18)
        self._released = threading.Event()
        self._lock = threading.Lock()
        self.waiting = 0

    def behave(self, write: hostile.Write) -> None:
        write(hostile.beginning())
        for at in range(0, len(self.text), 1 << 15):
            write(hostile.text_chunk(self.text[at : at + (1 << 15)]))
        with self._lock:
            self.waiting += 1
        self._released.wait(60)
        write(hostile.ending())

    def release(self) -> None:
        self._released.set()


def test_all_answers_together_have_a_limit(attacked: Gateway, upstream: Upstream) -> None:
    """An answer is kept in three places here."""
    answers = LongAnswers()
    upstream.behave(answers.behave)
    with ThreadPoolExecutor(3) as threads:
        try:
            kept = [threads.submit(ask, attacked, "connect") for _ in range(3)]
            wait_until("Kimi has sent them", lambda: answers.waiting == 3)
            # Or one of these may be the one that is too much.
            wait_until("they were read", lambda: upstream.bytes_under_way() == 0)
            refused = ask(attacked, "connect")
            assert refused["error"]["code"] == "gateway_overloaded", refused["error"]
            assert "ANSWER_MEMORY_BYTES" in refused["error"]["message"]
            upstream.behave("short")
            assert content_of(ask(attacked, "connect")) == "All is well."
        finally:
            answers.release()
        assert [content_of(answer.result()) == answers.text for answer in kept] == [True] * 3
    # All is given back, whether the answer was complete or not.
    upstream.behave(answers.behave)
    assert content_of(ask(attacked, "connect")) == answers.text


def test_a_stream_of_any_length_is_whole_although_its_chat_cannot_stay_open(
    attacked: Gateway, upstream: Upstream
) -> None:
    """With the emoji its text would need 20 MB in one piece."""
    texts = ["a" * 100_000] * 50 + ["🦊"]
    answer = b"".join([hostile.beginning(), *map(hostile.text_chunk, texts), hostile.ending()])
    upstream.behave(lambda write: write(answer))
    body = {"model": MODELS["connect"], "messages": [{"role": "user", "content": "hello"}], "stream": True}
    response = attacked.post("/v1/chat/completions", json=body)
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert "error" not in chunks[-1], chunks[-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "".join(texts)
    assert choices[-1]["finish_reason"] == "stop" and response.text.endswith("data: [DONE]\n\n")


def content_of(answer: dict[str, Any]) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_unknown_kinds_are_named_a_few_times(attacked: Gateway, upstream: Upstream) -> None:
    upstream.behave("unknown_kinds")
    log, known = len(attacked.log()), attacked.tables.unrecognised()
    ask(attacked, "connect")
    # Counted when the turn is over, which its client does not wait for.
    wait_until("they are counted", lambda: attacked.tables.unrecognised() - known)
    attacked.wait_until_idle()
    assert len(attacked.tables.unrecognised() - known) < 30
    assert len(attacked.log()) - log < 10_000


def test_the_next_answer_is_whole(attacked: Gateway, upstream: Upstream) -> None:
    upstream.behave("short")
    body = {"model": MODELS["connect"], "messages": [{"role": "user", "content": "hello"}]}
    assert content_of(attacked.post("/v1/chat/completions", json=body).json()) == "All is well."
