"""What Kimi lists of an account's chats and their messages: JSON → values (``kimi-protocol.md`` 3.8 and 5.8).

Lists come in pages. Unknown fields are ignored; a list without its own field is an error, because "no messages" must
never be said of a chat that has some. Must never know how a page is asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from app.errors import UpstreamError, UpstreamProtocolError
from app.upstreams import ListedChat
from app.upstreams.account import Account
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.http import Reply
from app.upstreams.kimi.json_frames import Reader, join_surrogates

PAGE_SIZE = 50
# The most pages of one list.
_MAX_PAGES = 10

Fields = Mapping[str, Any]


def fields_of(reply: Reply, account: Account, refusal: Callable[[Reply, Account], UpstreamError]) -> Fields:
    """The object of a reply. Raises UpstreamError."""
    if not kimi_errors.succeeded(reply):
        raise refusal(reply, account)
    fields = Reader().load(reply.body)
    if not isinstance(fields, dict):
        raise UpstreamProtocolError(f"{account.label}: Kimi sent a list that cannot be read")
    return fields


def items_of(fields: Fields, name: str, account: Account) -> list[Fields]:
    """The objects of a list. Raises UpstreamProtocolError where it is not there."""
    items = fields.get(name)
    if not isinstance(items, list):
        raise UpstreamProtocolError(f"{account.label}: Kimi sent no '{name}'")
    return [item for item in items if isinstance(item, dict)]


def chats_of(pages: Iterator[Sequence[Fields]], begun: str, changed: str) -> Iterator[ListedChat]:
    """``begun``, ``changed``: the names of the times. What has no id or no time is left out."""
    for page, _ in zip(pages, range(_MAX_PAGES), strict=False):
        for item in page:
            chat_id, changed_at = item.get("id"), moment(item.get(changed))
            if isinstance(chat_id, str) and changed_at is not None:
                yield ListedChat(chat_id, moment(item.get(begun)), changed_at)


def moment(value: Any) -> float | None:
    """Seconds since 1970 of a time in RFC 3339; None for anything else."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def whole_text(value: Any) -> str:
    return join_surrogates(value) if isinstance(value, str) else ""
