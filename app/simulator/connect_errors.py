"""The Connect generation's errors: their codes, reasons and texts, as HTTP replies and as frames.

Knows section 5.7 of the protocol notes. Must never know when which one is sent.
"""

from __future__ import annotations

import json

from app.simulator import edge
from app.simulator.envelope import END_OF_STREAM, envelope
from app.simulator.http1 import Reply, json_bytes, json_reply
from app.simulator.knobs import Knobs

# Connect's own table of codes and HTTP statuses, for unary methods.
_STATUSES = {
    "canceled": 499,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "aborted": 409,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "out_of_range": 400,
    "resource_exhausted": 429,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
_BUSY = "Too many people are chatting with Kimi right now."

# Code, reason, human text. Reasons marked "invented" in the README are ours: the real ones are unpublished.
ERRORS: dict[str, tuple[str, str, str]] = {
    "token_invalid": ("unauthenticated", "REASON_INVALID_AUTH_TOKEN", "Session expired"),
    "account_abnormal": ("permission_denied", "REASON_ACCOUNT_ABNORMAL", "This account is restricted."),
    "forbidden_chat": ("permission_denied", "REASON_CHAT_FORBIDDEN", "This chat is disabled."),
    "stream_pushing": ("resource_exhausted", "REASON_CHAT_STREAMING", "Another answer is still streaming."),
    "anonymous_quota": ("resource_exhausted", "REASON_ANONYMOUS_QUOTA", "Please log in to go on."),
    "not_found": ("not_found", "REASON_CHAT_NOT_FOUND", "This chat does not exist."),
    "model_422": ("invalid_argument", "REASON_MODEL_UNKNOWN", "This model does not exist."),
    "bad_request": ("invalid_argument", "", ""),
    "json_200": ("unavailable", "REASON_UNAVAILABLE", "Please try again later."),
    "overloaded": ("resource_exhausted", "REASON_SERVER_OVERLOADED_FOR_FREE_USER", _BUSY),
    "end_error": ("resource_exhausted", "REASON_SERVER_OVERLOADED_FOR_FREE_USER", _BUSY),
    "frame_error": ("resource_exhausted", "REASON_SERVER_OVERLOADED_FOR_FREE_USER", _BUSY),
    "error_after_done": ("resource_exhausted", "REASON_SERVER_OVERLOADED_FOR_FREE_USER", _BUSY),
    "too_long": ("invalid_argument", "REASON_CONTEXT_TOO_LONG", "The conversation is too long."),
    "quota": ("resource_exhausted", "REASON_QUOTA_EXCEEDED", "Your quota is spent."),
    "membership": ("permission_denied", "REASON_MEMBERSHIP_REQUIRED", "This model is for members."),
    "paywall": ("resource_exhausted", "REASON_PAYWALL", "Upgrade to go on."),
    "message_not_found": ("not_found", "REASON_CHAT_MESSAGE_NOT_FOUND", "This message does not exist."),
    "upstream_error": ("resource_exhausted", "", ""),
    "unknown_file": ("invalid_argument", "REASON_FILE_NOT_FOUND", "This file does not exist."),
    "unfinished_file": ("failed_precondition", "REASON_FILE_PROCESSING", "This file is still being read."),
    "upload_refused": ("invalid_argument", "REASON_FILE_REFUSED", "This file is too large."),
}
EXCEPTIONS = {
    "exception": ("REASON_COMPLETION_OVERLOADED", "不好意思，刚刚和Kimi聊的人太多了。"),
    "top_exception": ("REASON_COMPLETION_OVERLOADED", "不好意思，刚刚和Kimi聊的人太多了。"),
    "error_unknown": ("REASON_UNKNOWN", "未知错误"),
    "moderated": ("REASON_CONTENT_BLOCKED", "让我们换个话题再聊聊吧。"),
    "moderated_before": ("REASON_CONTENT_BLOCKED", "让我们换个话题再聊聊吧。"),
}
# Refused by the gateway in front of the chat service: plain HTTP, also on the streaming method.
BEFORE_THE_STREAM = ("token_invalid", "account_abnormal", "json_200")
END_ERRORS = (
    "overloaded",
    "end_error",
    "frame_error",
    "error_after_done",
    "too_long",
    "quota",
    "membership",
    "paywall",
    "message_not_found",
    "upstream_error",
)


def error_body(name: str, knobs: Knobs) -> dict[str, object]:
    """Connect's error object; the human text is in the details, as observed, not in `message`."""
    code, reason, text = ERRORS[name]
    reason, text = knobs.fail_reason or reason, knobs.fail_message or text
    error: dict[str, object] = {"code": knobs.fail_code or code}
    if knobs.fail_message:
        error["message"] = knobs.fail_message
    elif name == "upstream_error":
        error["message"] = "upstream error"
    if reason:
        debug: dict[str, object] = {"reason": reason, "localizedMessage": {"locale": "en-US", "message": text}}
        if name == "paywall":
            debug["paywall"] = json.loads(knobs.paywall)
        error["details"] = [{"debug": debug}]
    return error


def refusal(name: str, knobs: Knobs, path: str) -> Reply | None:
    """The HTTP reply that refuses a call, or None when the fault is of another kind."""
    if name == "refresh_400":
        return json_reply({}, knobs.fail_status or 400, edge.retry_after(knobs))
    if name not in ERRORS:
        return edge.refusal(name, knobs, path)
    error = error_body(name, knobs)
    status = 200 if name == "json_200" else _STATUSES.get(str(error["code"]), 500)
    return json_reply(error, knobs.fail_status or status, edge.retry_after(knobs))


def refuse(name: str) -> Reply:
    """The service's own refusal of a call, which no knob has asked for."""
    reply = refusal(name, Knobs(), "")
    assert reply
    return reply


def end_frame(name: str, knobs: Knobs) -> bytes:
    """The end of a stream that failed."""
    return envelope(json_bytes({"error": error_body(name, knobs)}), END_OF_STREAM)
