"""How many tokens a text may be: a guess, because Kimi tells no numbers and no tokenizer is shipped.

Latin text is taken as four characters a token, Chinese, Japanese and Korean as one and a half.
"""


def estimate(text: str) -> int:
    """Tokens of ``text``; at least 1 unless it is empty."""
    # A CJK character has three bytes in UTF-8, a Latin one has one.
    wide = min(len(text), (len(text.encode(errors="replace")) - len(text)) // 2)
    return (len(text) - wide + 3) // 4 + (2 * wide + 2) // 3
