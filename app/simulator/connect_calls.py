"""The Connect generation's unary methods: chats, messages, cancelling, models, the account, refresh R2.

Knows sections 2.4, 2.6, 5.8 and 6.2 of the protocol notes. Must never know how a `Chat` is streamed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from app.simulator.catalogue import listed
from app.simulator.connect import either
from app.simulator.connect_errors import refuse
from app.simulator.connect_frames import moment
from app.simulator.http1 import Reply, json_reply
from app.simulator.rest import RefusedRefresh, renew
from app.simulator.simulation import Exchange
from app.simulator.world import Chat, Message

T = TypeVar("T")


async def refresh(exchange: Exchange) -> Reply:
    """R2: the refresh token comes in the body, under either spelling."""
    body = _body(exchange)
    if body is None:
        return refuse("bad_request")
    try:
        access, successor = await renew(exchange, either(body, "refresh_token", "refreshToken"))
    except RefusedRefresh as refused:
        return json_reply({"code": "unauthenticated", "message": str(refused)}, 401)
    return json_reply({"accessToken": access, "refreshToken": successor})


async def list_chats(exchange: Exchange) -> Reply:
    body = _body(exchange)
    if body is None:
        return refuse("bad_request")
    assert exchange.account
    query = str(body.get("query") or "")
    chats = [chat for chat in exchange.sim.world.chats_of(exchange.account) if query in chat.name]
    page, next_token = _page(body, chats, 50)
    return json_reply({"chats": [_listed(chat) for chat in page], "nextPageToken": next_token})


def _listed(chat: Chat) -> dict[str, object]:
    latest = chat.latest("assistant")
    return {
        "id": chat.id,
        "name": chat.name,
        "messageContent": latest.text if latest else "",
        "createTime": moment(chat.created_at),
        "updateTime": moment(chat.updated_at),
    }


async def get_chat(exchange: Exchange) -> Reply:
    chat = _named_chat(exchange)
    if chat is None:
        return refuse("not_found")
    status = "STATUS_GENERATING" if chat.streaming else "STATUS_COMPLETED"
    asked = chat.latest("user")
    last = {"options": {}, "scenario": asked.scenario if asked else ""}
    return json_reply({"chat": {"id": chat.id, "name": chat.name, "status": status, "lastRequest": last}})


async def list_messages(exchange: Exchange) -> Reply:
    """Newest first."""
    body, chat = _body(exchange), _named_chat(exchange)
    if body is None or chat is None:
        return refuse("not_found")
    messages = list(reversed(chat.messages.values()))
    page, next_token = _page(body, messages, 100)
    return json_reply({"messages": [_shown(chat, message) for message in page], "nextPageToken": next_token})


def _shown(chat: Chat, message: Message) -> dict[str, object]:
    thinking = [{"id": "1", "think": {"content": message.thinking}}] if message.thinking else []
    content = message.sent or message.text
    text = [{"id": "2", "text": {"content": content}}] if content else []
    chunks = [
        {"id": str(number), "base": {"title": page.title, "url": page.url, "siteName": page.site}}
        for number, page in enumerate(message.pages, start=1)
    ]
    return {
        "id": message.id,
        "parentId": message.parent_id,
        "childrenMessageIds": [m.id for m in chat.messages.values() if m.parent_id == message.id],
        "role": message.role,
        "status": "MESSAGE_STATUS_COMPLETED" if message.complete else "MESSAGE_STATUS_GENERATING",
        "scenario": message.scenario,
        "blocks": thinking + text,
        "refs": {"searchChunks": chunks, "usedSearchChunks": chunks} if chunks else {},
        "createTime": moment(message.created_at),
    }


async def delete_chat(exchange: Exchange) -> Reply:
    chat = _named_chat(exchange)
    if chat is None:
        return refuse("not_found")
    exchange.sim.world.delete(chat)
    exchange.sim.bell.ring()
    return json_reply({})


async def update_chat(exchange: Exchange) -> Reply:
    body = _body(exchange) or {}
    wanted = body.get("chat")
    chat = exchange.own_chat(str(wanted.get("id"))) if isinstance(wanted, dict) else None
    if chat is None or not isinstance(wanted, dict):
        return refuse("not_found")
    chat.name = str(wanted.get("name") or chat.name)
    return json_reply({})


async def cancel_chat(exchange: Exchange) -> Reply:
    """Ends the answer that is being streamed, if it is the named one; its stream closes with COMPLETED (Q20)."""
    chat = _named_chat(exchange)
    if chat is None:
        return refuse("not_found")
    message_id, latest = either(_body(exchange) or {}, "message_id", "messageId"), chat.latest("assistant")
    if chat.cancel and (not message_id or (latest and latest.id == message_id)):
        chat.cancel()
    return json_reply({})


async def models(exchange: Exchange) -> Reply:
    version = exchange.request.headers.get("x-msh-version", "")
    return json_reply(listed(exchange.sim.knobs, exchange.site or "kimi.ai", version))


async def subscription(exchange: Exchange) -> Reply:
    assert exchange.account
    name = exchange.account.name
    owner = {"userId": exchange.account.sub, "userName": name, "email": f"{name}@example.invalid"}
    return json_reply({"subscription": owner})


async def subscription_stats(exchange: Exchange) -> Reply:
    """Credits and rate windows (kimi-protocol-2.md 5.6): a free account has no windows."""
    knobs = exchange.sim.knobs
    if knobs.stats == "empty":
        return json_reply({})
    number = str if knobs.stats == "strings" else float
    balance = {
        "id": exchange.sim.world.ids.uuid(),
        "feature": "FEATURE_OMNI",
        "type": "SUBSCRIPTION",
        "unit": "UNIT_CREDIT",
        "amountUsedRatio": number(knobs.used_ratio),
        "kimiCodeUsedRatio": number(0.12),
        "expireTime": knobs.expire_time,
        "domain": "DOMAIN_NEXUS",
    }
    if knobs.stats == "free":
        return json_reply({"subscriptionBalance": balance})
    return json_reply(
        {
            "subscriptionBalance": balance,
            "ratelimit5h": {"enabled": True, "ratio": number(0.2), "resetTime": "2030-01-01T13:00:00Z"},
            "ratelimit7d": {"enabled": True, "ratio": number(0.05), "resetTime": "2030-01-07T00:00:00Z"},
            "ratelimitCode7d": {"enabled": True, "resetTime": "2030-01-07T00:00:00Z"},
            "overdrawn": False,
        }
    )


async def current_user(exchange: Exchange) -> Reply:
    assert exchange.account
    return json_reply({"user": {"id": exchange.account.sub, "name": exchange.account.name}})


def _named_chat(exchange: Exchange) -> Chat | None:
    return exchange.own_chat(either(_body(exchange) or {}, "chat_id", "chatId"))


def _page(body: dict[str, Any], everything: list[T], default_size: int) -> tuple[list[T], str]:
    """One page, and the token of the next; empty on the last (Q33)."""
    start = either(body, "page_token", "pageToken")
    first = int(start) if start.isdecimal() else 0
    wanted = body.get("page_size") or body.get("pageSize") or default_size
    size = wanted if isinstance(wanted, int) else default_size
    last = first + size
    return everything[first:last], str(last) if last < len(everything) else ""


def _body(exchange: Exchange) -> dict[str, Any] | None:
    try:
        return exchange.request.json_object() if exchange.request.body else {}
    except ValueError:
        return None
