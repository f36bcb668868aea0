"""How many values a JSON text holds, known before it is parsed.

Parsing takes time and memory for each value, and nothing else of the worker runs meanwhile: 16 MB of ``[],[],…`` are
five million lists, half a second and 500 MB. 16 MB of text are one value.
"""

from app.concurrency.yielding import pause

# How much is looked at between two pauses: bytes, bytes with short strings, and backslashes.
_PART = 1 << 20
_PAUSE_BYTES = 1 << 14
_ESCAPES = 4096

_SEPARATORS = (b",", b"[", b"{")


def has_more_values(data: bytes, most: int) -> bool:
    """Whether the text has more than ``most`` values: objects, lists, strings, numbers, literals.

    Commas and brackets are counted, so names of fields do not count, and an empty list or object counts twice. Says
    nothing about what is not valid JSON.
    """
    # Each value but the first has a comma or a bracket before it.
    if len(data) < 2 * most:
        return False
    found = 0
    for at in range(0, len(data), _PART):
        found += _separators(data, at, at + _PART)
        if found >= most:
            return _has_more_outside_of_strings(data, most)
        pause()
    return False


def _separators(data: bytes, start: int, end: int) -> int:
    return sum(data.count(separator, start, end) for separator in _SEPARATORS)


def _has_more_outside_of_strings(data: bytes, most: int) -> bool:
    found, at, paused_at = 1, 0, 0
    while at < len(data):
        quote = data.find(b'"', at, at + _PART)
        end = min(at + _PART, len(data)) if quote < 0 else quote
        found += _separators(data, at, end)
        if found > most:
            return True
        at = end if quote < 0 else _end_of_string(data, quote + 1)
        if at - paused_at >= _PAUSE_BYTES:
            paused_at = at
            pause()
    return False


def _end_of_string(data: bytes, at: int) -> int:
    """The position behind the quote that ends the string."""
    quote, escapes = data.find(b'"', at), 0
    while quote >= 0:
        escape = data.find(b"\\", at, quote)
        if escape < 0:
            return quote + 1
        at = escape + 2
        if at > quote:
            quote = data.find(b'"', at)
        escapes += 1
        if not escapes % _ESCAPES:
            pause()
    return len(data)
