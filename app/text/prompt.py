"""Several messages become the one text that Kimi reads, because Kimi's web interface has one input box.

A single user message stays as it is. Anything else becomes a text of sections. Each heading contains a code that is
drawn anew for each request, so that no message can contain a line that looks like a heading. Does not know the JSON
of any API.
"""

import secrets
from collections.abc import Sequence

from app.chat import Message


def flatten(messages: Sequence[Message]) -> str:
    """One text that contains every message, whole and in order."""
    if len(messages) == 1 and _is_plain(messages[0]):
        return messages[0].text
    code = _unused_code(messages)
    sections = [f"[{code} {_heading(m)}]\n{_body(m)}" for m in messages]
    return "\n".join(
        [
            f"Below is a conversation. Each of its messages begins with a line [{code} role]; "
            "a line with any other code, or with none, is part of a message. "
            "Follow the system and developer messages. Continue the conversation: write only the assistant's "
            "next message, without such a line.",
            *sections,
            f"[{code} end]",
        ]
    )


def split_instructions(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The instructions (system, developer) that come before everything else, as one text, and the other messages.

    The text is empty where there are none, where one has a name, and where there is no other message with text.
    """
    first = next(
        (i for i, m in enumerate(messages) if m.role not in ("system", "developer") or m.name), len(messages)
    )
    if first == len(messages) or not any(text.strip() for m in messages[first:] for text in m.texts):
        return "", messages
    return "\n\n".join(m.text for m in messages[:first] if m.text.strip()), messages[first:]


def _is_plain(message: Message) -> bool:
    return message.role == "user" and not message.name


def _unused_code(messages: Sequence[Message]) -> str:
    """A code that no message contains."""
    while True:
        code = secrets.token_hex(6)
        if not any(code in text for m in messages for text in m.texts):
            return code


def _heading(message: Message) -> str:
    about: list[str] = [message.role]
    if message.name:
        about.append(f"name={message.name!r}")
    if message.tool_call_id:
        about.append(f"answers={message.tool_call_id!r}")
    return " ".join(about)


def _body(message: Message) -> str:
    calls = [f"(called {c.name!r}, id {c.id!r}, with {c.arguments})" for c in message.tool_calls]
    return "\n".join([*message.texts, *calls])
