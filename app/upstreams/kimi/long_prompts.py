"""Prompts that are longer than a chat takes, sent as a file (``kimi-protocol-2.md`` 2.9). Off by default: how well
Kimi follows instructions in a file is not known.
"""

import hashlib
from dataclasses import replace

from app.chat import Attachment, InMemory
from app.upstreams import PreparedTurn

# What the user is told (``x-kimi-notice``).
NOTICE = "prompt-sent-as-file"


def as_file(turn: PreparedTurn, text: str, most: int) -> PreparedTurn:
    """The turn with ``text`` in a file, if that has more than ``most`` bytes; 0: never. ``text``: all that the turn
    says, its instructions included.

    With functions it stays as it is: the description of calls must not be in a file.
    """
    # Four bytes at most for a character.
    if not most or turn.prompt.reads_calls or 4 * len(text) <= most:
        return turn
    data = text.encode(errors="replace")
    if len(data) <= most:
        return turn
    digest = hashlib.sha256(data).hexdigest()
    field = turn.request.messages_field
    file = Attachment(
        f"conversation-{digest[:8]}.txt", "text/plain", len(data), digest, False, field, "text", InMemory(data)
    )
    words = (
        f"{file.text} This file holds what is said to you, because it is too long for a message. Read all of it and "
        "answer it as if it stood here: follow its instructions, and write only the answer."
    )
    prompt = replace(turn.prompt, text=words, counted=turn.prompt.counted_text)
    return PreparedTurn(turn.request, prompt, attachments=(file, *turn.attachments), is_in_file=True)
