"""Generation 2: Connect-RPC, JSON in envelopes (``kimi-protocol.md`` 5, 6; 12 where it differs).

Knows its paths and bodies; frames are ``connect_frames``'s. Must never know Flask, OpenAI's fields, retries,
other accounts or the other generation.
"""

import contextlib
import logging
from collections.abc import Generator, Sequence
from typing import Any

import orjson

from app.chat import ChatRequest, Event, Message, Model, Options
from app.concurrency.background import Cancellation, Cancelled
from app.errors import ChatUnknown, GatewayError, ProtocolUnavailable, RequestRefused, UpstreamError
from app.text.prompt import compose
from app.upstreams import PreparedTurn, Resume, Supports
from app.upstreams.account import Account
from app.upstreams.kimi import envelope
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.connect_frames import AnswerDecoder
from app.upstreams.kimi.http import CONNECT_STREAM, KimiHttp, Reply
from app.upstreams.kimi.json_frames import Reader
from app.upstreams.kimi.model_table import ConnectForm, KimiModels, Offer, parse_offers

log = logging.getLogger(__name__)

_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/Chat"
_CANCEL_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/CancelChat"
_DELETE_CHAT = "/apiv2/kimi.chat.v1.ChatService/DeleteChat"
_MODELS = "/apiv2/kimi.gateway.config.v1.ConfigService/GetAvailableModels"

# Nobody waits for a cancellation, and the generation that it stops ends by itself some day.
_CANCEL_S = 5.0

# What answers 200 and is no stream: an error in JSON, a page of a bot wall.
_NO_STREAM = ("application/json", "text/html", "application/xhtml+xml")


class KimiConnect:
    """One Kimi site, spoken to in generation 2."""

    name = "kimi_connect"

    def __init__(self, http: KimiHttp, models: KimiModels) -> None:
        self._http = http
        self._models = models

    supports = Supports()

    def models(self) -> Sequence[Model]:
        return self._models.of(self.name)

    def rank(self, model_id: str) -> int | None:
        return self._models.rank(model_id, self.name)

    def unmet(self, model_id: str, options: Options) -> list[str]:
        return self._models.unmet(model_id, options)

    def prepare(self, request: ChatRequest, messages: Sequence[Message]) -> PreparedTurn:
        return PreparedTurn(request, compose(request, messages, self._models.wording(request.model)))

    def open(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
    ) -> Generator[Event, None, None]:
        """See ``Upstream.open``. Where it is called off in mid-answer, Kimi is told to stop as well."""
        form = self._models.connect(turn.request.model, turn.request.options)
        own_tools = (("web_search",) if form.search else ()) if turn.request.offers_tools else None
        answer = AnswerDecoder(account, form.scenario, resume, own_tools)
        body = envelope.encode(build_turn(turn.text, form, resume))
        try:
            with self._http.stream(_CHAT, account, body, CONNECT_STREAM, cancellation) as stream:
                if not stream.ok or stream.media_type in _NO_STREAM:
                    raise self._refusal(stream.whole(), account)
                yield from answer.decode(stream.chunks())
                stream.drain()
        except (GeneratorExit, Cancelled):
            self._cancel(account, answer)
            raise
        except RequestRefused as e:
            # As far as is known, only a request of a form that Kimi does not take any more (E19).
            log.warning("request_refused model=%s code=%s", turn.request.model, e.code or "invalid_argument")
            raise

    def delete_chat(self, account: Account, chat_id: str) -> None:
        reply = self._http.call("POST", _DELETE_CHAT, account, orjson.dumps({"chat_id": chat_id}))
        if not kimi_errors.succeeded(reply):
            error = self._refusal(reply, account)
            if not isinstance(error, ChatUnknown):
                raise error

    def offers(self, account: Account) -> tuple[Offer, ...]:
        """Kimi's own catalogue of models (6.2). Raises UpstreamError."""
        reply = self._http.call("POST", _MODELS, account, b"{}")
        if not 200 <= reply.status < 300 or reply.media_type != "application/json":
            raise self._refusal(reply, account)
        frame = Reader().load(reply.body)
        return parse_offers(frame.get("availableModels") if isinstance(frame, dict) else None)

    def _refusal(self, reply: Reply, account: Account) -> UpstreamError:
        """What a chat that Kimi does not know gets is told in Connect's words; a path that is gone has none."""
        if reply.status in (404, 405, 410) and not kimi_errors.is_known_error(reply):
            return ProtocolUnavailable(
                f"{account.label}: {self._http.base_url} does not serve Kimi's Connect protocol "
                f"(status {reply.status}); check KIMI_BASE_URL and KIMI_PROTOCOL"
            )
        return kimi_errors.refusal(reply, account, self._http.base_url)

    def _cancel(self, account: Account, answer: AnswerDecoder) -> None:
        """Best effort, in the reader's own thread, after the connection has been closed."""
        if answer.is_generating:
            ids = {"chat_id": answer.chat_id, "message_id": answer.message_id}
            with contextlib.suppress(GatewayError):
                self._http.call("POST", _CANCEL_CHAT, account, orjson.dumps(ids), Cancellation(), timeout_s=_CANCEL_S)


def build_turn(prompt: str, form: ConnectForm, resume: Resume | None) -> bytes:
    """The body of a turn (5.2), before it is put into its envelope. Kimi reads the one message only (L6)."""
    message: dict[str, Any] = {
        "role": "user",
        "blocks": [{"message_id": "", "text": {"content": prompt}}],
        "scenario": form.scenario,
    }
    body: dict[str, Any] = {
        "scenario": form.scenario,
        "tools": [{"type": "TOOL_TYPE_SEARCH", "search": {}}] if form.search else [],
        "message": message,
        "options": dict(form.options),
    }
    if form.kimiplus_id:
        body["kimiplus_id"] = form.kimiplus_id
    if form.agent_mode:
        body["agentMode"] = form.agent_mode
    if resume is not None:
        body["chat_id"] = resume.chat_id
        if resume.message_id:
            # The last answer that counts (5.5): what was said after it and failed is on a branch of its own.
            message["parent_id"] = resume.message_id
    return orjson.dumps(body)
