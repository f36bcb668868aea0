"""What can go wrong, as a tree whose leaves say what to do next.

    GatewayError                         status  blame
    ├─ InvalidRequest                       400  request   the client sent something that cannot be served
    │  ├─ FileTooLarge                      413  request   an image or a document has too many bytes
    │  └─ UnknownFile                       404  request   no such file, or another API key's
    ├─ TooManyFiles                         429  request   this API key has as many as it may have
    ├─ StorageFull                          507  ours      the disk has no room for an uploaded file
    ├─ StorageUnavailable                   503  ours      the folder of uploaded files cannot be written
    ├─ FileLost                             404  request   the bytes of an uploaded file are gone
    ├─ NotAuthorized                        401  request   our own API key is missing or wrong
    ├─ UnknownModel                         404  request
    ├─ ModelNotAllowed                      403  request   this API key may use other models only
    ├─ UnknownConversation                  404  request
    ├─ KeyLimited                           429  request   this API key has reached its own limit
    ├─ ConversationBusy                     409  request   another turn of it is running
    ├─ ConversationLost                     409  request   its account is gone, or Kimi no longer knows its chat
    ├─ ConversationTaken                    409  ours      another request owns the conversation now
    ├─ TooManyConversations                 429  request   this API key has as many as it may have
    ├─ IdempotentAnswerLost                 409  request   the answer for this Idempotency-Key cannot be had again
    ├─ OriginalRequestFailed                409  request   the first request with this key failed: send it again
    ├─ NoAccountFree                        429  account   all are busy or cooling down, for longer than QUEUE_WAIT_S
    ├─ NoAccount                            503  account   no Kimi account was added yet
    ├─ ShuttingDown                         503  ours      the process stops before the answer would end
    ├─ CheckUnavailable                     503  ours      no process could be started that checks JSON
    ├─ GatewayOverloaded                    503  ours      requests or answers need all memory that they may have
    ├─ BodyTooSlow                          408  request   the body did not come in time
    ├─ DatabaseUnavailable                  503  ours      the database is locked, away or broken
    ├─ ClientGone                           499  request   the client has closed its connection
    └─ UpstreamError                        502  upstream
       ├─ AccountRejected                   503  account   its token is expired, revoked or banned
       ├─ AccountForbidden                  403  account   flagged, or stopped by a bot wall
       ├─ AccountLimited                    429  account   too many requests
       ├─ QuotaSpent                        402  account   this model needs credits or a plan that it has not
       ├─ ModelUnavailable                  503  account   it does not serve this model; perhaps no account does
       ├─ RequestRefused                    400  request   this prompt, on any account
       │  ├─ FormRefused                    400  request   perhaps only the form in which the upstream was asked
       │  └─ Moderated                      400  request   its moderation refused, before any text of an answer
       ├─ ChatForbidden                     403  request   Kimi has disabled this chat
       ├─ ChatUnknown                       404  request   Kimi does not know this chat
       ├─ UpstreamOverloaded                503  upstream
       ├─ UpstreamConflict                  409  upstream  the chat is in a state that does not allow it
       ├─ AnswerRewritten                   502  upstream  Kimi took back text that was already passed on
       ├─ AnswerCancelled                   502  upstream  it was cancelled at Kimi, by another program or a person
       ├─ InvalidJsonAnswer                 502  upstream  not the JSON that was asked for, after one repair
       ├─ UpstreamUnavailable               502  upstream  connect, read, 5xx, redirect
       │  ├─ AnswerEmpty                    502  upstream  complete, and without any text
       │  ├─ ConnectionLost                 502  upstream  it failed, or ended before the answer did
       │  ├─ RenewalFailed                  502  upstream  an account's token could not be renewed for now
       │  └─ ProtocolUnavailable            502  upstream  the site does not serve this protocol
       ├─ UpstreamTimeout                   504  upstream  silence
       │  ├─ UpstreamSilent                 504  upstream  a connection that says nothing any more
       │  └─ EdgeTimeout                    504  upstream  Kimi's edge waited for Kimi in vain
       └─ UpstreamProtocolError             502  ours      an answer that this gateway cannot read

``status`` is for the client, ``blame`` is for the gateway. Errors are complete when they are made: ``replaced`` gives
a changed copy. Knows no JSON shape, no Flask, no requests.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

Blame = Literal["request", "account", "upstream", "ours"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit that was exceeded: ``limit`` requests, of which ``remaining`` are left; reset in ``reset_s``
    seconds."""

    limit: int
    remaining: int
    reset_s: float


class GatewayError(Exception):
    """A failure that the client may be shown. Its text holds no token and no message text."""

    status: ClassVar[int] = 500
    blame: ClassVar[Blame] = "ours"
    default_code: ClassVar[str | None] = None
    # The same request would fail again, so an SDK should not repeat it by itself.
    permanent: ClassVar[bool] = False
    # Whether the message may have reached the upstream, unless the error says otherwise.
    reached_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        rate_limit: RateLimit | None = None,
        reached_upstream: bool | None = None,
    ) -> None:
        """``code``: a machine-readable name. ``param``: the field of the request that is at fault. ``retry_after_s``:
        a wait in seconds after which a repetition makes sense. ``reached_upstream``: the message may stand in the
        upstream's chat, so that a repetition would send it a second time."""
        super().__init__(message)
        self.message: Final = message
        self.code: Final = code or self.default_code
        self.param: Final = param
        self.retry_after_s: Final = retry_after_s
        self.rate_limit: Final = rate_limit
        self.reached_upstream: Final = self.reached_by_default if reached_upstream is None else reached_upstream

    def replaced(self, **changes: Any) -> Self:
        """A copy with some of the constructor's arguments changed, caused by this error."""
        copy = type(self)(**{**self._arguments(), **changes})
        copy.__cause__ = self
        return copy

    def _arguments(self) -> dict[str, Any]:
        names = ("message", "code", "param", "retry_after_s", "rate_limit", "reached_upstream")
        return {name: getattr(self, name) for name in names}


def code_of(error: GatewayError) -> str:
    """A name for the error, for logs and counters: its code, else its class."""
    return error.code or type(error).__name__


class InvalidRequest(GatewayError):
    status = 400
    blame: ClassVar[Blame] = "request"
    permanent = True


class FileTooLarge(InvalidRequest):
    status = 413
    default_code = "file_too_large"


class UnknownFile(InvalidRequest):
    status = 404
    default_code = "file_not_found"


class TooManyFiles(GatewayError):
    status = 429
    blame: ClassVar[Blame] = "request"
    default_code = "file_limit"
    permanent = True


class StorageFull(GatewayError):
    status = 507
    default_code = "storage_full"
    permanent = True


class StorageUnavailable(GatewayError):
    status = 503
    default_code = "storage_unavailable"


class FileLost(GatewayError):
    status = 404
    blame: ClassVar[Blame] = "request"
    default_code = "file_lost"
    permanent = True


class NotAuthorized(GatewayError):
    status = 401
    blame: ClassVar[Blame] = "request"
    default_code = "invalid_api_key"
    permanent = True


class UnknownModel(GatewayError):
    status = 404
    blame: ClassVar[Blame] = "request"
    default_code = "model_not_found"
    permanent = True


class ModelNotAllowed(GatewayError):
    status = 403
    blame: ClassVar[Blame] = "request"
    default_code = "model_not_allowed"
    permanent = True


class UnknownConversation(GatewayError):
    status = 404
    blame: ClassVar[Blame] = "request"
    default_code = "conversation_not_found"
    permanent = True


class KeyLimited(GatewayError):
    status = 429
    blame: ClassVar[Blame] = "request"
    default_code = "rate_limit_exceeded"


class ConversationBusy(GatewayError):
    status = 409
    blame: ClassVar[Blame] = "request"
    default_code = "conversation_busy"


class ConversationLost(GatewayError):
    status = 409
    blame: ClassVar[Blame] = "request"
    default_code = "conversation_lost"
    permanent = True


class ConversationTaken(GatewayError):
    status = 409
    default_code = "conversation_taken"
    permanent = True


class TooManyConversations(GatewayError):
    status = 429
    blame: ClassVar[Blame] = "request"
    default_code = "conversation_limit"
    permanent = True


class IdempotentAnswerLost(GatewayError):
    status = 409
    blame: ClassVar[Blame] = "request"
    default_code = "answer_lost"
    permanent = True


class OriginalRequestFailed(GatewayError):
    status = 409
    blame: ClassVar[Blame] = "request"
    default_code = "first_request_failed"


class NoAccountFree(GatewayError):
    status = 429
    blame: ClassVar[Blame] = "account"
    default_code = "rate_limit_exceeded"


class NoAccount(GatewayError):
    status = 503
    blame: ClassVar[Blame] = "account"
    default_code = "no_account"
    permanent = True


class ShuttingDown(GatewayError):
    status = 503
    default_code = "server_shutting_down"


class CheckUnavailable(GatewayError):
    status = 503
    default_code = "check_unavailable"


class GatewayOverloaded(GatewayError):
    status = 503
    default_code = "gateway_overloaded"


class BodyTooSlow(GatewayError):
    status = 408
    blame: ClassVar[Blame] = "request"
    default_code = "body_too_slow"


# A person has to do something first. Seconds.
_UNWRITABLE_RETRY_S = 30.0


class DatabaseUnavailable(GatewayError):
    status = 503
    default_code = "database_unavailable"

    # How long a database usually needs to restart. Seconds.
    _RETRY_AFTER_S: ClassVar[float] = 5.0

    @classmethod
    def after(cls, driver_error: str, *, reached_upstream: bool, is_unwritable: bool = False) -> Self:
        """``driver_error``: the name of an exception of the database's driver. ``reached_upstream``: also where it is
        not known what the request has done. ``is_unwritable``: it can be read and not written."""
        if is_unwritable:
            return cls(
                "the database of the gateway cannot be written: its disk is full, read-only or broken; the owner of "
                "the gateway finds more in its log and with the doctor",
                code="database_not_writable",
                retry_after_s=_UNWRITABLE_RETRY_S,
                reached_upstream=reached_upstream,
            )
        return cls(
            f"the database of the gateway cannot be used now ({driver_error})",
            retry_after_s=cls._RETRY_AFTER_S,
            reached_upstream=reached_upstream,
        )


class ClientGone(GatewayError):
    status = 499
    blame: ClassVar[Blame] = "request"
    default_code = "client_closed_request"


class UpstreamError(GatewayError):
    status = 502
    blame: ClassVar[Blame] = "upstream"
    default_code = "upstream_error"
    reached_by_default = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        rate_limit: RateLimit | None = None,
        reached_upstream: bool | None = None,
        retry_after_is_upstreams: bool = False,
        model_only: bool = False,
    ) -> None:
        """``reached_upstream`` False: the upstream refused before it took anything in. ``retry_after_is_upstreams``:
        the upstream itself gave ``retry_after_s``. ``model_only``: it concerns the model, not the whole account."""
        super().__init__(
            message,
            code=code,
            param=param,
            retry_after_s=retry_after_s,
            rate_limit=rate_limit,
            reached_upstream=reached_upstream,
        )
        self.retry_after_is_upstreams: Final = retry_after_is_upstreams
        self.model_only: Final = model_only

    def _arguments(self) -> dict[str, Any]:
        own = {"retry_after_is_upstreams": self.retry_after_is_upstreams, "model_only": self.model_only}
        return {**super()._arguments(), **own}


class AccountRejected(UpstreamError):
    """No 401: clients take that for a word about their own key, and some show a sentence of their own instead."""

    status = 503
    blame: ClassVar[Blame] = "account"
    default_code = "account_token_rejected"
    permanent = True


class AccountUnavailable(AccountRejected):
    status = 503
    default_code = "account_unavailable"


class AccountForbidden(UpstreamError):
    status = 403
    blame: ClassVar[Blame] = "account"
    default_code = "forbidden"
    permanent = True


class AccountLimited(UpstreamError):
    status = 429
    blame: ClassVar[Blame] = "account"
    default_code = "rate_limit_exceeded"


class QuotaSpent(UpstreamError):
    """Permanent for SDKs: it takes a person to buy something, or weeks."""

    status = 402
    blame: ClassVar[Blame] = "account"
    default_code = "insufficient_quota"
    permanent = True


class ModelUnavailable(UpstreamError):
    status = 503
    blame: ClassVar[Blame] = "account"
    default_code = "model_unavailable"


class RequestRefused(UpstreamError):
    status = 400
    blame: ClassVar[Blame] = "request"
    permanent = True


class FormRefused(RequestRefused):
    """Said before anything was begun, and without a reason that speaks of something else."""


class Moderated(RequestRefused):
    """Kimi's moderation ended the answer before it had any text. After some text that is a finish reason."""

    default_code = "content_filter"


class ChatForbidden(UpstreamError):
    status = 403
    blame: ClassVar[Blame] = "request"
    default_code = "chat_forbidden"
    permanent = True


class ChatUnknown(UpstreamError):
    status = 404
    blame: ClassVar[Blame] = "request"
    default_code = "not_found"
    permanent = True


class UpstreamOverloaded(UpstreamError):
    status = 503
    default_code = "overloaded"


class UpstreamUnavailable(UpstreamError):
    status = 502


class AnswerEmpty(UpstreamUnavailable):
    """Kimi calls the answer complete, and it holds nothing: this is how it slows accounts down."""


class ConnectionLost(UpstreamUnavailable):
    """What the upstream was doing it may do all the same."""


class RenewalFailed(UpstreamUnavailable):
    """The account cannot be used until its token is renewed. Other accounts may have tokens that still work."""

    reached_by_default = False


class ProtocolUnavailable(UpstreamUnavailable):
    """The site does not serve this protocol, for any request. Another protocol may still be served."""


class UpstreamConflict(UpstreamError):
    status = 409
    default_code = "conflict"


class AnswerRewritten(UpstreamError):
    status = 502
    default_code = "answer_rewritten"


class AnswerCancelled(UpstreamError):
    status = 502
    default_code = "answer_cancelled"


class InvalidJsonAnswer(UpstreamError):
    """Permanent for SDKs: a retry might succeed, but two Kimi answers were already spent, so the caller must
    decide."""

    status = 502
    default_code = "invalid_json_answer"
    permanent = True


class ToolCallMissing(UpstreamError):
    """Permanent for SDKs, as ``InvalidJsonAnswer``."""

    status = 502
    default_code = "tool_call_missing"
    permanent = True


class ToolCallInvalid(UpstreamError):
    """Permanent for SDKs, as ``InvalidJsonAnswer``."""

    status = 502
    default_code = "tool_call_invalid"
    permanent = True


class UpstreamTimeout(UpstreamError):
    status = 504
    default_code = "timeout"


class UpstreamSilent(UpstreamTimeout):
    """As ``ConnectionLost``."""


class EdgeTimeout(UpstreamTimeout):
    """The turn may have begun all the same."""


class UpstreamProtocolError(UpstreamError):
    status = 502
    blame: ClassVar[Blame] = "ours"
    default_code = "upstream_protocol_error"
