"""What can go wrong, as a tree whose leaves say what to do next.

    GatewayError                         status  blame
    ├─ InvalidRequest                       400  request   the client sent something we cannot serve
    ├─ NotAuthorized                        401  request   our own API key is missing or wrong
    ├─ UnknownModel                         404  request
    ├─ UnknownConversation                  404  request
    ├─ KeyLimited                           429  request   our own API key has asked for all that it may
    ├─ ConversationBusy                     409  request   another turn of it is running
    ├─ ConversationLost                     409  request   its account is gone, or Kimi no longer knows its chat
    ├─ ConversationTaken                    409  ours      another turn took it over while this one was frozen
    ├─ TooManyConversations                 429  request   its API key has as many as it may have
    ├─ AnswerLost                           409  request   the answer for this Idempotency-Key cannot be had again
    ├─ FirstRequestFailed                   409  request   nobody has asked yet for what this key was to repeat
    ├─ NoAccountFree                        429  account   all are busy or rest, for longer than anybody waits
    ├─ ClientGone                           499  request   nobody is listening any more
    └─ UpstreamError                        502  upstream
       ├─ AccountRejected                   401  account   its token is expired, revoked or banned
       ├─ AccountForbidden                  403  account   flagged, or stopped by a bot wall
       ├─ AccountLimited                    429  account   too much, too soon
       ├─ RequestRefused                    400  request   this prompt, on any account
       ├─ ChatForbidden                     403  request   Kimi has disabled this chat
       ├─ ChatUnknown                       404  request   Kimi does not know this chat
       ├─ UpstreamOverloaded                503  upstream
       ├─ UpstreamConflict                  409  upstream  the chat is in a state that does not allow it
       ├─ AnswerRewritten                   502  upstream  Kimi took back text that was already passed on
       ├─ InvalidJsonAnswer                 502  upstream  it is not the JSON that was asked for, mended neither
       ├─ UpstreamUnavailable               502  upstream  connect, read, 5xx, redirect
       │  ├─ AnswerEmpty                    502  upstream  complete, and without a word
       │  ├─ RenewalFailed                  502  upstream  an account's token could not be renewed, for now
       │  └─ GenerationGone                 502  upstream  the site does not serve this protocol (any more)
       ├─ UpstreamTimeout                   504  upstream  silence
       └─ UpstreamProtocolError             502  ours      an answer that we cannot read

``status`` is for the client, ``blame`` for the gateway. Knows no JSON shape, no Flask, no requests.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

Blame = Literal["request", "account", "upstream", "ours"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What was exceeded: ``limit`` requests, of which ``remaining`` are left; again in ``reset_s`` seconds."""

    limit: int
    remaining: int
    reset_s: float


class GatewayError(Exception):
    """A failure that can be told to the client; its text carries no token and no message text.

    ``code`` is a machine-readable name, ``param`` the field of the request that is at fault,
    ``retry_after_s`` a wait in seconds after which a repetition makes sense.
    """

    status: ClassVar[int] = 500
    blame: ClassVar[Blame] = "ours"
    default_code: ClassVar[str | None] = None
    # Repeating the same request cannot help, so an SDK should not do so by itself.
    permanent: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        # The message may have reached the upstream: repeating the request would say it there a second time.
        self.sent = False
        self.rate_limit: RateLimit | None = None


class InvalidRequest(GatewayError):
    status = 400
    blame: ClassVar[Blame] = "request"
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


class AnswerLost(GatewayError):
    status = 409
    blame: ClassVar[Blame] = "request"
    default_code = "answer_lost"
    permanent = True


class FirstRequestFailed(GatewayError):
    status = 409
    blame: ClassVar[Blame] = "request"
    default_code = "first_request_failed"


class NoAccountFree(GatewayError):
    status = 429
    blame: ClassVar[Blame] = "account"
    default_code = "rate_limit_exceeded"


class ShuttingDown(GatewayError):
    status = 503
    default_code = "server_shutting_down"


class ClientGone(GatewayError):
    status = 499
    blame: ClassVar[Blame] = "request"
    default_code = "client_closed_request"


class UpstreamError(GatewayError):
    """``told_wait``: the upstream itself has said ``retry_after_s``. ``concerns_model``: said of one model only."""

    status = 502
    blame: ClassVar[Blame] = "upstream"
    default_code = "upstream_error"
    # The upstream refused before it took anything in: the message is not in the chat.
    refused = False
    told_wait = False
    concerns_model = False


class AccountRejected(UpstreamError):
    status = 401
    blame: ClassVar[Blame] = "account"
    default_code = "invalid_api_key"
    permanent = True


class AccountForbidden(UpstreamError):
    status = 403
    blame: ClassVar[Blame] = "account"
    default_code = "forbidden"
    permanent = True


class AccountLimited(UpstreamError):
    status = 429
    blame: ClassVar[Blame] = "account"
    default_code = "rate_limit_exceeded"


class RequestRefused(UpstreamError):
    status = 400
    blame: ClassVar[Blame] = "request"
    permanent = True


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
    """Kimi calls the answer complete, and it holds nothing: so it slows accounts down."""


class RenewalFailed(UpstreamUnavailable):
    """The account is of no use until it is renewed; other accounts may have tokens that still work."""


class GenerationGone(UpstreamUnavailable):
    """Said of the protocol, not of this request: another generation may still be served."""


class UpstreamConflict(UpstreamError):
    status = 409
    default_code = "conflict"


class AnswerRewritten(UpstreamError):
    status = 502
    default_code = "answer_rewritten"


class InvalidJsonAnswer(UpstreamError):
    """Asking again may help, but two answers have been used up already: that is for somebody to decide."""

    status = 502
    default_code = "invalid_json_answer"
    permanent = True


class UpstreamTimeout(UpstreamError):
    status = 504
    default_code = "timeout"


class UpstreamProtocolError(UpstreamError):
    status = 502
    blame: ClassVar[Blame] = "ours"
    default_code = "upstream_protocol_error"
