"""What is done with those parameters that several APIs have in common: a sentence each, and their types.

Must never know the whole of any one API.
"""

from typing import Annotated, Any

from pydantic import Strict

from app.web.parameters import Use

# A number that is one: neither text nor true.
Number = Annotated[float, Strict()]


def _refuse_probabilities(value: Any) -> str | None:
    return "Kimi tells no probabilities" if value else None


MODEL = Use("honoured", "an id of `/v1/models`; an unknown one is a 404", "`/v1/models` 里的名称；未知的返回 404")
STREAM = Use("honoured", "`include_usage` too; usage is an estimate", "含 `include_usage`；用量为估算值")
SAMPLING = Use("ignored", "Kimi offers no such setting", "Kimi 没有这类设置", neutral=(1,))
PENALTY = Use("ignored", "Kimi offers no such setting", "Kimi 没有这类设置", neutral=(0,))
VENDOR = Use("ignored", "Kimi offers no such setting", "Kimi 没有这类设置")
SEED = Use("ignored", "two answers to one question differ", "同一问题的两次回答会不同")
BOOKKEEPING = Use(
    "ignored",
    "nothing is stored, billed or looked up by these",
    "不会据此存储、计费或查询",
    neutral=("auto", "default"),
)
STYLE = Use("ignored", "say it in a message", "请写在消息里", neutral=("medium",))
# Tool calling gets its place here: until then these are accepted, because most clients send tools with every chat.
TOOLS = Use(
    "ignored",
    "tools are never called; `tool_choice` other than `auto` and `none` is a 400",
    "不会调用工具；`tool_choice` 不是 `auto` 或 `none` 时返回 400",
    neutral=(True,),
)
PROBABILITIES = Use("refused", "Kimi tells no probabilities", "Kimi 不提供概率", _refuse_probabilities)
BIASES = Use(
    "refused", "Kimi takes no biases", "Kimi 不支持偏置", lambda value: "Kimi takes no biases" if value else None
)
CONVERSATION = Use(
    "honoured",
    "ours: the conversation that this turn belongs to, as in the path",
    "本网关自有：这一轮所属的对话，与写在路径里相同",
)
