"""What Kimi's failures mean: the table of ``kimi-protocol.md`` section 7, one row per signal.

Knows statuses, error types, Connect's codes and reasons, and who is to blame. Must never know paths, bodies of
requests, or who retries.
"""

import re
import time
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    AnswerEmpty,
    ChatForbidden,
    ChatUnknown,
    EdgeTimeout,
    FormRefused,
    ModelUnavailable,
    Moderated,
    ProtocolUnavailable,
    QuotaSpent,
    RequestRefused,
    UpstreamConflict,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.upstreams.account import Account, describe_expiry
from app.upstreams.kimi.http import Reply
from app.upstreams.kimi.json_frames import join_surrogates
from app.upstreams.kimi.set_phrases import contained_meaning


@dataclass(frozen=True, slots=True)
class _Row:
    """What one signal becomes. ``says`` is our sentence; Kimi's own words follow in brackets."""

    error: type[UpstreamError]
    says: str
    code: str | None = None
    retry_after_s: float | None = None
    model_only: bool = False


_TOKEN = _Row(
    AccountRejected, "Kimi does not accept the token any more; add a new one: `flask --app wsgi accounts add`"
)
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
_MODERATED = _Row(Moderated, "Kimi's moderation refuses this text; other words are needed, not another try")
_ANONYMOUS = _Row(
    AccountRejected,
    "Kimi asks for a login: this token's free quota is spent; paste a token of a real account",
)

_UNKNOWN_CHAT = _Row(ChatUnknown, "Kimi does not know this chat any more; start a new conversation")
_LIMITED = _Row(AccountLimited, "Kimi limits this account; wait before the next request")
_MODEL_LIMITED = _Row(
    AccountLimited, "Kimi limits this model for this account; wait, or use another one", model_only=True
)
# Plain chat needs no credits (kimi-protocol-2.md 5.6), so an account without any still serves that.
_QUOTA = _Row(
    AccountLimited, "the quota of this account or plan is spent", "insufficient_quota", 600, model_only=True
)
_PAYWALL = _Row(QuotaSpent, "Kimi wants a plan or credits for this model, which this account does not have")
_MODEL_AWAY = _Row(ModelUnavailable, "Kimi does not serve this model now", retry_after_s=60, model_only=True)
_FAULT = _Row(UpstreamError, "Kimi failed")
_REFUSED = _Row(RequestRefused, "Kimi refuses this request: its form, its model, or its length", "request_refused")
_FORM_REFUSED = replace(_REFUSED, error=FormRefused)
_CONFLICT = _Row(UpstreamConflict, "Kimi cannot do this in the chat's present state; try again", retry_after_s=5)

# `error_type` of the SSE generation, in a body (E1, E5, E7, E8, E14, E20) or in an event (E9, E10).
_BY_ERROR_TYPE = {
    "auth.token.invalid": _TOKEN,
    "auth.account_abnormal": _FLAGGED,
    "chat.forbidden": _Row(ChatForbidden, "Kimi has disabled this chat"),
    "chat.not_found": _UNKNOWN_CHAT,
    "chat.user_stream_pushing": _BUSY,
    "openai.completion.stream": _OVERLOADED,
    "openai.completion.token_length_too_long": _TOO_LONG,
}

# Texts that were seen beside no error type that is certain (E8, E14), and one that nine accounts got for one model
# while another one worked (N3).
_BY_TEXT = {"发送频率过高": _BUSY, "匿名聊天使用次数超过": _ANONYMOUS, "upstream error": _MODEL_AWAY}

# Statuses, where the body names no error type that we know (E6, E20, E21). 413 is HTTP's own: the body is too large
# for Kimi or for a proxy before it.
_BY_STATUS = {
    401: _TOKEN,
    403: _Row(AccountForbidden, "Kimi refuses this account or this address (perhaps a bot wall)"),
    404: _UNKNOWN_CHAT,
    408: _Row(UpstreamUnavailable, "Kimi gave up waiting"),
    413: _TOO_LONG,
    422: _Row(UpstreamProtocolError, "Kimi refuses the model or the form of the request"),
    429: _LIMITED,
    # Of the edge, in agent scenarios (N5).
    504: _Row(EdgeTimeout, "Kimi's edge gave up waiting for Kimi"),
}

# `reason` of the Connect generation: the published ones (E2, E15, E17). For all others the code counts.
_BY_REASON = {
    "REASON_INVALID_AUTH_TOKEN": _TOKEN,
    "REASON_SERVER_OVERLOADED_FOR_FREE_USER": _Row(
        AccountLimited, "Kimi is overloaded and turns free accounts away; try again later", retry_after_s=10
    ),
    "REASON_COMPLETION_OVERLOADED": _OVERLOADED,
    # A `chat_id` or `parent_id` that Kimi does not know (N2).
    "REASON_CHAT_MESSAGE_NOT_FOUND": _UNKNOWN_CHAT,
}

# `code` of the Connect generation: Connect's own table of codes (E25), and names that tests of clients use (E26).
_BY_CODE = {
    "unauthenticated": _TOKEN,
    "permission_denied": _Row(AccountForbidden, "Kimi does not allow this account to do this"),
    "resource_exhausted": _LIMITED,
    "not_found": _UNKNOWN_CHAT,
    "invalid_argument": _REFUSED,
    "failed_precondition": _REFUSED,
    "out_of_range": _REFUSED,
    "already_exists": _CONFLICT,
    "aborted": _CONFLICT,
    "unimplemented": _Row(ProtocolUnavailable, "Kimi does not know this call; check KIMI_BASE_URL and KIMI_PROTOCOL"),
    "unavailable": _OVERLOADED,
    "deadline_exceeded": _Row(UpstreamTimeout, "Kimi gave up waiting for itself"),
    "canceled": _Row(UpstreamUnavailable, "Kimi cancelled the answer"),
    "internal": _FAULT,
    "unknown": _FAULT,
    "data_loss": _FAULT,
    "MODEL_RATE_LIMIT": _MODEL_LIMITED,
    "RATE_LIMITED": _LIMITED,
    "INTERNAL_ERROR": _FAULT,
}

# Nobody published the reasons of a spent quota (E16, Q19), nor those of a plan that is missing (P8): patterns.
_SPENT = {"quota", "credit", "credits"}
_NEEDS_PLAN = {"membership", "paywall"}

# What an unknown scenario or model is answered was not published either (Q24): a bare `invalid_argument`, or one
# whose reason speaks of them.
_OF_FORMS = {"model", "scenario"}

# No client published the names of moderation (E11, Q19). Read as such is what speaks of content, not of accounts:
# a type that begins with `content.`, a reason that begins with REASON_CONTENT_, or one with these words; all
# others are failures.
_MODERATION = {"moderation", "moderated", "sensitive", "censor", "censored"}
_MODERATION_STARTS = ("content.", "reason_content_")

# A Retry-After longer than this is cut. Seconds.
_MAX_WAIT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Said:
    """What an error says, in the shape of either protocol; empty where it says nothing."""

    error_type: str = ""
    code: str = ""
    reason: str = ""
    text: str = ""
    # It shows what to buy (N1, P8).
    paywall: bool = False

    @property
    def name(self) -> str:
        return self.error_type or self.reason or self.code


def refusal(reply: Reply, account: Account, site: str) -> UpstreamError:
    """The error for an answer that is not what was asked for: a status, a JSON body, or a web page.

    ``site`` is the address that was asked.
    """
    # A status says that nothing was begun, unless it is the server's own failure.
    reached = reply.status >= 500
    said = _read(reply.body)
    row = _row(said) or _BY_STATUS.get(reply.status)
    if row is not None:
        return _error(row, account, said.text, _retry_after(reply), reached)
    if 300 <= reply.status < 400:
        return _redirect(reply, account, site)
    if reply.status >= 500:
        retry_after_s = _retry_after(reply)
        return UpstreamUnavailable(
            f"{account.label}: Kimi answered {reply.status}{_quoted(said.text, account)}",
            retry_after_s=retry_after_s,
            retry_after_is_upstreams=retry_after_s is not None,
        )
    if reply.status == 200 and not said.name:
        return UpstreamProtocolError(
            f"{account.label}: expected a stream, got {reply.media_type or 'no type'!r} (perhaps a bot wall)",
            reached_upstream=reached,
        )
    return UpstreamError(
        f"{account.label}: Kimi answered {reply.status} {said.name}{_quoted(said.text, account)}".strip(),
        reached_upstream=reached,
    )


def words_of(reply: Reply, account: Account) -> str:
    """What a refusal says, in brackets; empty where it says nothing."""
    return _quoted(_read(reply.body).text, account)


def is_known_error(reply: Reply) -> bool:
    """Whether the service itself refused, in words that we know: then it serves this path."""
    return _row(_read(reply.body)) is not None


def succeeded(reply: Reply) -> bool:
    """Whether the service has done what it was asked for. A bot wall sends its page, and Kimi an error (3.10), with
    status 200, too."""
    return 200 <= reply.status < 300 and not reply.is_page and not _read(reply.body).name


def is_kimis_own(reply: Reply) -> bool:
    """Whether the service itself refused, also in words that are new to us: an ``error_type`` is Kimi's own, and
    Connect's codes are all known. A status, a page or a text may come from a proxy in between."""
    said = _read(reply.body)
    return _row(said) is not None or bool(said.error_type)


def in_stream(error: object, account: Account) -> UpstreamError:
    """The error for one that came in the stream, of either generation: an ``error`` event, an end-of-stream
    error, an exception."""
    said = _understand(error)
    row = _row(said)
    if row is not None:
        return _error(row, account, said.text, None, reached=True)
    return UpstreamError(
        f"{account.label}: Kimi ended the answer with {said.name or 'an error'}{_quoted(said.text, account)}"
    )


def tired(account: Account) -> UpstreamError:
    """The error for an answer that consists of Kimi's sentence for that (N7)."""
    return _error(_OVERLOADED, account, "", None, reached=True)


def empty_answer(account: Account) -> UpstreamError:
    """The error for an answer that Kimi calls complete and that holds nothing (E23)."""
    return AnswerEmpty(
        f"{account.label}: Kimi ended the answer without any text, as it does with accounts that it slows down; "
        "try again later, or with another account"
    )


def _row(said: _Said) -> _Row | None:
    # As in a stream, moderation counts before codes, which say less.
    return _by_detail(said) or (_MODERATED if _is_moderation(said) else _BY_CODE.get(said.code))


def _by_detail(said: _Said) -> _Row | None:
    """What says more than a code: a type, a reason, a text."""
    if said.paywall or _NEEDS_PLAN & _words(said):
        return _PAYWALL
    row = _BY_ERROR_TYPE.get(said.error_type) or _BY_REASON.get(said.reason) or _by_text(said.text)
    if row is None and said.code == "resource_exhausted" and _SPENT & (_words(said) | set(said.text.lower().split())):
        return _QUOTA
    if row is None and said.code == "invalid_argument" and (not said.reason or _OF_FORMS & _words(said)):
        return _FORM_REFUSED
    return row


def _is_moderation(said: _Said) -> bool:
    if contained_meaning(said.text) == "moderated":
        return True
    names = (said.error_type.lower(), said.reason.lower())
    return bool(_MODERATION & _words(said)) or any(name.startswith(_MODERATION_STARTS) for name in names)


def _words(said: _Said) -> set[str]:
    return set(re.split(r"[._]", f"{said.error_type}.{said.reason}".lower()))


def _error(row: _Row, account: Account, text: str, retry_after_s: float | None, reached: bool) -> UpstreamError:
    says = f"{account.label}: {row.says}"
    if row is _TOKEN and account.expires_at is not None and account.has_expired():
        says = describe_expiry(account.label, account.expires_at)
    return row.error(
        says + _quoted(text, account),
        code=row.code,
        retry_after_s=row.retry_after_s if retry_after_s is None else retry_after_s,
        retry_after_is_upstreams=retry_after_s is not None,
        model_only=row.model_only,
        reached_upstream=reached,
    )


def _redirect(reply: Reply, account: Account, site: str) -> UpstreamError:
    # Not followed: the token would go with the request, to wherever the answer says.
    host = _host(reply.headers.get("Location", ""))
    message = (
        f"{account.label}: Kimi redirects to {host or 'another address'}; "
        "if your account lives there, say so in KIMI_TOKENS (token@kimi.ai, token@kimi.com) or in KIMI_BASE_URL"
    )
    moved = host is not None and host != urlsplit(site).hostname
    kind = ProtocolUnavailable if moved else UpstreamUnavailable
    return kind(message, reached_upstream=False)


def _host(address: str) -> str | None:
    """The host of an address; None where there is none, or where what stands there cannot be one."""
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return None
    return host if host and host.isascii() else None


def _read(body: bytes) -> _Said:
    """What a JSON body says; nothing where it is something else."""
    try:
        return _understand(orjson.loads(body))
    except ValueError:
        return _Said()


def _understand(error: object) -> _Said:
    fields = _fields(error)
    # Connect hides the human text in the details (5.7); an exception of a block has it beside its reason.
    details = fields.get("details")
    all_debug = [_fields(_fields(detail).get("debug")) for detail in (details if isinstance(details, list) else ())]
    debug = next(iter(all_debug), {})
    texts = (
        fields.get("message"),
        *(_fields(part.get("localizedMessage")).get("message") for part in (fields, debug)),
    )
    return _Said(
        error_type=_name(fields.get("error_type")),
        code=_name(fields.get("code")),
        reason=_name(fields.get("reason")) or _name(debug.get("reason")),
        text=join_surrogates(next((text for text in texts if isinstance(text, str) and text), "")),
        # Their shapes are not known (P9).
        paywall=any(part.get(name) for part in (fields, *all_debug) for name in ("paywall", "needUpgrade")),
    )


def _fields(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: object) -> str:
    """A name as it may be shown and compared; empty for what is none."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:-]{1,100}", value, re.ASCII) else ""


def _by_text(text: str) -> _Row | None:
    row = next((row for part, row in _BY_TEXT.items() if part in text), None)
    return _OVERLOADED if row is None and contained_meaning(text) == "overloaded" else row


def _quoted(text: str, account: Account) -> str:
    """Kimi's words, fit for a client and for one line of the log: they may repeat what was sent, the token too."""
    text = (text.replace(account.token, "[secret]") if account.token else text)[:200]
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f" (Kimi says: {shown})" if shown else ""


def _retry_after(reply: Reply) -> float | None:
    """In seconds, a day at most; HTTP allows seconds and a date."""
    value = reply.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return min(float(value), _MAX_WAIT_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # "-0000" is UTC, too; Python gives it no time zone.
    seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
    return min(max(0.0, seconds), _MAX_WAIT_S)
