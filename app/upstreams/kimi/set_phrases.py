"""Sentences that Kimi says in place of an answer: it is overloaded, or it does not talk about this.

Source: Kimi's help centre, "Kimi chat common issues" (``kimi-protocol-2.md`` 5.7, N7), and E9 of
``kimi-protocol.md``. They count only where they are the whole answer and no part of the question. Must never know
which frame they come in.
"""

from typing import Literal

Meaning = Literal["overloaded", "moderated"]

# In lower case, without what stands around them.
_PHRASES: dict[str, Meaning] = {
    "kimi 现在有点累了，晚一点再来问问我吧": "overloaded",
    "kimi is a bit tired": "overloaded",
    "kimi is a bit tired now": "overloaded",
    "kimi is a bit tired right now": "overloaded",
    "让我们换个话题再聊聊吧": "moderated",
    "let's talk about something else": "moderated",
    "let’s talk about something else": "moderated",
}
_LONGEST = max(map(len, _PHRASES)) + 8
_AROUND = " \t\r\n.!?…。！？~～"


def meaning_of(text: str) -> Meaning | None:
    """What a sentence of Kimi's means, if it is one of these."""
    return _PHRASES.get(_bare(text)) if len(text) <= _LONGEST else None


def contained_meaning(text: str) -> Meaning | None:
    """The same for the text of an error, which may say more than that."""
    bare = _bare(text)
    return next((meaning for phrase, meaning in _PHRASES.items() if phrase in bare), None)


class Opening:
    """The beginning of an answer, held back for as long as the whole answer may be one of these sentences."""

    __slots__ = ("_asked", "_held")

    def __init__(self, asked: str) -> None:
        """``asked``: the question. A sentence that stands in it may be repeated in the answer."""
        self._asked = asked
        self._held = ""

    def take(self, text: str) -> str:
        """What is to be passed on when ``text`` comes: nothing while it is held back, then all that was held.

        As soon as something is returned, the answer is one like any other, and this object is not needed any more.
        """
        self._held += text
        begun = _bare(self._held)
        if begun and len(self._held) <= _LONGEST and any(phrase.startswith(begun) for phrase in _PHRASES):
            return ""
        return self.flush()

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    @property
    def meaning(self) -> Meaning | None:
        """What the answer means if it has ended here."""
        meaning = meaning_of(self._held)
        return None if meaning is None or _bare(self._held) in self._asked.lower() else meaning


def _bare(text: str) -> str:
    return text.strip(_AROUND).lower()
