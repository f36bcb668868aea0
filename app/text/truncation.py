"""Where an answer ends before Kimi ends it: at a stop sequence, or at a number of tokens.

A stop sequence is found however the text is cut; the one that is complete first counts, and the text ends before
it. Only what can be the beginning of one is held back. Tokens count as ``app.tokens`` estimates them, thinking and
text together, and the text ends where the next character would be one token too many: nothing is ever held back
for that. Knows no wire.
"""

from app.text import token_count


class Stops:
    """The stop sequences, for one text."""

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = tuple(sequence for sequence in sequences if sequence)
        self._held = ""

    def take(self, piece: str) -> tuple[str, str | None]:
        """The text to pass on, and the sequence that ends it where one does."""
        text = self._held + piece
        stops = [(at + len(stop), at, stop) for stop in self._sequences if (at := text.find(stop)) >= 0]
        if stops:
            _, at, stop = min(stops)
            self._held = ""
            return text[:at], stop
        keep = max((_begun(text, stop) for stop in self._sequences), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def rest(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` are the beginning of ``stop``."""
    last = text[-1:]
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if stop[length - 1] == last and text.endswith(stop[:length]):
            return length
    return 0


class Budget:
    """``most`` tokens, for thinking and text together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._text = token_count.Meter()
        self._thinking = token_count.Meter()

    def text(self, piece: str) -> str:
        """As much of it as may still be passed on; the answer is over where that is not all."""
        return piece[: self._text.add_up_to(piece, self._most - self._thinking.tokens)]

    def thinking(self, piece: str) -> str:
        """As ``text``."""
        return piece[: self._thinking.add_up_to(piece, self._most - self._text.tokens)]
