"""Generation 1: REST calls and JSON in server-sent events (``kimi-protocol.md`` 3; L1 and L2 of 12).

Knows its paths and bodies; frames are ``rest_frames``'s. Must never know Flask, OpenAI's fields, retries, other
accounts or the other generation.
"""

import logging
import re
import threading
from collections.abc import Collection, Generator, Iterator, Sequence

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
)
from app.concurrency.background import Cancellation
from app.concurrency.yielding import pause
from app.errors import ChatUnknown, ProtocolUnavailable, UpstreamError, UpstreamProtocolError
from app.text.prompt import compose
from app.upstreams import ListedChat, PreparedTurn, Renew, Resume, Supports, attachments_of
from app.upstreams.account import Account
from app.upstreams.kimi import chat_lists
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.clients import KimiClients
from app.upstreams.kimi.http import Reply
from app.upstreams.kimi.json_frames import dump, text_of
from app.upstreams.kimi.long_prompts import NOTICE as LONG_PROMPT
from app.upstreams.kimi.long_prompts import as_file
from app.upstreams.kimi.model_table import KimiModels, SseForm
from app.upstreams.kimi.rest_files import RestFiles
from app.upstreams.kimi.rest_frames import AnswerDecoder
from app.upstreams.kimi.uploads import NO_FILES, Uploads, may_be_unknown_file

log = logging.getLogger(__name__)

# How long the id of a new chat is waited for when nobody wants its answer any more. Seconds.
_OPENING_S = 5.0


class KimiRest:
    """Kimi's sites, spoken to in generation 1."""

    name = "kimi_rest"

    def __init__(
        self,
        clients: KimiClients,
        models: KimiModels,
        uploads: Uploads,
        *,
        max_continuations: int,
        long_prompt_bytes: int,
    ) -> None:
        """``long_prompt_bytes``: longer prompts are sent as files; 0: none."""
        self._long_prompt_bytes = long_prompt_bytes
        self._clients = clients
        self._uploads = uploads
        self._files = RestFiles(self.name, clients)
        self._models = models
        self._max_continuations = max_continuations

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
        prompt = compose(request, messages, self._models.wording(request.model))
        turn = PreparedTurn(request, prompt, attachments=attachments_of(messages))
        return as_file(turn, prompt.text, self._long_prompt_bytes)

    def open(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None = None,  # noqa: ARG002  # a broken stream cannot be resumed here
    ) -> Generator[Event, None, None]:
        """See ``Upstream.open``. Answers that Kimi cuts at its length limit are continued (3.9)."""
        wire = self._models.sse(turn.request.model, turn.request.options)
        chat_id = resume.chat_id if resume else self._create_chat(account, cancellation)
        yield Started(chat_id)
        files = NO_FILES
        if turn.is_in_file:
            yield Notice(LONG_PROMPT)
        if turn.attachments:
            files = yield from self._uploads.send(self._files, turn.attachments, account, cancellation)
        needs_pauses = len(turn.text) > LONG_TEXT
        if needs_pauses:
            pause()
        body = build_turn(turn.text, wire, files.ids)
        if needs_pauses:
            pause()
        path = f"/api/chat/{chat_id}/completion/stream"
        answer = AnswerDecoder(account, self._clients.of(account).base_url, turn.text)
        left = self._max_continuations
        while True:
            try:
                with self._clients.of(account).stream(
                    path, account, body, "application/json", cancellation
                ) as stream:
                    if not stream.ok or not stream.is_stream:
                        raise self._refusal(stream.whole(), account)
                    # Not kept for as long as the answer comes. Another try makes it anew.
                    body = b""
                    yield from answer.decode(stream.lines(), is_last=left == 0)
                    stream.drain()
            except UpstreamError as e:
                if files.has_remembered and not e.reached_upstream and may_be_unknown_file(e):
                    log.info("files_forgotten account=%s error=%s", account.id, e.message)
                    files = yield from self._uploads.send_again(
                        self._files, turn.attachments, files, account, cancellation
                    )
                    body = build_turn(turn.text, wire, files.ids)
                    continue
                if answer.spoke or not answer.continues:
                    raise
                log.warning("continuation_failed error=%s", e.message)
                # What was said is whole up to the limit that Kimi named: that, and no more, is reported.
                yield from answer.finish("length")
                return
            if left == 0 or not answer.may_continue:
                return
            left -= 1
            answer = answer.next()
            body = build_continuation(answer.segment_id or "", wire)

    def delete_chat(self, account: Account, chat_id: str) -> None:
        reply = self._clients.of(account).call("DELETE", f"/api/chat/{chat_id}", account)
        if not kimi_errors.succeeded(reply):
            error = self._refusal(reply, account)
            # The path names the chat: a 404 without a word says that it is gone. A page may be a bot wall's.
            if not isinstance(error, ChatUnknown) or (reply.is_page and not kimi_errors.is_known_error(reply)):
                raise error

    def asks(self, turn: PreparedTurn) -> Sequence[str]:
        return (turn.text,)

    def latest_chats(self, account: Account) -> Iterator[ListedChat]:
        return chat_lists.chats_of(self._list(account), "created_at", "updated_at")

    def questions(self, account: Account, chat_id: str) -> Sequence[str]:
        """See ``Upstream.questions``. Nothing for a chat that was opened and not used."""
        path = f"/api/chat/{chat_id}/segment/scroll"
        reply = self._clients.of(account).call("POST", path, account, orjson.dumps({"last": chat_lists.PAGE_SIZE}))
        items = chat_lists.items_of(chat_lists.fields_of(reply, account, self._refusal), "items", account)
        asked = [item for item in items if item.get("role") == "user"]
        if items and not asked:
            raise UpstreamProtocolError(f"{account.label}: Kimi sent no messages of a chat")
        return [chat_lists.whole_text(item.get("content")) for item in asked]

    def _list(self, account: Account) -> Iterator[Sequence[chat_lists.Fields]]:
        offset = 0
        while True:
            sent = orjson.dumps({"kimiplus_id": "", "offset": offset, "size": chat_lists.PAGE_SIZE})
            reply = self._clients.of(account).call("POST", "/api/chat/list", account, sent)
            items = chat_lists.items_of(chat_lists.fields_of(reply, account, self._refusal), "items", account)
            yield items
            offset += len(items)
            if len(items) < chat_lists.PAGE_SIZE:
                return

    def _refusal(self, reply: Reply, account: Account) -> UpstreamError:
        return kimi_errors.refusal(reply, account, self._clients.of(account).base_url)

    def _create_chat(self, account: Account, cancellation: Cancellation) -> str:
        # Whoever leaves now leaves a chat behind, of which nobody would ever know if its id were not waited for.
        opening = Cancellation()
        cancellation.attach(lambda: _cancel_later(opening))
        try:
            reply = self._clients.of(account).call("POST", "/api/chat", account, _NEW_CHAT, opening)
        finally:
            cancellation.detach()
        chat_id = _chat_id(reply)
        if chat_id is not None:
            return chat_id
        base_url = self._clients.of(account).base_url
        if reply.status in (404, 405, 410):
            raise ProtocolUnavailable(
                f"{account.label}: {base_url} does not serve Kimi's SSE protocol (status {reply.status}); "
                "check KIMI_BASE_URL and KIMI_PROTOCOL"
            )
        raise self._refusal(reply, account)


def _cancel_later(opening: Cancellation) -> None:
    later = threading.Timer(_OPENING_S, opening.cancel)
    later.daemon = True
    later.start()


def build_turn(prompt: str, wire: SseForm, file_ids: Sequence[str] = ()) -> bytes:
    """The body of a turn (3.2): Kimi reads the first message only. Of files only the ids count (4.1)."""
    return dump(
        {
            "kimiplus_id": "kimi",
            "extend": {"sidebar": True},
            "model": wire.model,
            "use_search": wire.use_search,
            "messages": [{"role": "user", "content": text_of(prompt)}],
            "refs": list(file_ids),
            "history": [],
            "scene_labels": [],
            "use_semantic_memory": False,
            "use_deep_research": False,
        }
    )


def build_continuation(segment_id: str, wire: SseForm) -> bytes:
    """The body that asks for the rest of an answer (3.9); its single space is what clients were seen to send."""
    return orjson.dumps(
        {
            "segment_id": segment_id,
            "action": "continue",
            "messages": [{"role": "user", "content": " "}],
            "kimiplus_id": "kimi",
            "extend": {"sidebar": True},
            "model": wire.model,
        }
    )


# 3.1, the form of 2025. The name is what the site itself gives a chat without one.
_NEW_CHAT = orjson.dumps(
    {
        "name": "未命名会话",
        "born_from": "home",
        "kimiplus_id": "kimi",
        "is_example": False,
        "source": "web",
        "tags": [],
    }
)


def _chat_id(reply: Reply) -> str | None:
    """The id of a new chat, fit to stand in a path; None where the reply holds none."""
    try:
        fields = orjson.loads(reply.body) if 200 <= reply.status < 300 else None
    except ValueError:
        return None
    chat_id = fields.get("id") if isinstance(fields, dict) else None
    return chat_id if isinstance(chat_id, str) and re.fullmatch(r"[\w-]{1,128}", chat_id, re.ASCII) else None
