"""What the public APIs ask for: answers, models, conversations.

Must never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import logging
import time

from app.accounts.pool import Accounts
from app.answers.idempotency import Recordings
from app.answers.stream import ChatStream, Patience
from app.answers.turn import Turn, Turns
from app.chat import Answer, Caller, ChatRequest, Model
from app.concurrency.background import Cancellation
from app.concurrency.watchdog import Watchdog
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.conversations import Conversations
from app.store import ConversationRow, Store, StoreError
from app.upstreams.kimi.model_table import Models

log = logging.getLogger(__name__)


class Gateway:
    """Opens turns. One object per process, used by all requests at once."""

    def __init__(
        self,
        turns: Turns,
        models: Models,
        accounts: Accounts,
        conversations: Conversations,
        litter: ChatCleanup,
        recordings: Recordings,
        store: Store,
        patience: Patience,
        watchdog: Watchdog,
    ) -> None:
        self.accounts = accounts
        self._turns = turns
        self._models = models
        self._conversations = conversations
        self._litter = litter
        self._recordings = recordings
        self._store = store
        self._patience = patience
        self._watchdog = watchdog

    @property
    def models(self) -> list[Model]:
        return self._models.all

    def model(self, model_id: str) -> Model:
        """Raises UnknownModel, naming those that exist."""
        return self._models.find(model_id)

    def open(self, request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
        """Begins a turn and returns while Kimi thinks, so that what it will be told with can be made meanwhile.
        Raises GatewayError, which ``wait_for_answer`` of what it gives may still do.

        Its status is certain with the first event that carries an answer, or, where ``commit`` allows it, after
        ``commit_after_s`` of silence. The caller must ``close`` what it gets.
        """
        self.model(request.model)
        if caller.idempotency_key is None:
            return self._open(request, caller, commit)

        def open_certain(who: Caller) -> Answer:
            answer = self._open(request, who, commit)
            answer.wait_for_answer()
            return answer

        return self._recordings.open(caller.idempotency_key, request, caller, open_certain, commit=commit)

    def _open(self, request: ChatRequest, caller: Caller, commit: bool) -> Answer:
        if request.options.format is None:
            return self._begin(request, caller, commit)
        # Not loaded at the start, which would take noticeably longer for a library that few requests need.
        from app.answers.structured import open_structured

        return open_structured(self._open_text, request, caller, commit=commit)

    def _open_text(self, request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
        stream = self._begin(request, caller, commit)
        stream.wait_for_answer()
        return stream

    def _begin(self, request: ChatRequest, caller: Caller, commit: bool) -> ChatStream:
        turn = Turn(request, caller)
        stream = ChatStream(self._turns, turn, self._patience, self.unmet(request), self._watchdog, commit=commit)
        stream.wait_for_news()
        return stream

    def unmet(self, request: ChatRequest) -> list[str]:
        """Names of what the request asks for and its model does not have, and which is left out."""
        return self._models.unmet(request.model, request.options)

    def end_within(self, seconds: float) -> None:
        """Turns that still run then are ended, each with an error that says so: the process will not last longer."""
        self._patience.ends_at = time.monotonic() + seconds

    def find_conversation(self, owner: str, conversation_id: str) -> ConversationRow:
        """Raises UnknownConversation."""
        return self._conversations.find(owner, conversation_id)

    def is_busy(self, row: ConversationRow) -> bool:
        """Whether a turn of the conversation runs now."""
        return self._conversations.is_busy(row)

    def forget_conversation(self, caller: Caller, conversation_id: str) -> None:
        """Forgets the conversation and has its Kimi chat deleted. Raises UnknownConversation, ConversationBusy."""
        row = self._conversations.find(caller.owner, conversation_id)
        with self._conversations.hold(caller, conversation_id, row.model, Cancellation()) as hold:
            hold.forget = hold.forget_chat = True
        self._discard_chat(hold.row)

    def warnings(self) -> list[str]:
        """What works now and will not for ever."""
        return self.accounts.warnings()

    def problems(self) -> list[str]:
        """Why no chat could be served now; empty where one could."""
        try:
            self.accounts.look_again()
            self._store.check_writable()
            return [] if self.accounts.has_usable() else self.accounts.problems()
        except StoreError as e:
            return [f"the database cannot be written ({e.driver_error})"]
        except Exception as e:  # a fault of ours: the log has the traceback
            log.exception("readiness_check_failed")
            return [f"the gateway itself failed while it looked ({type(e).__name__}); its log says where"]

    def tidy(self) -> None:
        """Looks, in the background, for chats that a killed worker left undeleted, for conversations that nobody has
        used for too long, and for answers that are kept no longer."""
        self._litter.sweep()
        self._recordings.tidy()
        self._conversations.watch_age(self._discard_chat)

    def _discard_chat(self, row: ConversationRow) -> None:
        if row.chat_id is not None and row.upstream is not None and row.account_id is not None:
            # It was noted with the loss of the conversation.
            self._litter.discard(row.upstream, row.chat_id, row.account_id)
