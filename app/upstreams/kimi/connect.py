"""Generation 2: Connect-RPC, JSON in envelopes (``kimi-protocol.md`` 5, 6; 12 where it differs; and
``kimi-protocol-2.md`` 5, which wins).

Knows its paths and bodies; frames are ``connect_frames``'s. Must never know Flask, OpenAI's fields, retries,
other accounts or the other generation.
"""

import contextlib
import logging
from collections.abc import Collection, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import orjson

from app.chat import (
    LONG_TEXT,
    ChatRequest,
    Event,
    Message,
    Model,
    Notice,
    Options,
    Started,
    Unrecognised,
    text_message,
)
from app.concurrency.background import Cancellation, Cancelled
from app.concurrency.yielding import pause
from app.errors import (
    ChatUnknown,
    FormRefused,
    GatewayError,
    ProtocolUnavailable,
    RequestRefused,
    UpstreamError,
    UpstreamProtocolError,
)
from app.text.prompt import all_instructions, compose, split_instructions
from app.upstreams import ListedChat, PreparedTurn, Renew, Resume, Supports, attachments_of
from app.upstreams.account import Account
from app.upstreams.kimi import chat_lists, envelope
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.clients import KimiClients
from app.upstreams.kimi.connect_files import ConnectFiles
from app.upstreams.kimi.connect_frames import AnswerDecoder
from app.upstreams.kimi.connect_resume import BREAKS, BrokenAnswer, ResumePolicy
from app.upstreams.kimi.http import CONNECT_STREAM, Reply
from app.upstreams.kimi.json_frames import Reader, text_of
from app.upstreams.kimi.listing import Listing, parse_listing
from app.upstreams.kimi.long_prompts import NOTICE as LONG_PROMPT
from app.upstreams.kimi.long_prompts import as_file
from app.upstreams.kimi.model_table import ConnectForm, KimiModels
from app.upstreams.kimi.uploads import NO_FILES, SentFiles, Uploads, may_be_unknown_file

log = logging.getLogger(__name__)

_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/Chat"
_CANCEL_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/CancelChat"
_DELETE_CHAT = "/apiv2/kimi.chat.v1.ChatService/DeleteChat"
_LIST_CHATS = "/apiv2/kimi.chat.v1.ChatService/ListChats"
_LIST_MESSAGES = "/apiv2/kimi.gateway.chat.v1.ChatService/ListMessages"
_STATS = "/apiv2/kimi.gateway.membership.v2.MembershipService/GetSubscriptionStats"
_MODELS = "/apiv2/kimi.gateway.config.v1.ConfigService/GetAvailableModels"

# Nobody waits for a cancellation, and the generation that it stops ends by itself some day.
_CANCEL_S = 5.0


class KimiConnect:
    """Kimi's sites, spoken to in generation 2."""

    name = "kimi_connect"

    def __init__(
        self,
        clients: KimiClients,
        models: KimiModels,
        policy: ResumePolicy,
        uploads: Uploads,
        long_prompt_bytes: int = 0,
    ) -> None:
        """``long_prompt_bytes``: longer prompts are sent as files; 0: none."""
        self._long_prompt_bytes = long_prompt_bytes
        self._clients = clients
        self._uploads = uploads
        self._files = ConnectFiles(self.name, clients)
        self._policy = policy
        self._models = models

    supports = Supports(images=True, files=True)

    def models(self) -> Sequence[Model]:
        return self._models.of(self.name)

    def rank(self, model_id: str) -> int | None:
        return self._models.rank(model_id, self.name)

    def sites(self, model_id: str) -> Collection[str] | None:
        return self._models.sites(model_id)

    def unmet(self, model_id: str, options: Options) -> list[str]:
        return self._models.unmet(model_id, options)

    def prepare(self, request: ChatRequest, messages: Sequence[Message]) -> PreparedTurn:
        whole = compose(request, messages, self._models.wording(request.model))
        files = attachments_of(messages)
        # In an open chat of stateless requests each turn says them, too: nobody knows whether Kimi keeps the option.
        system, rest = all_instructions(request, messages) if request.is_continued else split_instructions(messages)
        # The chat of a conversation has to remember its instructions: nobody knows whether Kimi keeps the option.
        # With functions all stands in one text: the descriptions come before the client's own instructions.
        if not system or request.conversation_id is not None or whole.reads_calls:
            turn = PreparedTurn(request, whole, attachments=files)
            return as_file(turn, whole.text, self._long_prompt_bytes)
        turn = PreparedTurn(request, whole, system, compose(request, rest).text, files)
        said = whole.text
        if self._long_prompt_bytes and request.is_continued:
            # ``messages`` need not hold the instructions, and a turn whose text is in a file sends no option.
            said = compose(request, (text_message("system", system), *rest)).text
        return as_file(turn, said, self._long_prompt_bytes)

    def open(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None = None,
    ) -> Generator[Event, None, None]:
        """See ``Upstream.open``. Where it is called off in mid-answer, Kimi is told to stop as well."""
        if turn.attachments:
            return self._with_files(turn, account, resume, cancellation, renew)
        return self._in_a_form(turn, NO_FILES, account, resume, cancellation, renew)

    def _with_files(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None,
    ) -> Generator[Event, None, None]:
        if turn.is_in_file:
            yield Notice(LONG_PROMPT)
        files = yield from self._uploads.send(self._files, turn.attachments, account, cancellation)
        has_begun = False
        try:
            for event in self._in_a_form(turn, files, account, resume, cancellation, renew):
                has_begun = has_begun or isinstance(event, Started)
                yield event
            return
        except UpstreamError as e:
            if has_begun or not files.has_remembered or not may_be_unknown_file(e):
                raise
            log.info("files_forgotten account=%s error=%s", account.id, e.message)
        files = yield from self._uploads.send_again(self._files, turn.attachments, files, account, cancellation)
        yield from self._in_a_form(turn, files, account, resume, cancellation, renew)

    def _in_a_form(
        self,
        turn: PreparedTurn,
        files: SentFiles,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None,
    ) -> Generator[Event, None, None]:
        """Where Kimi refuses the form of the request before there is a chat, the next form of the same model is
        tried, once."""
        first = self._forms(turn, account)[0]
        refusal: FormRefused | None = None
        try:
            yield from self._turn(turn, files, first, account, resume, cancellation, renew)
            return
        except FormRefused as e:
            log.warning("form_refused model=%s form=%r", turn.request.model, first.way)
            # Not kept meanwhile: there is one list for each stream.
            others = [form for form in self._forms(turn, account) if form.way != first.way]
            if not others:
                raise
            refusal = e
        try:
            for event in self._turn(turn, files, others[0], account, resume, cancellation, renew):
                if refusal is not None and isinstance(event, Started):
                    refusal = None
                    self._models.refuse(account.site, first)
                    yield Unrecognised.of_refused_form(first.way)
                yield event
        except FormRefused:
            # It was not the form.
            if refusal is not None:
                raise refusal from None
            raise

    def _forms(self, turn: PreparedTurn, account: Account) -> list[ConnectForm]:
        return self._models.connect(turn.request.model, turn.request.options, account.site)

    def _turn(
        self,
        turn: PreparedTurn,
        files: SentFiles,
        form: ConnectForm,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None,
    ) -> Generator[Event, None, None]:
        """The turn in one form. Raises FormRefused only before there is a chat."""
        text, system = (turn.rest, turn.system) if turn.system and form.system_prompt else (turn.text, "")
        needs_pauses = len(text) > LONG_TEXT
        if needs_pauses:
            pause()
        body = envelope.encode(build_turn(text, form, resume, system, files.ids))
        if needs_pauses:
            pause()
        http = self._clients.of(account)
        own_tools = (("web_search",) if form.search else ()) if turn.request.offers_tools else None
        answer = AnswerDecoder(account, form.scenario, resume, text, own_tools)
        broken: BrokenAnswer | None = None
        try:
            try:
                with http.stream(_CHAT, account, body, CONNECT_STREAM, cancellation) as stream:
                    if not stream.ok or not stream.is_stream:
                        raise self._refusal(stream.whole(), account)
                    # Not kept for as long as the answer comes.
                    del body
                    if form.replaced:
                        yield Notice("model-replaced")
                    if self._policy.limit_s:
                        answer.on_named = partial(stream.limit_silence, self._policy.silence_s)
                    yield from answer.decode(stream.chunks())
                    stream.drain()
            except BREAKS as e:
                if not self._policy.limit_s or not answer.is_named:
                    raise
                broken = BrokenAnswer(answer, account, http, self._refusal, self._policy, renew, cancellation)
                yield from broken.rest(e)
        except (GeneratorExit, Cancelled):
            self._cancel(broken.account if broken is not None else account, answer)
            raise
        except UpstreamError as e:
            yield from answer.give_up()
            if isinstance(e, FormRefused) and answer.chat_id is not None:
                raise RequestRefused(e.message, code=e.code) from e
            raise

    def delete_chat(self, account: Account, chat_id: str) -> None:
        reply = self._clients.of(account).call("POST", _DELETE_CHAT, account, orjson.dumps({"chat_id": chat_id}))
        if not kimi_errors.succeeded(reply):
            error = self._refusal(reply, account)
            if not isinstance(error, ChatUnknown):
                raise error

    def asks(self, turn: PreparedTurn) -> Sequence[str]:
        """See ``Upstream.asks``: it depends on the form whether instructions are sent apart."""
        return (turn.rest, turn.text) if turn.system else (turn.text,)

    def latest_chats(self, account: Account) -> Iterator[ListedChat]:
        pages = self._pages(_LIST_CHATS, {"project_id": "", "query": ""}, "chats", account)
        return chat_lists.chats_of(pages, "createTime", "updateTime")

    def questions(self, account: Account, chat_id: str) -> Sequence[str]:
        pages = self._pages(_LIST_MESSAGES, {"chat_id": chat_id}, "messages", account)
        # Of one page: whoever looks for a new chat need not read a long one.
        asked = [message for message in next(pages, ()) if message.get("role") == "user"]
        if not asked:
            # No chat is without a question here: this is a list that is not understood.
            raise UpstreamProtocolError(f"{account.label}: Kimi sent no messages of a chat")
        return [_text_of(message) for message in reversed(asked)]

    def _pages(
        self, path: str, body: dict[str, Any], name: str, account: Account
    ) -> Iterator[Sequence[chat_lists.Fields]]:
        token = ""
        while True:
            sent = orjson.dumps({**body, "page_size": chat_lists.PAGE_SIZE, "page_token": token})
            reply = self._clients.of(account).call("POST", path, account, sent)
            fields = chat_lists.fields_of(reply, account, self._refusal)
            yield chat_lists.items_of(fields, name, account)
            token = fields.get("nextPageToken") or ""
            if not token:
                return

    def listing(self, account: Account) -> Listing:
        """The list of models of the account's site, which is public: the account may be nobody's, without a token.
        Raises UpstreamError."""
        reply = self._clients.of(account).call("POST", _MODELS, account, b"{}", authorize=bool(account.token))
        if not 200 <= reply.status < 300 or reply.media_type != "application/json":
            raise self._refusal(reply, account)
        return parse_listing(Reader().load(reply.body))

    def subscription(self, account: Account) -> object:
        """What Kimi says of the account's credits: for ``quota``. Raises UpstreamError."""
        reply = self._clients.of(account).call("POST", _STATS, account, b"{}")
        if not 200 <= reply.status < 300 or reply.media_type != "application/json":
            raise self._refusal(reply, account)
        return Reader().load(reply.body)

    def learn(self, site: str, listing: Listing) -> None:
        """The list of a site decides from now on."""
        self._models.learn(site, listing)

    def _refusal(self, reply: Reply, account: Account) -> UpstreamError:
        """What a chat that Kimi does not know gets is told in Connect's words; a path that is gone has none."""
        base_url = self._clients.of(account).base_url
        if reply.status in (404, 405, 410) and not kimi_errors.is_known_error(reply):
            return ProtocolUnavailable(
                f"{account.label}: {base_url} does not serve Kimi's Connect protocol (status {reply.status}); "
                "check KIMI_BASE_URL and KIMI_PROTOCOL"
            )
        return kimi_errors.refusal(reply, account, base_url)

    def _cancel(self, account: Account, answer: AnswerDecoder) -> None:
        """Best effort, in the reader's own thread, after the connection has been closed."""
        if answer.is_generating:
            ids = orjson.dumps({"chat_id": answer.chat_id, "message_id": answer.message_id})
            with contextlib.suppress(GatewayError):
                self._clients.of(account).call(
                    "POST", _CANCEL_CHAT, account, ids, Cancellation(), timeout_s=_CANCEL_S
                )


def _text_of(message: chat_lists.Fields) -> str:
    """The text of a message that was asked (5.8); what is no text in it is left out."""
    blocks = message.get("blocks")
    texts = [block.get("text") for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    return "".join(chat_lists.whole_text(text.get("content")) for text in texts if isinstance(text, dict))


def build_turn(
    prompt: str, form: ConnectForm, resume: Resume | None, system: str = "", file_ids: Sequence[str] = ()
) -> bytes:
    """The body of a turn (5.2), before it is put into its envelope. Kimi reads the one message only (L6), and
    ``system`` where the form takes it. Files come after the text (``kimi-protocol-2.md`` 2.4)."""
    files = [{"file": {"id": file_id, "status": "PROCESS_STATUS_SUCCESS"}} for file_id in file_ids]
    message: dict[str, Any] = {
        "role": "user",
        "blocks": [{"message_id": "", "text": {"content": text_of(prompt)}}, *files],
        "scenario": form.scenario,
    }
    body: dict[str, Any] = {
        "scenario": form.scenario,
        "tools": [{"type": "TOOL_TYPE_SEARCH", "search": {}}] if form.search else [],
        "message": message,
        "options": dict(form.options),
    }
    if system:
        body["options"]["system_prompt"] = system
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
