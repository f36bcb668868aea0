"""The request body of OpenAI's legacy Completions: one prompt, and a rule for each parameter.

Source: OpenAI's API reference and openai-contract.md 2 (2026-11-23). LlamaIndex's OpenAILike calls it by default.
Only the texts for people may mention Kimi.
"""

from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, StrictStr

from app.chat import ChatRequest, Options, text_message
from app.errors import InvalidRequest
from app.web.accepted_request import AnswerParameters
from app.web.openai_shapes import Stop, StreamOptions, stop_sequences
from app.web.parameters import ParameterRule
from app.web.request_body import Many
from app.web.shared_parameters import (
    BIASES,
    BOOKKEEPING,
    CONVERSATION,
    MODEL,
    PENALTY,
    SAMPLING,
    SEED,
    STOP,
    STREAM,
    WHOLE,
    Number,
    TokenLimit,
)

_PROMPT = ParameterRule(
    "honoured",
    "one text; several texts or token numbers are a 400",
    "一段文本；多段文本或 token 数组返回 400",
)
_MAX_TOKENS = ParameterRule(
    "honoured",
    "by estimate, thinking included; without it the answer is complete, while OpenAI stops after 16 tokens",
    "按估算值（含思考）截断；不设置时给出完整回答（OpenAI 会在 16 个 token 后截断）",
)
_ONE = ParameterRule(
    "refused",
    "more than one answer",
    "多于一个回答",
    lambda value: None if value == 1 else "only one answer is supported: leave it out or send 1",
)
_OTHER_TEXT = ParameterRule(
    "refused",
    "anything but the text that follows the prompt",
    "除接在提示词后面的文本以外的内容",
    lambda value: "only the text that follows the prompt is returned" if value else None,
)
# 0 is a request too: for the probability of each chosen token.
_LOGPROBS = ParameterRule(
    "refused",
    "Kimi gives no probabilities",
    "Kimi 不提供概率",
    lambda value: None if value is False else "Kimi gives no probabilities",
)


class Body(AnswerParameters):
    """The body of ``POST /v1/completions``."""

    model: Annotated[StrictStr, MODEL]
    prompt: Annotated[StrictStr | Many[StrictStr | StrictInt | Many[StrictInt]], _PROMPT]
    stream: Annotated[StrictBool | None, STREAM] = None
    stream_options: Annotated[StreamOptions | None, STREAM] = None
    max_tokens: Annotated[TokenLimit, _MAX_TOKENS] = None
    stop: Annotated[Stop | None, STOP] = None
    conversation_id: Annotated[StrictStr | None, CONVERSATION] = None

    temperature: Annotated[Number | None, Field(ge=0, le=2), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    frequency_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    presence_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    seed: Annotated[StrictInt | None, WHOLE, SEED] = None
    user: Annotated[StrictStr | None, BOOKKEEPING] = None

    n: Annotated[StrictInt | None, WHOLE, _ONE] = None
    best_of: Annotated[StrictInt | None, WHOLE, _ONE] = None
    echo: Annotated[Any, _OTHER_TEXT] = None
    suffix: Annotated[Any, _OTHER_TEXT] = None
    logprobs: Annotated[Any, _LOGPROBS] = None
    logit_bias: Annotated[Any, BIASES] = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with usage. An answer that is not streamed always has usage."""
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)

    @property
    def named_conversation(self) -> str | None:
        return self.conversation_id

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest, naming the field: if the prompt or a stop string cannot be used."""
        options = Options(max_tokens=self.max_tokens, stop=stop_sequences(self.stop))
        messages = (text_message("user", self._text()),)
        return ChatRequest(self.model, messages, conversation_id, options, messages_field="prompt")

    def _text(self) -> str:
        match self.prompt:
            case str(text) | [str(text)]:
                return text
            case [str(), *_] | []:
                raise InvalidRequest("prompt: send one text; several texts are not supported", param="prompt")
        raise InvalidRequest("prompt: send text; token numbers are not supported", param="prompt")
