"""Finds Kimi chats that were opened for streams which ended before Kimi named them, and has them deleted.

A worker may be killed, a connection lost, or a client gone between the moment when Kimi opens a chat and the one when
its id arrives. Then nothing but the account's own list of chats shows it, beside what its owner has opened. A chat
counts as ours only if all of this holds:

- it was opened while the stream ran, by Kimi's clock, give or take a minute,
- no conversation, open chat or deletion knows it, in this database,
- it holds one question, and that is what the stream has asked; or it holds nothing at all, and the stream has asked
  the upstream that lists it,
- there are no more such chats than such streams, and no stream that runs now and asks the same may have opened it.

Whatever is less certain stays, and is logged. Questions are compared by keyed digests: no text is kept. Must never
know any upstream's JSON.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from app.concurrency.periodic import Periodic, every
from app.conversations.chat_cleanup import ChatCleanup
from app.errors import ChatUnknown, GatewayError, ProtocolUnavailable, UpstreamProtocolError
from app.store import Store
from app.store.lost_chats import FIRST_SEARCH_AFTER_S, LostChat
from app.upstreams import ListedChat, PreparedTurn, Upstream
from app.upstreams.account import Account

log = logging.getLogger(__name__)

# How far Kimi's clock may be from ours. Seconds.
_CLOCKS_S = 60.0
# How often it is looked for searches that are due, at least. Seconds.
_LOOK_EVERY_S = 60.0
# The wait after a search of an account. It doubles with each that fails, up to an hour. Seconds.
_AGAIN_AFTER_S = 60.0
_MAX_RETRY_S = 3600.0
# After so many searches a chat counts as never opened; after so many that failed the gateway gives up.
_MAX_SEARCHES = 3
_MAX_FAILURES = 10
# A stream that has run longer has a chat that is known. Seconds.
_NAMED_WITHIN_S = 60.0
# Chats that are read in one search.
_MAX_READ = 30
# Of a longer question only its ends are compared. Characters.
_END = 4096


def digest_of(key: bytes, upstream: str, question: str) -> str:
    """Space at the ends does not count. ``key``: a secret of the store. ``upstream``: its name, because two may list
    the same chat, and only the one that has opened it can be trusted to delete it. The digest begins with it."""
    if len(question) > 2 * _END:
        question = f"{question[:_END]}\0{question[-_END:]}"
    named = f"{upstream}\0{question.strip()}"
    # A third of the time of an HMAC, and made for keys, too (RFC 7693).
    digest = hashlib.blake2b(named.encode(errors="surrogatepass"), key=key, digest_size=16).hexdigest()
    return f"{upstream}:{digest}"


class LostChats:
    """One object per process."""

    def __init__(
        self,
        store: Store,
        upstreams: Mapping[str, Upstream],
        account_ids: Callable[[], Sequence[str]],
        account: Callable[[str], Account],
        cleanup: ChatCleanup,
        *,
        keeps_chats: bool,
        run_or_retry: Callable[[Callable[[], object]], object],
    ) -> None:
        """``account``: of an id, with a token that works; raises GatewayError. ``keeps_chats``: no chat is deleted
        at the upstream, so none is looked for. ``run_or_retry``: see ``ProcessLease``."""
        self._store = store
        self._upstreams = upstreams
        self._account_ids = account_ids
        self._account = account
        self._cleanup = cleanup
        self._keeps_chats = keeps_chats
        self._run_or_retry = run_or_retry
        self._searches: Periodic | None = None

    def question_of(self, upstreams: Sequence[Upstream], turn: PreparedTurn) -> str | None:
        """Digests of what a new chat of this turn may begin with, at one of these; None if none is looked for."""
        if self._keeps_chats:
            return None
        key = self._store.digest_key
        return " ".join([digest_of(key, one.name, text) for one in upstreams for text in one.asks(turn)])

    def now(self) -> float:
        return self._store.database.now()

    def note(self, lease_id: str, account_id: str, question: str, began_at: float) -> None:
        """A stream that asked this has ended, and its chat is not known. Noted later where the database fails now.
        Never raises: its caller is on its way out."""

        def note() -> None:
            self._store.lost_chats.add(lease_id, account_id, question, began_at)
            self.search_soon()

        self._run_or_retry(note)

    def start(self) -> None:
        self._searches = every(_LOOK_EVERY_S, self._search_due, "lost-chats", first_after_s=FIRST_SEARCH_AFTER_S)

    def search_soon(self) -> None:
        """There may be something new to look for. Safe from any thread."""
        if self._searches is not None:
            self._searches.wake()

    def _search_due(self) -> float:
        """Returns the seconds until the next search."""
        store = self._store
        account_ids = self._account_ids()
        while True:
            now = store.database.now()
            first_at = store.lost_chats.first_due_at(account_ids)
            if first_at is None:
                return _LOOK_EVERY_S
            if first_at > now:
                return min(_LOOK_EVERY_S, first_at - now)
            lost = store.lost_chats.claim(account_ids, now, now + _AGAIN_AFTER_S)
            if lost:
                self.search_for(lost)

    def search_for(self, lost: list[LostChat]) -> None:
        """Has the chats of these streams deleted, which are all of one account; the rows of what is found, or is
        given up, are removed. Raises StoreError."""
        account_id = lost[0].account_id
        try:
            left = self._search(self._account(account_id), lost)
        except GatewayError as e:
            given_up = [one.id for one in lost if one.tries >= _MAX_FAILURES]
            wait_s = min(_MAX_RETRY_S, _AGAIN_AFTER_S * 2.0 ** (max(one.tries for one in lost) - 1))
            self._store.lost_chats.postpone(account_id, self.now() + wait_s)
            log.info("lost_chats_not_searched account=%s given_up=%d error=%s", account_id, len(given_up), e.message)
        else:
            given_up = [one.id for one in lost if one not in left or one.tries >= _MAX_SEARCHES]
        if given_up:
            self._store.lost_chats.delete(given_up)

    def _search(self, account: Account, lost: list[LostChat]) -> list[LostChat]:
        """Returns those whose chats were not found. Raises UpstreamError."""
        left = list(lost)
        unclear = 0
        # Name of an upstream → chats without a question. They may be anybody's, so they come after all others: a
        # stream that may have asked over several upstreams has one chat only.
        unused: dict[str, list[str]] = {}
        deleted: set[str] = set()
        for name, upstream in self._upstreams.items():
            if not left:
                break
            try:
                found = self._unknown_chats(upstream, account, left)
            except (ProtocolUnavailable, ChatUnknown):
                # The site does not serve this protocol.
                continue
            unused[name] = found.pop("", [])
            for digest, chats in found.items():
                owners = [one for one in left if _has_asked(one, digest)]
                if len(chats) > len(owners) or self._is_asked_now(account.id, digest):
                    unclear += len(chats)
                else:
                    self._discard(account, chats, owners, left)
                    deleted.update(chats)
        for name, listed in unused.items():
            # Another upstream may have read the question of the same chat.
            chats = [chat_id for chat_id in listed if chat_id not in deleted]
            # Those first that can have asked over no other upstream.
            owners = sorted((one for one in left if _has_asked(one, f"{name}:")), key=lambda o: len(_upstreams_of(o)))
            if len(chats) > len(owners):
                unclear += len(chats)
            else:
                self._discard(account, chats, owners, left)
                deleted.update(chats)
        log.info(
            "lost_chats_searched account=%s streams=%d found=%d unclear=%d",
            account.id,
            len(lost),
            len(lost) - len(left),
            unclear,
        )
        return left

    def _discard(self, account: Account, chats: list[str], owners: list[LostChat], left: list[LostChat]) -> None:
        """Has the chats deleted, each for one of its owners, who are taken out of ``left``."""
        for chat_id, owner in zip(chats, owners, strict=False):
            left.remove(owner)
            # Which protocol has opened it is not known where the worker was killed, and another one may say that the
            # chat is deleted, and leave it.
            for asked in _upstreams_of(owner):
                self._cleanup.note_and_discard(asked, chat_id, account.id)

    def _unknown_chats(self, upstream: Upstream, account: Account, lost: Iterable[LostChat]) -> dict[str, list[str]]:
        """Digest of its only question (empty: it has none) → ids of the chats that may be those of ``lost``."""
        since = min(one.began_at for one in lost) - _CLOCKS_S
        candidates = [
            chat.chat_id
            for chat in _changed_since(upstream.latest_chats(account), since)
            if any(_may_be_of(chat, one) for one in lost)
        ]
        known = self._store.lost_chats.known(list(self._upstreams), candidates, since - _CLOCKS_S)
        found: dict[str, list[str]] = defaultdict(list)
        for chat_id in [chat_id for chat_id in candidates if chat_id not in known][:_MAX_READ]:
            try:
                questions = upstream.questions(account, chat_id)
            except (ChatUnknown, UpstreamProtocolError) as e:
                # It is gone, or its first message is still being written.
                log.info("lost_chat_not_read account=%s error=%s", account.id, e.message)
                continue
            if len(questions) <= 1:
                key = self._store.digest_key
                found[digest_of(key, upstream.name, questions[0]) if questions else ""].append(chat_id)
        return found

    def _is_asked_now(self, account_id: str, digest: str) -> bool:
        since = self._store.database.now() - _NAMED_WITHIN_S
        running = self._store.lost_chats.questions_of_running(account_id, since)
        return any(digest in question.split(" ") for question in running)


def _changed_since(chats: Iterator[ListedChat], since: float) -> Iterator[ListedChat]:
    """``chats``: the one that changed last first."""
    for chat in chats:
        if chat.changed_at < since:
            return
        yield chat


def _has_asked(lost: LostChat, beginning: str) -> bool:
    """``beginning``: of a digest, or all of it."""
    return any(digest.startswith(beginning) for digest in lost.question.split(" "))


def _upstreams_of(lost: LostChat) -> set[str]:
    """Those that it may have asked."""
    return {digest.partition(":")[0] for digest in lost.question.split(" ")}


def _may_be_of(chat: ListedChat, lost: LostChat) -> bool:
    """Whether the chat was opened while the stream ran."""
    if chat.begun_at is None:
        return chat.changed_at >= lost.began_at - _CLOCKS_S
    return lost.began_at - _CLOCKS_S <= chat.begun_at <= lost.lost_at + _CLOCKS_S
