"""Estimates how many tokens a text has. Kimi reports no numbers, and no tokenizer is shipped.

A text is split into runs of characters of one kind, as tokenizers do, and each character costs something that
depends on its position in its run: the first six letters of a word are one token together with the space before
them, a Chinese character is a little more than half a token. The costs were fitted to the vocabulary of Qwen, the
nearest to Kimi's that is public, with digits in groups of three as in Kimi's. ``bench/tokens`` shows how near the
estimates are.

No cost depends on the characters that follow. So the estimate of a text that grows never shrinks, and it is the same
in whatever pieces the text comes.
"""

import re
import unicodedata
from itertools import accumulate

from app.concurrency.yielding import in_slices

_ZERO_WIDTH_JOINER = "\u200d"

# For each kind of character: the pattern of its runs, and the costs of the first, second, … character of a run in
# thousandths of a token. All further characters cost as much as the last one in the list. Each character is of
# exactly one kind.
_KINDS: tuple[tuple[str, tuple[int, ...]], ...] = (
    # Small letters at the start of a word, and after a capital or an accented letter.
    ("(?<![A-Z\u00c0-\u024f])[a-z]+", (590, 0, 0, 0, 0, 0, 230, 150)),
    ("[a-z]+", (360, 0, 0, 0, 0, 0, 450, 300)),
    ("[A-Z]+", (220, 0, 0, 0, 450, 220)),
    (" +", (420, 560, 0)),
    (r"[!-/:-@\[-`{-~]+", (950, 100, 270, 650, 190, 100)),
    (r"[\r\n]+", (390, 470, 50)),
    ("[0-9]+", (*(1000, 0, 0) * 20, 333)),
    (r"[\t\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+", (770, 600, 60)),
    # Chinese, East Asian punctuation, Japanese, Korean, Greek and Cyrillic, accented Latin.
    ("[\u3400-\u9fff\uf900-\ufaff]+", (1080, 520, 850, 550)),
    ("[\u00b7\u2010-\u2027\u3000-\u303f\uff00-\uffef]+", (940, 860, 830)),
    ("[\u3040-\u30ff]+", (950, 420, 400, 500)),
    ("[\uac00-\ud7a3]+", (900, 540, 550, 600)),
    ("[\u0370-\u052f]+", (400, 110, 290, 300, 150, 200, 300, 400, 300)),
    ("[\u00c0-\u024f]+", (1650, 800)),
    # Characters that only change the one before them: accents, joiners, variation selectors.
    ("[\u0300-\u036f\u200d\ufe00-\ufe0f]+", (0,)),
    # Beyond the first plane: mostly emoji.
    ("[\U00010000-\U0010ffff]+", (1500, 1300)),
    # Everything else: other scripts, symbols.
    ("[\u0080-\U0010ffff]", (950,)),
)
_RUN = re.compile("|".join(f"({pattern})" for pattern, _ in _KINDS))
# The kind of small letters at the start of a piece, by the kind of the last character of the piece before.
_WORD, _REST_OF_WORD, _CAPITALS, _ACCENTED = 1, 2, 3, 14
_IN_A_WORD = {
    _WORD: _WORD,
    _REST_OF_WORD: _REST_OF_WORD,
    _CAPITALS: _REST_OF_WORD,
    _ACCENTED: _REST_OF_WORD,
}
_TABLE_LENGTH = 64
# How many characters are counted before other requests can run.
_PART = 4096
_COSTS = [(0,)] + [(0, *accumulate((*costs, *[costs[-1]] * _TABLE_LENGTH)[:_TABLE_LENGTH])) for _, costs in _KINDS]
_TAILS = [0] + [costs[-1] for _, costs in _KINDS]


def _cost(kind: int, length: int) -> int:
    """The cost of the first ``length`` characters of a run."""
    if length <= _TABLE_LENGTH:
        return _COSTS[kind][length]
    return _COSTS[kind][_TABLE_LENGTH] + (length - _TABLE_LENGTH) * _TAILS[kind]


# Tokens per character, fitted to the corpus of ``bench/tokens``.
_PER_ASCII = 0.25
_PER_OTHER = 0.65


def rough(ascii_chars: int, other_chars: int) -> int:
    """About how many tokens so many characters are, without looking at them: within a quarter for prose, a half for
    code, tables and data. For statistics; a client is told ``estimate``."""
    return round(ascii_chars * _PER_ASCII + other_chars * _PER_OTHER)


def estimate(text: str) -> int:
    """The number of tokens of ``text``; at least 1 unless it is empty."""
    meter = Meter()
    # 15 MB take up to 18 s, a part of them 5 ms.
    for at in in_slices(range(0, len(text), _PART)):
        meter.add(text[at : at + _PART])
    return meter.tokens


class Meter:
    """Counts the tokens of a text that comes in pieces."""

    __slots__ = ("_cost", "_kind", "_length")

    def __init__(self) -> None:
        self._cost = 0
        # The run at the end of the text, which the next piece may continue.
        self._kind = self._length = 0

    @property
    def tokens(self) -> int:
        """The estimate for all pieces joined."""
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
        """Adds the start of ``piece``, as far as there are ``most`` tokens in all. Returns the number of characters.

        The cut is not between a character and its accent, nor inside a joined emoji, as far as ``piece`` shows.
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
        while fits > 0 and _is_inside_character(piece, fits):
            fits -= 1
        self._cost, self._kind, self._length = before
        self.add(piece[:fits])
        return fits


def _is_inside_character(text: str, at: int) -> bool:
    """Whether the characters before and after ``at`` are displayed as one."""
    left, right = text[at - 1], text[at]
    if "\U0001f1e6" <= right <= "\U0001f1ff":
        # Two regional indicator letters are a flag.
        letters = len(text[:at]) - len(text[:at].rstrip(_FLAG_LETTERS))
        return letters % 2 == 1
    return (
        _ZERO_WIDTH_JOINER in (left, right)
        or unicodedata.category(right) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= right <= "\U0001f3ff"
    )


_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
