"""Ends an answer before Kimi does: at a stop sequence, or after a number of tokens.

Both work on text that comes in pieces. Does not know any wire format.
"""

from app.text import token_count


class StopSequences:
    """Finds the first stop sequence in a text, also where it is spread over several pieces.

    Text is held back only while it may be the start of a stop sequence.
    """

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = tuple(sequence for sequence in sequences if sequence)
        # For each length of a start of a sequence: the characters that such starts end with.
        longest = max(map(len, self._sequences), default=0)
        self._ends = [{s[length - 1] for s in self._sequences if len(s) > length} for length in range(1, longest)]
        self._held = ""

    def feed(self, piece: str) -> tuple[str, str | None]:
        """The text to pass on, and the stop sequence that ends it, if there is one.

        Of several stop sequences the one that is complete first counts. The text ends before it.
        """
        text = self._held + piece
        stops = [(at + len(stop), at, stop) for stop in self._sequences if (at := text.find(stop)) >= 0]
        if stops:
            _, at, stop = min(stops)
            self._held = ""
            return text[:at], stop
        keep = self._partial_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The text that was held back. To be called after the last piece."""
        held, self._held = self._held, ""
        return held

    def _partial_length(self, text: str) -> int:
        """How many characters at the end of ``text`` are the start of a sequence."""
        last = text[-1:]
        for length in range(min(len(self._ends), len(text)), 0, -1):
            # This saves nearly all comparisons.
            if last in self._ends[length - 1]:
                end = text[len(text) - length :]
                if any(len(stop) > length and stop.startswith(end) for stop in self._sequences):
                    return length
        return 0


class TokenBudget:
    """Cuts an answer after ``most`` tokens, as ``token_count`` estimates them: of thinking and text together, or of
    text alone where ``counts_thinking`` is false.

    Nothing is held back: the estimate of a text that grows never shrinks.
    """

    def __init__(self, most: int, *, counts_thinking: bool = True) -> None:
        self._most = most
        self._counts_thinking = counts_thinking
        self._text = token_count.Meter()
        self._thinking = token_count.Meter()

    def cut_text(self, piece: str) -> str:
        """As much of the piece as the budget allows. If that is not all of it, the answer is over."""
        return piece[: self._text.add_up_to(piece, self._most - self._thinking.tokens)]

    def cut_thinking(self, piece: str) -> str:
        """As ``cut_text``, for thinking."""
        if not self._counts_thinking:
            return piece
        return piece[: self._thinking.add_up_to(piece, self._most - self._text.tokens)]
