"""What a client sends as an image or a document becomes an attachment that an upstream can be sent.

Everything that can be wrong with one is found here, before an account is asked: its form, its size, its type, how
many there are. In the result of a call words take the place of what is wrong: an agent cannot choose what its
functions return. Must never know HTTP, an API, or an upstream.
"""

import re
import time
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from app.attachments.content import BadContent, TooLarge, digest_of, from_base64, from_data_url
from app.attachments.fetching import Fetched, Fetcher
from app.attachments.files import Files
from app.attachments.media_types import Unusable, known_type, recognise
from app.attachments.names import clean_name, file_name
from app.chat import (
    Attachment,
    ChatRequest,
    Content,
    DecodedSource,
    FileReference,
    InMemory,
    Message,
    Part,
    TextPart,
)
from app.concurrency.yielding import pause
from app.errors import FileTooLarge, InvalidRequest, UnknownFile
from app.store import FileRow

# Said of a result of a call whose attachment is left out (``x-kimi-notice``).
LEFT_OUT = "attachment-left-out"
# For everything that one request names by an address. Seconds.
_FETCHING_S = 60.0


@dataclass(frozen=True, slots=True)
class AttachmentLimits:
    # Bytes of one.
    max_bytes: int
    # Different ones in one request.
    max_count: int


@dataclass(slots=True)
class _Progress:
    """What is known of one request while it is resolved. ``owner``: of uploaded files. ``left_out``: the places of
    what words stand for. ``seen``: digests and names. ``fetched``: by address, what came or why nothing did; each is
    fetched once until ``ends_at``, in monotonic seconds."""

    owner: str
    left_out: list[str] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    fetched: dict[str, Fetched | BadContent | TooLarge] = field(default_factory=dict)
    ends_at: float = field(default_factory=lambda: time.monotonic() + _FETCHING_S)


class Attachments:
    """Makes attachments of what requests hold. One object per process."""

    def __init__(self, limits: AttachmentLimits, files: Files, fetcher: Fetcher | None) -> None:
        """``fetcher``: None if nothing is fetched from the web."""
        self._limits = limits
        self._fetcher = fetcher
        self._files = files

    def resolve(self, request: ChatRequest, owner: str) -> ChatRequest:
        """The request with attachments in the place of references. ``owner``: of uploaded files.

        Raises InvalidRequest, FileTooLarge, UnknownFile: with the place of the one that cannot be used.
        """
        if not _has_references(request):
            return request
        progress = _Progress(owner)
        messages = tuple(self._message(message, progress) for message in request.messages)
        notices = (*request.notices, LEFT_OUT) if progress.left_out else request.notices
        return replace(request, messages=messages, notices=notices)

    @staticmethod
    def marked(request: ChatRequest) -> ChatRequest:
        """The request with a mark in the place of each reference, for counting: nothing is decoded or checked."""
        if not _has_references(request):
            return request
        messages = [replace(m, parts=tuple(map(_marked, m.parts))) for m in request.messages]
        return replace(request, messages=tuple(messages))

    def _message(self, message: Message, progress: _Progress) -> Message:
        if not any(part.__class__ is FileReference for part in message.parts):
            return message
        is_result = message.role in ("tool", "function")
        parts: list[Part] = []
        for part in message.parts:
            if not isinstance(part, FileReference):
                parts.append(part)
                continue
            # Before it, so that those that are left out have one, too.
            pause()
            try:
                attachment = self._attachment(part, progress)
            except InvalidRequest as e:
                if not is_result:
                    raise
                progress.left_out.append(part.place)
                parts.append(TextPart(_words(part, e.message.removeprefix(f"{part.place} "))))
                continue
            parts.append(attachment)
            progress.seen.add((attachment.digest, attachment.name))
            if len(progress.seen) > self._limits.max_count:
                raise InvalidRequest(
                    f"{part.place}: a request may hold {self._limits.max_count} different images and documents "
                    "(MAX_ATTACHMENTS); send fewer",
                    code="too_many_attachments",
                    param=part.place,
                )
        return replace(message, parts=tuple(parts))

    def _attachment(self, part: FileReference, progress: _Progress) -> Attachment:
        if part.form == "id":
            return self._uploaded(part, progress.owner)
        try:
            content, size, sent_name = self._content(part, progress)
        except BadContent as e:
            raise _refusal(part, str(e)) from None
        except TooLarge:
            raise FileTooLarge(
                f"{part.place} has more than {self._limits.max_bytes} bytes (FILE_MAX_BYTES)", param=part.place
            ) from None
        with content.open() as file:
            try:
                media_type = recognise(file, size, sent_name)
            except Unusable as e:
                raise _refusal(part, str(e)) from None
            file.seek(0)
            digest = digest_of(file)
        name = file_name(sent_name, digest, media_type)
        return Attachment(name, media_type.name, size, digest, media_type.is_image, part.place, part.sent_as, content)

    def _uploaded(self, part: FileReference, owner: str) -> Attachment:
        try:
            row = self._files.find(owner, part.source)
        except UnknownFile as e:
            raise UnknownFile(f"{part.place}: {e.message}", param=part.place) from None
        media_type = known_type(row.media_type, row.name)
        name = file_name(part.name or row.name, row.digest, media_type)
        content = _Uploaded(self._files, row)
        return Attachment(
            name, row.media_type, row.bytes, row.digest, media_type.is_image, part.place, part.sent_as, content
        )

    def _content(self, part: FileReference, progress: _Progress) -> tuple[Content, int, str]:
        most = self._limits.max_bytes
        if isinstance(part.source, DecodedSource):
            return part.source.content, part.source.size, part.name
        match part.form:
            case "base64":
                data = from_base64(part.source, most)
            case "text":
                data = part.source.encode(errors="replace")
                if len(data) > most:
                    raise TooLarge
            case _:
                if part.source[:5].lower() == "data:":
                    data = from_data_url(part.source, most)
                elif not part.source:
                    raise BadContent("has neither content nor an address")
                elif re.match(r"https?:", part.source[:6], re.IGNORECASE):
                    if self._fetcher is None:
                        raise BadContent(
                            "is an address on the web, and this gateway fetches none (FETCH_URLS): send the content "
                            "itself"
                        )
                    fetched = self._fetched(self._fetcher, part.source, progress)
                    return fetched, fetched.size, part.name or fetched.name
                else:
                    raise BadContent("is neither a data: URL nor an http(s): URL")
        return InMemory(data), len(data), part.name

    def _fetched(self, fetcher: Fetcher, url: str, progress: _Progress) -> Fetched:
        """Raises as ``Fetcher.fetch``. Raises BadContent: if the request names too many addresses, or they have taken
        too long."""
        found = progress.fetched.get(url)
        if found is None:
            if len(progress.fetched) >= self._limits.max_count:
                raise BadContent(
                    f"is one address too many: a request may name {self._limits.max_count} different ones "
                    "(MAX_ATTACHMENTS)"
                )
            if time.monotonic() >= progress.ends_at:
                raise BadContent(
                    f"cannot be fetched: the addresses of this request take longer than {_FETCHING_S:.0f} s together"
                )
            try:
                found = fetcher.fetch(url, self._limits.max_bytes, progress.ends_at)
            except (BadContent, TooLarge) as e:
                found = e
            progress.fetched[url] = found
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        return found


@dataclass(frozen=True, slots=True)
class _Uploaded:
    """The content of an uploaded file."""

    files: Files
    row: FileRow

    def open(self) -> BinaryIO:
        return self.files.open(self.row)


def _has_references(request: ChatRequest) -> bool:
    for message in request.messages:
        for part in message.parts:
            if part.__class__ is FileReference:
                return True
    return False


def _marked(part: Part) -> Part:
    if not isinstance(part, FileReference):
        return part
    return TextPart(f"[image: {part.name}]" if part.is_image else f"[file: {part.name}]")


def _refusal(part: FileReference, why: str) -> InvalidRequest:
    return InvalidRequest(f"{part.place} {why}", code="invalid_attachment", param=part.place)


def _words(part: FileReference, why: str) -> str:
    """What stands in the result of a call in the place of what it cannot show."""
    what = "an image" if part.is_image else "a file"
    named = f": {clean_name(part.name)}" if part.name else ""
    return (
        f"({what} that cannot be shown here{named}: it {why})"
        if why
        else f"({what} that cannot be shown here{named})"
    )
