"""The replies of OpenAI's legacy Completions.

This API has no field for thinking: it is left out, but counted in the usage.
"""

import time
from typing import Any

import orjson

from app.web import sse
from app.web.answer_response import AnswerSoFar, Choice, Encoder
from app.web.error_responses import Failure, openai_error
from app.web.openai_shapes import encode_usage


class CompletionEncoder(Encoder):
    def __init__(self, reply_id: str, model: str, *, stream_usage: bool) -> None:
        """``stream_usage``: a stream ends with a chunk of usage. Without it, the text is not kept."""
        self.keeps_text = stream_usage
        self._head = {"id": reply_id, "object": "text_completion", "created": int(time.time()), "model": model}
        self._start = b"data: " + orjson.dumps(self._head)[:-1]
        tail = b',"usage":null}\n\n' if stream_usage else b"}\n\n"
        self._before_text = self._start + b',"choices":[{"index":0,"text":'
        self._between = b',"logprobs":null,"finish_reason":'
        self._after_reason = b"}]" + tail
        self._after_text = self._between + b"null" + self._after_reason

    def start(self, so_far: AnswerSoFar) -> bytes:  # noqa: ARG002  # required by Encoder
        # This API has no first chunk. The comment sends the headers before the first text.
        return sse.COMMENT

    def text(self, index: int, text: str) -> bytes:  # noqa: ARG002  # there is one choice
        return self._before_text + orjson.dumps(text) + self._after_text

    def reasoning(self, index: int, text: str) -> bytes:  # noqa: ARG002  # left out
        return b""

    def finish(self, index: int, choice: Choice) -> bytes:  # noqa: ARG002  # there is one choice
        return self._before_text + b'""' + self._between + orjson.dumps(choice.finish_reason) + self._after_reason

    def end(self, so_far: AnswerSoFar) -> bytes:
        if not self.keeps_text:
            return sse.DONE
        usage = orjson.dumps(encode_usage(so_far.usage()))
        return self._start + b',"choices":[],"usage":' + usage + b"}\n\n" + sse.DONE

    def fail(self, failure: Failure) -> bytes:
        return sse.encode(orjson.dumps(openai_error(failure))) + sse.DONE

    def whole(self, so_far: AnswerSoFar) -> dict[str, Any]:
        finish_reason = so_far.only.finish_reason
        choice = {"index": 0, "text": so_far.only.text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice], "usage": encode_usage(so_far.usage())}
