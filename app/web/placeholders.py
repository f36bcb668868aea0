"""Words that programs write where they have no value: an empty variable of JavaScript or Python, made into text.

As the id of something that is optional such a word would be one id for everybody who writes it.
"""

_WORDS = frozenset({"none", "null", "undefined", "nil", "nan", "false", "[object object]", "(null)", "<nil>"})


def is_placeholder(text: str) -> bool:
    return text.strip().strip("\"'").lower() in _WORDS
