"""The errors of the SSE generation: refusals of a request, and errors that end a stream.

Source: section 7 and L1 of the protocol notes. Must never know when an error is sent.
"""

from __future__ import annotations

from app.simulator import edge
from app.simulator.http1 import Reply, json_reply
from app.simulator.knobs import Knobs

MODELS = ("kimi", "k1", "k1.5", "k2", "k1.5-thinking")

EXPIRED = "您的授权已过期，请重新登录"
_TIRED = "Kimi 现在有点累了，晚一点再来问问我吧！"

# The error types that the README lists under "What is invented" are not Kimi's: the real ones are not published.
_REFUSALS: dict[str, tuple[int, str, str]] = {
    "token_invalid": (401, "auth.token.invalid", EXPIRED),
    "account_abnormal": (403, "auth.account_abnormal", "账号异常，请重新登录"),
    "forbidden_chat": (403, "chat.forbidden", "此会话已被禁用"),
    "stream_pushing": (429, "chat.user_stream_pushing", "发送频率过高"),
    "anonymous_quota": (403, "chat.anonymous_quota", "匿名聊天使用次数超过限制，请登录后继续"),
    "not_found": (404, "chat.not_found", "会话不存在"),
    "model_422": (422, "request.invalid", f"model must be one of: {', '.join(MODELS)}"),
    "bad_request": (400, "request.invalid", "请求参数错误"),
    "json_200": (200, "chat.unavailable", "服务暂时不可用"),
}
STREAM_ERRORS: dict[str, tuple[str, str]] = {
    "overloaded": ("openai.completion.stream", _TIRED),
    "too_long": ("openai.completion.token_length_too_long", "会话长度已超过 200000 字，请新建会话"),
    "moderated": ("content.blocked", "尊敬的用户您好，让我们换个话题再聊聊吧。"),
    "moderated_before": ("content.blocked", "尊敬的用户您好，让我们换个话题再聊聊吧。"),
    "error_unknown": ("chat.something_new", "未知错误"),
}
STREAM_FAULTS = {
    "silent_headers",
    "silent_body",
    "empty",
    "empty_close",
    "done_only",
    "drop",
    *STREAM_ERRORS,
}


def refusal(name: str, knobs: Knobs, path: str, message: str = "") -> Reply | None:
    """The reply that refuses a request because of the fault `name`. None if the fault is not a refusal."""
    if name == "refresh_400":
        return json_reply({}, knobs.fail_status or 400, edge.retry_after(knobs))
    if name not in _REFUSALS:
        return edge.refusal(name, knobs, path)
    status, error_type, text = _REFUSALS[name]
    error = {"error_type": knobs.fail_code or error_type, "message": knobs.fail_message or message or text}
    return json_reply(error, knobs.fail_status or status, edge.retry_after(knobs))


def refuse(name: str, message: str = "") -> Reply:
    """A refusal by the service itself, without a knob."""
    reply = refusal(name, Knobs(), "", message)
    assert reply
    return reply
