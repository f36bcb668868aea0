"""Generation 2: takes up an answer again whose stream broke (``kimi-protocol-2.md`` 5.3).

    ResumeChat from the last frame; where that is not served, or ends again and again with nothing new,
    GetMessage once a second until the answer is complete

An answer is generated at Kimi whether or not its stream is read, so what is missing can be had for some time. The
client gets exactly the rest, or the error that broke the stream. Must never know retries of a turn, or other
accounts.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson

from app.chat import HEARTBEAT, Event, ReasoningDelta, TextDelta
from app.concurrency.background import Cancellation
from app.errors import (
    AccountRejected,
    AnswerCancelled,
    AnswerEmpty,
    AnswerRewritten,
    ChatUnknown,
    ConnectionLost,
    Moderated,
    ProtocolUnavailable,
    RequestRefused,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamSilent,
)
from app.upstreams import Renew
from app.upstreams.account import Account
from app.upstreams.kimi import envelope
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.connect_frames import AnswerDecoder
from app.upstreams.kimi.http import CONNECT_STREAM, KimiHttp, Reply

log = logging.getLogger(__name__)

_RESUME_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/ResumeChat"
_GET_MESSAGE = "/apiv2/kimi.gateway.chat.v1.ChatService/GetMessage"

# Between two tries, and between two looks at a message that is still generated, at most. Seconds.
_PAUSE_S = 1.0

# A resumed stream that ends so many times in a row with nothing new in it has no end that could come: the message is
# looked at then.
_EMPTY_RESUMES = 2

# Errors of a stream that ended before its time, whoever ended it.
BREAKS = (ConnectionLost, UpstreamSilent)

# Refusals of a call that a later one would get, too.
_FINAL = (ChatUnknown, ProtocolUnavailable, RequestRefused)

_NEWS = frozenset({TextDelta, ReasoningDelta})

# Errors of the answer itself, which no other call would mend.
_OF_THE_ANSWER = (AnswerCancelled, AnswerEmpty, AnswerRewritten, Moderated, UpstreamProtocolError)

Refusal = Callable[[Reply, Account], UpstreamError]


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """In seconds. ``limit_s``: how long the rest of an answer is sought; 0: never. ``silence_s``: a stream that says
    nothing for so long is broken."""

    limit_s: float
    silence_s: float


class BrokenAnswer:
    """An answer whose stream has broken. ``account`` is the one to use from now on."""

    def __init__(
        self,
        answer: AnswerDecoder,
        account: Account,
        http: KimiHttp,
        refusal: Refusal,
        policy: ResumePolicy,
        renew: Renew | None,
        cancellation: Cancellation,
    ) -> None:
        self.account = account
        self._answer = answer
        self._http = http
        self._refusal = refusal
        self._policy = policy
        self._renew = renew
        self._cancellation = cancellation
        # Numbers that are not known cannot be asked for.
        self._can_resume = answer.offset > 0
        # Resumed streams in a row that were answered, brought nothing new and broke.
        self._empty_resumes = 0
        # A message was read: what it held has no numbers, and frames could repeat it.
        self._has_looked = False
        # An error was one of the answer, which no other call would mend.
        self._has_failed = False

    def rest(self, error: UpstreamError) -> Iterator[Event]:
        """The events that are missing, Finished last, and heartbeats while they are waited for.

        Raises ``error``, which broke the stream, where they cannot be had: where there was nothing new within the
        limit. Raises what is wrong with the answer itself.
        """
        log.info("stream_broken account=%s frame=%d error=%s", self.account.id, self._answer.offset, error.message)
        until = time.monotonic() + self._policy.limit_s
        yield HEARTBEAT
        while True:
            before = self._answer.offset
            try:
                for event in self._resume() if self._can_resume else self._look():
                    if event.__class__ in _NEWS:
                        until = time.monotonic() + self._policy.limit_s
                    yield event
                if self._answer.reason is not None:
                    log.info("stream_resumed account=%s frame=%d", self.account.id, self._answer.offset)
                    return
            except AccountRejected as e:
                self._renew_once(error, e)
                continue
            except _OF_THE_ANSWER:
                raise
            except UpstreamError as e:
                if self._has_failed or (self._answer.offset > before and not isinstance(e, BREAKS)):
                    raise
                if self._answer.offset > before:
                    # It has broken once more, and goes on from there.
                    self._empty_resumes = 0
                    continue
                if self._note_failure(error, e):
                    continue
            if time.monotonic() >= until:
                raise error
            yield HEARTBEAT
            self._cancellation.sleep(min(_PAUSE_S, self._policy.silence_s / 2))
            yield HEARTBEAT

    def _note_failure(self, error: UpstreamError, failure: UpstreamError) -> bool:
        """A call failed. True where another one is left that may succeed at once. Raises ``error`` where none is
        left that could succeed."""
        log.info("resume_failed account=%s error=%s", self.account.id, failure.message)
        if self._can_resume:
            # A connection that breaks again says nothing about the call, unless it does so again and again.
            self._can_resume = isinstance(failure, BREAKS) and self._empty_resumes != _EMPTY_RESUMES
            return not self._can_resume
        if not isinstance(failure, _FINAL):
            return False
        if self._has_looked or self._empty_resumes != _EMPTY_RESUMES:
            raise error from failure
        # Messages are not served. Nothing of one was passed on, so that the frames are still the rest.
        self._can_resume, self._empty_resumes = True, _EMPTY_RESUMES + 1
        return False

    def _renew_once(self, error: UpstreamError, rejection: AccountRejected) -> None:
        """The next call has another token, once. Raises ``error`` where there is none."""
        renew, self._renew = self._renew, None
        if renew is None:
            raise error from rejection
        try:
            self.account = renew(self.account)
        except UpstreamError as e:
            raise error from e

    def _resume(self) -> Iterator[Event]:
        body = orjson.dumps({**self._ids, "event_offset": self._answer.offset})
        self._answer.resume()
        with self._http.stream(
            _RESUME_CHAT,
            self.account,
            envelope.encode(body),
            CONNECT_STREAM,
            self._cancellation,
            read_s=self._policy.silence_s,
        ) as stream:
            if not stream.ok or not stream.is_stream:
                raise self._refusal(stream.whole(), self.account)
            self._empty_resumes += 1
            yield from self._answer.decode(stream.chunks())
            stream.drain()

    def _look(self) -> Iterator[Event]:
        """What the message holds now. ``reason`` of the answer says whether that was all."""
        reply = self._http.call(
            "POST",
            _GET_MESSAGE,
            self.account,
            orjson.dumps(self._ids),
            self._cancellation,
            timeout_s=self._policy.silence_s,
        )
        if not kimi_errors.succeeded(reply):
            raise self._refusal(reply, self.account)
        self._has_looked = True
        try:
            yield from self._answer.take_message(reply.body)
        except (AnswerRewritten, UpstreamProtocolError) as e:
            # It is no rest of what was passed on.
            raise ChatUnknown(e.message) from e
        except UpstreamError:
            self._has_failed = True
            raise

    @property
    def _ids(self) -> dict[str, str | None]:
        return {"chat_id": self._answer.chat_id, "message_id": self._answer.message_id}
