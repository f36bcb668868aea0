"""What OpenAI's APIs have in common: the error, the usage, options of a stream, stop sequences.

Source of the shapes: OpenAI's API reference and what its clients need (openai-contract.md 1, 2026-11-23).
"""

from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictStr

from app.chat import ToolCall
from app.web.answer_response import Usage
from app.web.request_body import Fields

# One stop sequence: it is looked for in each piece of the answer.
StopText = Annotated[StrictStr, Field(max_length=1000)]
# `stop`: one string, or up to four.
Stop = StopText | Annotated[list[StopText], Field(max_length=4)]


class StreamOptions(Fields):
    include_usage: StrictBool | None = None


def call_id(call: ToolCall) -> str:
    """The id of a call, for chat completions and Responses."""
    return f"call_{call.id}"


def stop_sequences(stop: str | list[str] | None) -> tuple[str, ...]:
    """Without empty ones, which would end every answer at once."""
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop or []) if text)


def encode_usage(usage: Usage) -> dict[str, Any]:
    """Of chat completions and of completions."""
    cached = {} if usage.cached is None else {"prompt_tokens_details": {"cached_tokens": usage.cached}}
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        **cached,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
