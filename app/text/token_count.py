"""How many tokens a text may be: a guess, because Kimi tells no numbers and no tokenizer is shipped.

A text is taken as runs of characters of one kind, as tokenizers take it, and each character costs what its place
in its run is worth: the first six letters of a word make one token with the space before it, a Chinese character
is worth a little more than half of one. The costs were fitted to the vocabulary of Qwen, the nearest to Kimi's
that can be had, with digits by threes as Kimi takes them; ``bench/tokens`` shows how near they come.

No cost depends on what follows, so the guess for a text that grows never shrinks, and is the same in whatever
pieces the text comes. Knows no tokenizer.
"""

import re
import unicodedata
from itertools import accumulate

from app.concurrency.yielding import yielding_every

_ZERO_WIDTH_JOINER = "\u200d"

# Kind of character, as a pattern of its runs → the cost in thousandths of a token of the first, second, …
# character of a run; every further one costs what the last one given does. Each character is of one kind.
_KINDS: tuple[tuple[str, tuple[int, ...]], ...] = (
    # Small letters begin a word, or go on with it after a capital or an accented letter.
    ("(?<![A-Z\u00c0-\u024f])[a-z]+", (590, 0, 0, 0, 0, 0, 230, 150)),
    ("[a-z]+", (360, 0, 0, 0, 0, 0, 450, 300)),
    ("[A-Z]+", (220, 0, 0, 0, 450, 220)),
    (" +", (420, 560, 0)),
    (r"[!-/:-@\[-`{-~]+", (950, 100, 270, 650, 190, 100)),
    (r"[\r\n]+", (390, 470, 50)),
    ("[0-9]+", (*(1000, 0, 0) * 20, 333)),
    (r"[\t\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+", (770, 600, 60)),
    # Chinese, the punctuation beside it, Japanese, Korean, Greek and Cyrillic, accented Latin.
    ("[\u3400-\u9fff\uf900-\ufaff]+", (1080, 520, 850, 550)),
    ("[\u00b7\u2010-\u2027\u3000-\u303f\uff00-\uffef]+", (940, 860, 830)),
    ("[\u3040-\u30ff]+", (950, 420, 400, 500)),
    ("[\uac00-\ud7a3]+", (900, 540, 550, 600)),
    ("[\u0370-\u052f]+", (400, 110, 290, 300, 150, 200, 300, 400, 300)),
    ("[\u00c0-\u024f]+", (1650, 800)),
    # What only changes the character before it: accents, joiners, the form of a picture.
    ("[\u0300-\u036f\u200d\ufe00-\ufe0f]+", (0,)),
    # Beyond the first plane: emoji above all.
    ("[\U00010000-\U0010ffff]+", (1500, 1300)),
    # Everything else: other scripts, symbols.
    ("[\u0080-\U0010ffff]", (950,)),
)
_RUN = re.compile("|".join(f"({pattern})" for pattern, _ in _KINDS))
# A small letter at the beginning of a piece goes on with what the last one ended in: kind of that → its own kind.
_WORD, _REST_OF_WORD, _CAPITALS, _ACCENTED = 1, 2, 3, 14
_IN_A_WORD = {
    _WORD: _WORD,
    _REST_OF_WORD: _REST_OF_WORD,
    _CAPITALS: _REST_OF_WORD,
    _ACCENTED: _REST_OF_WORD,
}
_TABLE_LENGTH = 64
# How many characters are counted at a time.
_PART = 16_384
_COSTS = [(0,)] + [(0, *accumulate((*costs, *[costs[-1]] * _TABLE_LENGTH)[:_TABLE_LENGTH])) for _, costs in _KINDS]
_TAILS = [0] + [costs[-1] for _, costs in _KINDS]


def _cost(kind: int, length: int) -> int:
    """Of the first ``length`` characters of a run."""
    if length <= _TABLE_LENGTH:
        return _COSTS[kind][length]
    return _COSTS[kind][_TABLE_LENGTH] + (length - _TABLE_LENGTH) * _TAILS[kind]


def estimate(text: str) -> int:
    """Tokens of ``text``; at least 1 unless it is empty."""
    meter = Meter()
    # 15 MB take up to 18 s, a part of them 20 ms.
    for at in yielding_every(range(0, len(text), _PART), 1):
        meter.add(text[at : at + _PART])
    return meter.tokens


class Meter:
    """Counts a text that comes in pieces: ``tokens`` is the estimate of all of them joined."""

    __slots__ = ("_cost", "_kind", "_length")

    def __init__(self) -> None:
        self._cost = 0
        # The run that the text ends in: the next piece may go on with it.
        self._kind = self._length = 0

    @property
    def tokens(self) -> int:
        return -(-self._cost // 1000) or (1 if self._kind else 0)

    def add(self, piece: str) -> None:
        total, kind, length = self._cost, self._kind, self._length
        for run in _RUN.finditer(piece):
            found = run.lastindex or 0
            if run.start() == 0 and found == _WORD and kind in _IN_A_WORD:
                found = _IN_A_WORD[kind]
            before = length if found == kind else 0
            kind, length = found, before + run.end() - run.start()
            total += _cost(kind, length) - _cost(kind, before)
        self._cost, self._kind, self._length = total, kind, length

    def add_up_to(self, piece: str, most: int) -> int:
        """Adds as much of the beginning of ``piece`` as ``most`` tokens in all allow; how many characters that is.

        No character is parted from what belongs to it, an accent, a joined picture, as far as ``piece`` goes.
        """
        before = (self._cost, self._kind, self._length)
        self.add(piece)
        if self._cost <= most * 1000:
            return len(piece)
        self._cost, self._kind, self._length = before
        fits = 0
        while self._cost <= most * 1000:
            self.add(piece[fits])
            fits += 1
        fits -= 1
        while fits > 0 and _belong_together(piece, fits):
            fits -= 1
        self._cost, self._kind, self._length = before
        self.add(piece[:fits])
        return fits


def _belong_together(text: str, at: int) -> bool:
    """Whether what stands before ``at`` and what stands behind make one character for the eye."""
    left, right = text[at - 1], text[at]
    if "\U0001f1e6" <= right <= "\U0001f1ff":
        # The letters of flags, which come in pairs.
        letters = len(text[:at]) - len(text[:at].rstrip(_FLAG_LETTERS))
        return letters % 2 == 1
    return (
        _ZERO_WIDTH_JOINER in (left, right)
        or unicodedata.category(right) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= right <= "\U0001f3ff"
    )


_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
