"""What Kimi's failures mean: the table of ``kimi-protocol.md`` section 7, one row per signal.

Knows statuses, error types and whom to blame; must never know paths, bodies of requests, or who retries.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from app.accounts import Account, describe_expiry
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    ChatForbidden,
    ChatUnknown,
    RequestRefused,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from app.upstreams.kimi_http import Reply


@dataclass(frozen=True, slots=True)
class _Row:
    """What one signal becomes. ``says`` is our sentence; Kimi's own words follow it in brackets."""

    error: type[UpstreamError]
    says: str
    code: str | None = None
    retry_after_s: float | None = None


_TOKEN = _Row(AccountRejected, "Kimi does not accept the token any more; paste a new one into KIMI_TOKENS")
_FLAGGED = _Row(
    AccountForbidden,
    "Kimi has flagged this account; log in at the Kimi site, clear what it asks, and paste a new token",
    "account_abnormal",
)
_BUSY = _Row(AccountLimited, "another answer of this account or chat is still running", retry_after_s=5)
_OVERLOADED = _Row(UpstreamOverloaded, "Kimi is overloaded; try again later", retry_after_s=10)
_TOO_LONG = _Row(
    RequestRefused,
    "Kimi refuses this text as too long: This model's maximum context length is exceeded; shorten the messages",
    "context_length_exceeded",
)
_ANONYMOUS = _Row(
    AccountRejected,
    "Kimi asks for a login: this token's free quota is spent; paste a token of a real account",
)

# `error_type` of the SSE generation, in a body (E1, E5, E7, E8, E14, E20) or in an event (E9, E10).
_BY_ERROR_TYPE = {
    "auth.token.invalid": _TOKEN,
    "auth.account_abnormal": _FLAGGED,
    "chat.forbidden": _Row(ChatForbidden, "Kimi has disabled this chat"),
    "chat.not_found": _Row(ChatUnknown, "Kimi does not know this chat any more; start a new conversation"),
    "chat.user_stream_pushing": _BUSY,
    "openai.completion.stream": _OVERLOADED,
    "openai.completion.token_length_too_long": _TOO_LONG,
}

# Texts that were seen beside no error type that is certain (E8, E14).
_BY_TEXT = {"发送频率过高": _BUSY, "匿名聊天使用次数超过": _ANONYMOUS}

# Statuses that speak for themselves, where the body names no error type that we know (E6, E20, E21).
_BY_STATUS = {
    401: _TOKEN,
    403: _Row(AccountForbidden, "Kimi refuses this account or this address (perhaps a bot wall)"),
    404: _Row(ChatUnknown, "Kimi does not know this chat any more; start a new conversation"),
    408: _Row(UpstreamUnavailable, "Kimi gave up waiting"),
    422: _Row(UpstreamProtocolError, "Kimi refuses the model or the form of the request"),
    429: _Row(AccountLimited, "Kimi limits this account; wait before the next request"),
}

# No client published the error types of moderation (E11, Q19). Read as such is what speaks of content, not of
# accounts: a type that begins with `content.`, or has one of these words; all other types are failures.
_MODERATION = {"moderation", "moderated", "sensitive", "censor", "censored"}


def refusal(reply: Reply, account: Account) -> UpstreamError:
    """The error for an answer that is not what was asked for: a status, a JSON body, or a page."""
    error_type, text = _read(reply.body)
    row = _BY_ERROR_TYPE.get(error_type) or _by_text(text) or _BY_STATUS.get(reply.status)
    if row is not None:
        return _error(row, account, text, _retry_after(reply))
    if 300 <= reply.status < 400:
        return _redirect(reply, account)
    if reply.status >= 500:
        return UpstreamUnavailable(
            f"{account.label}: Kimi answered {reply.status}{_quoted(text)}", retry_after_s=_retry_after(reply)
        )
    if reply.status == 200 and not error_type:
        return UpstreamProtocolError(
            f"{account.label}: expected text/event-stream, got {reply.media_type or 'no type'!r} (perhaps a bot wall)"
        )
    return UpstreamError(f"{account.label}: Kimi answered {reply.status} {error_type}{_quoted(text)}".strip())


def in_stream(error: object, account: Account) -> UpstreamError | None:
    """The error for an ``error`` event; None where it says that the answer was moderated."""
    fields = error if isinstance(error, dict) else {}
    error_type, text = str(fields.get("error_type") or ""), str(fields.get("message") or "")
    row = _BY_ERROR_TYPE.get(error_type) or _by_text(text)
    if row is not None:
        return _error(row, account, text, None)
    words = error_type.lower().replace("_", ".").split(".")
    if words[0] == "content" or _MODERATION & set(words):
        return None
    return UpstreamError(f"{account.label}: Kimi ended the answer with {error_type or 'an error'}{_quoted(text)}")


def _error(row: _Row, account: Account, text: str, retry_after_s: float | None) -> UpstreamError:
    says = f"{account.label}: {row.says}"
    if row is _TOKEN and account.expires_at is not None and account.has_expired():
        says = describe_expiry(account.label, account.expires_at)
    return row.error(
        says + _quoted(text),
        code=row.code,
        retry_after_s=row.retry_after_s if retry_after_s is None else retry_after_s,
    )


def _redirect(reply: Reply, account: Account) -> UpstreamError:
    # Not followed: the token would go with the request, to wherever the answer says.
    host = urlsplit(reply.headers.get("Location", "")).hostname or "another address"
    return UpstreamUnavailable(
        f"{account.label}: Kimi redirects to {host}; set KIMI_BASE_URL to the site that your account lives on"
    )


def _read(body: bytes) -> tuple[str, str]:
    """Error type and message of a JSON body; empty where it is something else."""
    try:
        fields = orjson.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(fields, dict):
        return "", ""
    return str(fields.get("error_type") or ""), str(fields.get("message") or "")


def _by_text(text: str) -> _Row | None:
    return next((row for part, row in _BY_TEXT.items() if part in text), None)


def _quoted(text: str) -> str:
    return f" (Kimi says: {text[:200]})" if text else ""


def _retry_after(reply: Reply) -> float | None:
    value = reply.headers.get("Retry-After", "")
    return min(float(value), 86_400.0) if value.isascii() and value.isdigit() else None
