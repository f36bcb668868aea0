"""The images and documents of a turn, on their way to an account of Kimi: uploaded once, and waited for until Kimi
has read them.

What both generations have in common. A file is known by its content and its name, because Kimi reads it as its name
says (``kimi-protocol-2.md`` 2.2). Must never know a path or a body.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from app.chat import HEARTBEAT, Attachment, Event
from app.concurrency.background import Cancellation
from app.concurrency.periodic import every
from app.concurrency.yielding import pause
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    ChatUnknown,
    RequestRefused,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from app.store import Store, StoreError
from app.store.uploads import UploadRows
from app.upstreams.account import Account

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["reading", "read", "failed"]

# How often a client that waits is shown that something happens. Seconds.
_BEAT_S = 0.25
# How long to wait before Kimi is asked for the first, and for any further time, whether it has read a file. Seconds.
_FIRST_LOOK_S = 0.2
_LAST_LOOK_S = 2.0
# Kimi turns uploads of free accounts away for a moment when it is busy (kimi-protocol-2.md 2.8). Seconds.
_SHED_S = 3.0
# For how long it is remembered that Kimi has a file. Seconds.
_KEPT_S = 30 * 86_400.0
_CLEAN_EVERY_S = 3600.0
_PIECE_BYTES = 65_536


class FileWire(Protocol):
    """How one generation takes files."""

    # The name of its upstream.
    name: str

    def upload(self, file: Attachment, account: Account, cancellation: Cancellation) -> str:
        """Kimi's id of the file. Raises UpstreamError, Cancelled."""
        ...

    def states(self, file_ids: Sequence[str], account: Account, cancellation: Cancellation) -> Mapping[str, State]:
        """How far Kimi is with files; those that it says nothing about are left out. Raises UpstreamError,
        Cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class SentFiles:
    """The files of a turn, as Kimi knows them."""

    # In the order of the attachments.
    ids: tuple[str, ...] = ()
    # Some were not uploaded now: Kimi may have forgotten them.
    has_remembered: bool = False


NO_FILES = SentFiles()


class Uploads:
    """Sends files, and remembers which ones an account has. One object per process."""

    def __init__(self, read_s: float) -> None:
        """``read_s``: how long to wait until Kimi has read them."""
        self._read_s = read_s
        self._rows: UploadRows | None = None

    def start(self, store: Store) -> None:
        """From now on it is remembered what accounts have."""
        self._rows = rows = store.uploads

        def forget_old() -> None:
            rows.delete_older_than(_KEPT_S)

        every(_CLEAN_EVERY_S, forget_old, "uploads-expiry")

    def send(
        self, wire: FileWire, files: Sequence[Attachment], account: Account, cancellation: Cancellation
    ) -> Generator[Event, None, SentFiles]:
        """Yields heartbeats meanwhile.

        Raises UpstreamError: nothing of the turn has reached Kimi's chat then. Raises Cancelled.
        """
        try:
            return (yield from self._send(wire, files, account, cancellation))
        except UpstreamError as e:
            raise e.replaced(reached_upstream=False) from e

    def send_again(
        self,
        wire: FileWire,
        files: Sequence[Attachment],
        sent: SentFiles,
        account: Account,
        cancellation: Cancellation,
    ) -> Generator[Event, None, SentFiles]:
        """For files that Kimi does not know any more. As ``send``."""
        if self._rows is not None:
            for file, file_id in zip(files, sent.ids, strict=True):
                self._rows.delete(wire.name, account.id, file.key, file_id)
        again = yield from self.send(wire, files, account, cancellation)
        return SentFiles(again.ids)

    def _send(
        self, wire: FileWire, files: Sequence[Attachment], account: Account, cancellation: Cancellation
    ) -> Generator[Event, None, SentFiles]:
        ids: list[str] = []
        new: dict[str, Attachment] = {}
        for file in files:
            known = self._find(wire, account, file)
            if known is None:
                known = yield from self._upload(wire, file, account, cancellation)
                new[known] = file
            ids.append(known)
        if new:
            yield from self._wait(wire, new, account, cancellation)
            for file_id, file in new.items():
                self._remember(wire, account, file, file_id)
        return SentFiles(tuple(ids), len(new) < len(files))

    def _upload(
        self, wire: FileWire, file: Attachment, account: Account, cancellation: Cancellation
    ) -> Generator[Event, None, str]:
        began = time.monotonic()
        try:
            file_id = yield from _with_heartbeats(lambda: wire.upload(file, account, cancellation))
        except (AccountLimited, UpstreamOverloaded) as e:
            log.info("upload_shed account=%s error=%s", account.id, e.message)
            yield from _sleep(_SHED_S, cancellation)
            file_id = yield from _with_heartbeats(lambda: wire.upload(file, account, cancellation))
        log.info(
            "file_uploaded account=%s upstream=%s type=%s bytes=%d ms=%.0f",
            account.id,
            wire.name,
            file.media_type,
            file.size,
            (time.monotonic() - began) * 1000,
        )
        return file_id

    def _wait(
        self, wire: FileWire, new: Mapping[str, Attachment], account: Account, cancellation: Cancellation
    ) -> Generator[Event, None, None]:
        """Until Kimi has read the files. It takes images that it has not read (``kimi-protocol-2.md`` 2.3, P4)."""
        unread = dict(new)
        deadline = time.monotonic() + self._read_s
        look_s = _FIRST_LOOK_S
        while True:
            states = yield from _with_heartbeats(lambda: _states(wire, list(unread), account, cancellation))
            for file_id, state in states.items():
                file = unread.get(file_id)
                if file is None or state == "reading":
                    continue
                if state == "failed":
                    raise RequestRefused(
                        f"{file.place}: Kimi cannot read this file ({file.media_type})",
                        code="file_parse_failed",
                        param=file.place,
                    )
                del unread[file_id]
            if not unread:
                return
            if time.monotonic() >= deadline:
                document = next((file for file in unread.values() if not file.is_image), None)
                if document is None:
                    return
                raise UpstreamTimeout(
                    f"{document.place}: Kimi did not read this file in {self._read_s:.0f} s (FILE_READ_S)",
                    param=document.place,
                )
            yield from _sleep(look_s, cancellation)
            look_s = min(1.5 * look_s, _LAST_LOOK_S)

    def _find(self, wire: FileWire, account: Account, file: Attachment) -> str | None:
        return None if self._rows is None else self._rows.find(wire.name, account.id, file.key)

    def _remember(self, wire: FileWire, account: Account, file: Attachment, file_id: str) -> None:
        if self._rows is not None:
            # Without it the file is uploaded once more the next time.
            with suppress(StoreError):
                self._rows.put(wire.name, account.id, file.key, file_id)


def may_be_unknown_file(error: UpstreamError) -> bool:
    """Whether a turn may have been refused because Kimi does not know one of its files: how it says so was never
    recorded (``kimi-protocol-2.md`` 2.8, P5)."""
    # The last is for words that are new to us.
    is_refusal = (
        isinstance(error, RequestRefused | ChatUnknown | UpstreamProtocolError) or error.__class__ is UpstreamError
    )
    return is_refusal and error.code not in _OTHER_REASONS


# Codes of refusals that speak of something else.
_OTHER_REASONS = frozenset(("context_length_exceeded", "content_filter"))


def refused_file(file: Attachment, status: int, text: str) -> RequestRefused:
    """The error for a file that Kimi does not take."""
    if status == 413:
        why = f"is too large for Kimi ({file.size} bytes)"
    elif status in (404, 405, 410):
        why = "cannot be sent: this Kimi site takes no files"
    else:
        why = f"is refused by Kimi (status {status}{text})"
    return RequestRefused(
        f"{file.place}: this file {why}", code="file_refused", param=file.place, reached_upstream=False
    )


# Statuses of a refusal that concerns the file.
REFUSES_FILE = frozenset((400, 404, 405, 410, 413, 415, 422))


def pieces_of(file: Attachment) -> Iterator[bytes]:
    """The bytes of a file."""
    with file.content.open() as content:
        while piece := content.read(_PIECE_BYTES):
            yield piece
            pause()


def _states(
    wire: FileWire, file_ids: Sequence[str], account: Account, cancellation: Cancellation
) -> Mapping[str, State]:
    """A look that fails says nothing about the files (``kimi-protocol-2.md`` 2.3)."""
    try:
        return wire.states(file_ids, account, cancellation)
    except (AccountRejected, AccountForbidden):
        raise
    except UpstreamError as e:
        log.info("look_at_files_failed account=%s error=%s", account.id, e.message)
        return {}


def _sleep(seconds: float, cancellation: Cancellation) -> Generator[Event, None, None]:
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        cancellation.sleep(min(left_s, _BEAT_S))
        yield HEARTBEAT


def _with_heartbeats(work: Callable[[], T]) -> Generator[Event, None, T]:
    """The result of ``work``, which another thread does meanwhile. Raises what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as e:  # noqa: BLE001  # raised in the thread that waits for it
            errors.append(e)
        finally:
            done.set()

    # With the request's id, for the log.
    context = contextvars.copy_context()
    threading.Thread(target=lambda: context.run(run), daemon=True, name="upload").start()
    while not done.wait(_BEAT_S):
        yield HEARTBEAT
    if errors:
        raise errors[0]
    return results[0]
