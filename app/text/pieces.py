"""The third answer to a question about a text that comes in pieces: it cannot be said yet."""

from typing import Final


class More:
    """The text ends too early to decide."""


MORE: Final = More()
