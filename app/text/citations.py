"""Markers in the text become citations: annotations, Markdown links, or both.

The offsets of a citation count characters of the text that the client is given. A marker whose page is known
becomes a link, or is taken out and its citation covers the sentence before it. One whose page is not known: where
pages were found it is Kimi's, and is taken out; where none were, ``[^1^]`` is taken for what somebody wrote and
stays. Either way its place is remembered, for a page that is told later. No text waits for a page. Knows no wire.
"""

import re

from app.chat import Citation, CitationStyle, Source
from app.text.citation_markers import Marker, Markers

# What is remembered of the text, to find where the sentence began that a marker closes.
_MAX_SENTENCE_CHARS = 400
# In how many pieces, before they are made one: each is a string of its own, and there are as many lists as streams.
_MAX_RECENT = 32
_SENTENCE_END = re.compile(r"[。！？!?；\n]+[”』」)）]*|\.(?=\s)")
# Between the round brackets of a Markdown link, in a cell of a table.
_NOT_IN_A_LINK = re.compile(r"[\s()<>\"'\\`|\[\]*_]")
_MAX_SOURCES = 1000


class Citations:
    """One answer. ``text`` and ``rest`` give what the client is to see."""

    __slots__ = ("_annotates", "_length", "_links", "_markers", "_numbers", "_places", "_recent", "_sources")

    def __init__(self, style: CitationStyle) -> None:
        self._links = style in ("markdown", "both")
        self._annotates = style in ("annotations", "both")
        self._markers = Markers()
        self._sources: dict[str, Source] = {}
        self._numbers: dict[str, int] = {}
        # ref, and the offsets of what rests on it
        self._places: list[tuple[str, int, int]] = []
        self._length = 0
        # The latest pieces of the text, enough for a sentence.
        self._recent: list[str] = []

    def learn(self, source: Source) -> None:
        if len(self._sources) < _MAX_SOURCES:
            self._sources[source.ref] = source

    def lets_pass(self, piece: str) -> bool:
        """Whether the piece may be shown as it is; it has been seen then."""
        if self._markers.may_be_in(piece):
            return False
        self._remember(piece)
        return True

    def text(self, piece: str) -> str:
        return piece if self.lets_pass(piece) else self._show(self._markers.split(piece))

    def rest(self) -> str:
        return self._show(self._markers.rest())

    def found(self, length: int | None) -> list[Citation]:
        """What the text rests on, or the first ``length`` characters of it."""
        if not self._annotates:
            return []
        length = self._length if length is None else length
        known = ((self._sources.get(ref), start, end) for ref, start, end in self._places if end <= length)
        citations = [Citation(page.url, page.title, start, end) for page, start, end in known if page is not None]
        return list(dict.fromkeys(citations))

    def _show(self, parts: list[str | Marker]) -> str:
        shown = []
        for part in parts:
            text = part if isinstance(part, str) else self._show_marker(part)
            if text:
                shown.append(text)
                self._remember(text)
        return "".join(shown)

    def _remember(self, text: str) -> None:
        self._length += len(text)
        self._recent.append(text)
        if len(self._recent) > _MAX_RECENT:
            self._recent = ["".join(self._recent)[-_MAX_SENTENCE_CHARS:]]

    def _show_marker(self, marker: Marker) -> str:
        if not marker.certain and not self._sources:
            self._places += [(ref, self._length, self._length + len(marker.raw)) for ref in marker.refs]
            return marker.raw
        shown = ""
        for ref in marker.refs:
            page = self._sources.get(ref)
            if page is None or not self._links:
                self._places.append((ref, self._sentence_start(), self._length))
                continue
            if not shown and self._recent and self._recent[-1].endswith(("!", "\\")):
                # Together with that, a link would be a picture or no link at all.
                shown = " "
            start = self._length + len(shown)
            shown += self._link(page)
            self._places.append((ref, start, self._length + len(shown)))
        return shown

    def _link(self, page: Source) -> str:
        number = int(page.ref) if page.ref.isdecimal() else self._numbers.setdefault(page.url, len(self._numbers) + 1)
        url = _NOT_IN_A_LINK.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), page.url)
        return f"[{number}]({url})"

    def _sentence_start(self) -> int:
        """Where the sentence began that the text ends with now, as far as it is remembered."""
        tail = "".join(self._recent)[-_MAX_SENTENCE_CHARS:]
        sentence = tail.rstrip()
        ends = list(_SENTENCE_END.finditer(sentence))
        while ends and ends[-1].end() == len(sentence):
            sentence = sentence[: ends.pop().start()].rstrip()
        begin = ends[-1].end() if ends else 0
        return self._length - len(tail[begin:].lstrip())
