"""Rules of parameters that several APIs have in common.

Must never know the whole of any one API.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict, StrictInt

from app.chat import Effort
from app.web.parameters import ParameterRule

# A number that is one: neither text nor true.
Number = Annotated[float, Strict()]


def _whole(value: Any) -> Any:
    """1024.0 is 1024 in JSON, where numbers have no kinds; some languages write every number so."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


# Reads a whole number in either form. Behind the limits of a field, which are otherwise missing in its JSON schema.
WHOLE = BeforeValidator(_whole)


def _limit(value: Any) -> Any:
    """-1 is "as many as there are" for programs that were written for llama.cpp, and their users."""
    whole = _whole(value)
    return None if whole == -1 and not isinstance(value, bool) else whole


# A limit of tokens; None: there is none.
TokenLimit = Annotated[StrictInt | None, Field(ge=1), BeforeValidator(_limit)]


def known_effort(value: Any) -> Any:
    """Menus of programs have an entry for "as the model likes it"."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    return None if word in ("", "auto", "default") else word


# How much to think; None: as the model is.
EffortChoice = Annotated[Effort | None, BeforeValidator(known_effort)]


def _refuse_probabilities(value: Any) -> str | None:
    return "Kimi gives no probabilities" if value else None


MODEL = ParameterRule(
    "honoured", "an id of `/v1/models`; an unknown one is a 404", "`/v1/models` 里的名称；未知的返回 404"
)
STREAM = ParameterRule("honoured", "`include_usage` too; usage is an estimate", "含 `include_usage`；用量为估算值")
STREAM_ONLY = ParameterRule("honoured", "server-sent events", "服务器推送事件")
STOP = ParameterRule(
    "honoured",
    "up to 4 strings; the answer ends before the first that occurs, and so does Kimi's",
    "最多 4 个字符串；在最先出现的那个之前结束，同时停止 Kimi 的生成",
)
SAMPLING = ParameterRule("ignored", "not available on kimi.com", "kimi.com 没有这类设置", neutral=(1,))
PENALTY = ParameterRule("ignored", "not available on kimi.com", "kimi.com 没有这类设置", neutral=(0,))
VENDOR = ParameterRule("ignored", "not available on kimi.com", "kimi.com 没有这类设置")
SEED = ParameterRule("ignored", "two answers to one question differ", "同一问题的两次回答会不同")
BOOKKEEPING = ParameterRule(
    "ignored",
    "accepted for compatibility; this gateway has no storage, billing or lookup that uses them",
    "仅为兼容而接受；本网关没有使用它们的存储、计费或查询",
    neutral=("auto", "default"),
)
STYLE = ParameterRule("ignored", "write it in a message", "请写在消息里", neutral=("medium",))
PROBABILITIES = ParameterRule("refused", "Kimi gives no probabilities", "Kimi 不提供概率", _refuse_probabilities)
BIASES = ParameterRule(
    "refused", "Kimi takes no biases", "Kimi 不支持偏置", lambda value: "Kimi takes no biases" if value else None
)


def thinks(effort: Effort | None) -> bool | None:
    """Whether an effort asks for a model that thinks; None: it does not say."""
    return None if effort is None else effort not in ("none", "minimal")


CONVERSATION = ParameterRule(
    "honoured",
    "ours: the conversation that this turn belongs to, as in the path",
    "本网关自有：这一轮所属的对话，与写在路径里相同",
)
