"""Turns the citation markers of a text into annotations, links of Markdown, or both.

A marker whose page is known becomes a link. Without links it is removed, and its citation covers the sentence before
it. A marker whose page is not known is removed if any page is known, because then it is Kimi's. Otherwise ``[^1^]``
stays, because it may be part of what was asked for. Its position is kept in both cases: the page may become known
later. Text never waits for a page. Does not know any wire format.
"""

import re

from app.chat import Citation, CitationStyle, Source
from app.text.citation_markers import Marker, Markers

# How much of the text is kept, to find the start of the sentence that a marker ends.
_MAX_SENTENCE_CHARS = 400
# How many pieces are kept before they are joined, which costs time; each of them costs memory, in every stream.
_MAX_RECENT = 32
_SENTENCE_END = re.compile(r"[。！？!?；\n]+[”』」)）]*|\.(?=\s)")
# Characters that would end the address of a link of Markdown, or the cell of a table that it is in.
_NOT_IN_A_LINK = re.compile(r"[\s()<>\"'\\`|\[\]*_]")
# A link as ``Citations`` writes it, with the space before it, if any.
_OWN_LINK = re.compile(r" ?\[[0-9]{1,6}\]\([^)\s]*\)")
_MAX_SOURCES = 1000
# Citations of one answer. Later ones are rendered like these, and not listed.
_MAX_SPANS = 5000


def without_links(text: str) -> str:
    """The text without links that ``Citations`` may have written: some clients remove them."""
    return _OWN_LINK.sub("", text) if "](" in text else text


class Citations:
    """The citations of one answer. Offsets count characters of the text that ``feed`` and ``flush`` return."""

    __slots__ = ("_annotates", "_length", "_links", "_markers", "_numbers", "_spans", "_recent", "_sources")

    def __init__(self, style: CitationStyle) -> None:
        self._links = style in ("markdown", "both")
        self._annotates = style in ("annotations", "both")
        self._markers = Markers()
        self._sources: dict[str, Source] = {}
        self._numbers: dict[str, int] = {}
        # For each citation: the ref of its page, and the start and end of the text that cites it.
        self._spans: list[tuple[str, int, int]] = []
        self._length = 0
        # The last pieces of the text, enough for a sentence.
        self._recent: list[str] = []

    def add_source(self, source: Source) -> None:
        if len(self._sources) < _MAX_SOURCES:
            self._sources[source.ref] = source

    def passes_unchanged(self, piece: str) -> bool:
        """Whether ``feed`` would return just this piece, which then must not be passed to it any more."""
        if not self._markers.passes_unchanged(piece):
            return False
        self._remember(piece)
        return True

    def feed(self, piece: str) -> str:
        """The text for the client, without what is held back because it may be the start of a marker."""
        return piece if self.passes_unchanged(piece) else self._render(self._markers.split(piece))

    def flush(self) -> str:
        """The text that was held back. To be called after the last piece."""
        return self._render(self._markers.flush())

    def citations(self, length: int | None) -> list[Citation]:
        """The citations in the text; if ``length`` is given, in its first ``length`` characters."""
        if not self._annotates:
            return []
        length = self._length if length is None else length
        known = ((self._sources.get(ref), start, end) for ref, start, end in self._spans if end <= length)
        found = [Citation(page.url, page.title, start, end) for page, start, end in known if page is not None]
        return list(dict.fromkeys(found))

    def _render(self, parts: list[str | Marker]) -> str:
        shown = []
        for part in parts:
            text = part if isinstance(part, str) else self._render_marker(part)
            if text:
                shown.append(text)
                self._remember(text)
        return "".join(shown)

    def _remember(self, text: str) -> None:
        self._length += len(text)
        self._recent.append(text)
        if len(self._recent) > _MAX_RECENT or len(text) > _MAX_SENTENCE_CHARS:
            self._recent = ["".join(self._recent)[-_MAX_SENTENCE_CHARS:]]

    def _render_marker(self, marker: Marker) -> str:
        if not marker.is_certain and not self._sources:
            for ref in marker.refs:
                self._cite(ref, self._length, self._length + len(marker.raw))
            return marker.raw
        shown = ""
        for ref in marker.refs:
            page = self._sources.get(ref)
            if page is None or not self._links:
                if self._annotates and len(self._spans) < _MAX_SPANS:
                    self._cite(ref, self._sentence_start(), self._length)
                continue
            if not shown and self._recent and self._recent[-1].endswith(("!", "\\")):
                # "![" starts an image, and "\[" is no link.
                shown = " "
            start = self._length + len(shown)
            shown += self._link(page)
            self._cite(ref, start, self._length + len(shown))
        return shown

    def _cite(self, ref: str, start: int, end: int) -> None:
        if self._annotates and len(self._spans) < _MAX_SPANS:
            self._spans.append((ref, start, end))

    def _link(self, page: Source) -> str:
        number = int(page.ref) if page.ref.isdecimal() else self._numbers.setdefault(page.url, len(self._numbers) + 1)
        url = _NOT_IN_A_LINK.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), page.url)
        return f"[{number}]({url})"

    def _sentence_start(self) -> int:
        """The start of the last sentence of the text, as far as the text is kept."""
        tail = "".join(self._recent)[-_MAX_SENTENCE_CHARS:]
        sentence = tail.rstrip()
        ends = list(_SENTENCE_END.finditer(sentence))
        while ends and ends[-1].end() == len(sentence):
            sentence = sentence[: ends.pop().start()].rstrip()
        begin = ends[-1].end() if ends else 0
        return self._length - len(tail[begin:].lstrip())
