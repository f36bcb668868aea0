"""What a client makes of an answer, streamed or whole."""

import json
from dataclasses import dataclass
from typing import Any

import requests

from tests.running.contract import check_chunk
from tests.running.gateway import Gateway


@dataclass
class Answer:
    """What a client makes of an answer, streamed or whole."""

    content: str
    reasoning: str
    finish_reason: str | None
    error: dict[str, Any] | None
    done: bool
    comments: int = 0

    @classmethod
    def of_events(cls, body: bytes) -> "Answer":
        answer = cls("", "", None, None, False)
        for block in body.decode("utf-8").split("\n\n"):
            assert not answer.done or not block, f"something after [DONE]: {block!r}"
            if block.startswith(":"):
                answer.comments += 1
            elif block == "data: [DONE]":
                answer.done = True
            elif block:
                assert block.startswith("data: ") and "\n" not in block, block
                answer._add(json.loads(block[6:]))
        return answer

    def _add(self, chunk: dict[str, Any]) -> None:
        check_chunk(chunk)
        if "error" in chunk:
            self.error = chunk["error"]
            return
        assert self.error is None and chunk["object"] == "chat.completion.chunk"
        for choice in chunk["choices"]:
            assert self.finish_reason is None, "a delta after the finish"
            self.content += choice["delta"].get("content") or ""
            self.reasoning += choice["delta"].get("reasoning_content") or ""
            self.finish_reason = choice["finish_reason"]

    @classmethod
    def of_completion(cls, response: requests.Response) -> "Answer":
        body = response.json()
        if "error" in body:
            return cls("", "", None, body["error"], True)
        choice = body["choices"][0]
        message = choice["message"]
        return cls(message["content"], message.get("reasoning_content", ""), choice["finish_reason"], None, True)


def read_stream(response: requests.Response) -> "Answer":
    """An SSE answer, read to its end."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return Answer.of_events(response.content)


def ask(gateway: Gateway, stream: bool, text: str = "hello", **body: Any) -> Answer:
    """One question in either mode."""
    response = gateway.say(text, stream=stream, **body)
    if stream and response.status_code == 200:
        return read_stream(response)
    return Answer.of_completion(response)
