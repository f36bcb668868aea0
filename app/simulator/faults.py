"""The names of everything that can be made to go wrong, for the knob `fail`.

Knows the names and where each strikes; the bytes of each belong to the generation that sends them. Sources:
section 7 of the protocol notes (E1–E28).
"""

from __future__ import annotations

import re

REFUSALS = {
    "token_invalid": "401 auth.token.invalid / unauthenticated (E1, E2)",
    "account_abnormal": "403 auth.account_abnormal (E5)",
    "forbidden_html": "403 with an HTML page, as a bot wall sends it (E6)",
    "forbidden_chat": "403 chat.forbidden; Connect: permission_denied at the end of the stream (E7)",
    "stream_pushing": "429 chat.user_stream_pushing; Connect: resource_exhausted at the end (E8)",
    "anonymous_quota": "403 with 匿名聊天使用次数超过 (E14); strikes creating a chat as well as a turn",
    "not_found": "404 chat.not_found; Connect: not_found at the end of the stream (E20)",
    "model_422": "422 listing the allowed models (L1)",
    "bad_request": "400 JSON error; Connect: invalid_argument (E19)",
    "refresh_400": "400 with an empty JSON object, as banned accounts got on refresh (E4)",
    "redirect": "307 to redirect_to (E22)",
    "html_200": "200 text/html: a bot wall that looks like success",
    "json_200": "200 with a JSON error where a stream belongs (3.10)",
    "silent_headers": "the request is taken, nothing is ever answered (E24)",
}
STREAM_FAULTS = {
    "silent_body": "headers, then nothing until the client leaves (E24)",
    "empty": "a complete stream without any text (E23)",
    "empty_close": "the stream opens and closes at once: no text, no end marker (E23)",
    "done_only": "the text and `done`, then close: no all_done, no end of stream",
    "drop": "the body ends after fail_after tokens, by the knob `end` (close unless set)",
    "overloaded": "error event openai.completion.stream (E9); Connect: overloaded for free users (E15)",
    "too_long": "error event token_length_too_long (E10); Connect: invalid_argument (invented)",
    "moderated": "an error of moderation after fail_after (3) tokens (E11)",
    "moderated_before": "the same before any text",
    "error_unknown": "an error event nobody knows; Connect: block.exception REASON_UNKNOWN (E11, E18)",
    "exception": "Connect: block.exception with fail_reason and fail_severity (E17)",
    "top_exception": "Connect: the exception at the top level of the frame",
    "end_error": "Connect: error in the end-of-stream frame with fail_code, fail_reason, fail_message",
    "frame_error": "Connect: the same error in a data frame (flag 0x00)",
    "error_after_done": "Connect: `done` first, the error at the end of the stream (X14)",
    "quota": "Connect: resource_exhausted, REASON_QUOTA_EXCEEDED (E16, reason invented)",
    "membership": "Connect: permission_denied, REASON_MEMBERSHIP_REQUIRED (invented)",
    "paywall": "Connect: resource_exhausted with an object `paywall` in its details (N1)",
    "message_not_found": "Connect: not_found, REASON_CHAT_MESSAGE_NOT_FOUND (N2)",
    "upstream_error": "Connect: resource_exhausted with the message `upstream error` (N3); see fail_models",
    "cancelled": "Connect: the answer is cancelled after fail_after tokens (N6)",
}

_HTTP_STATUS = re.compile(r"http_([345]\d\d)")


def is_known(name: str) -> bool:
    """Whether `fail` may have this value; any `http_NNN` from 300 on may."""
    return name in REFUSALS or name in STREAM_FAULTS or _HTTP_STATUS.fullmatch(name) is not None


def plain_status(name: str) -> int | None:
    """The status that an `http_NNN` fault answers with, or None for the others."""
    match = _HTTP_STATUS.fullmatch(name)
    return int(match[1]) if match else None
