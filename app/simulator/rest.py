"""The rest of the SSE generation: chats, history, citations, files, the user, and refresh R1.

Knows sections 2.3, 2.5, 3.1, 3.7, 3.8 and 4.1 of the protocol notes. Must never know how a turn is streamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from app.simulator import tokens
from app.simulator.connect_files import is_being_read
from app.simulator.http1 import Reply, json_bytes, json_reply
from app.simulator.simulation import Exchange
from app.simulator.sse import missing
from app.simulator.sse_errors import EXPIRED, refuse
from app.simulator.sse_events import CONTENT_TYPE
from app.simulator.tokens import Claims, InvalidToken
from app.simulator.world import Chat, Message, StaleRefresh, StoredFile

_UNNAMED = "未命名会话"


class RefusedRefresh(Exception):
    """The refresh token buys nothing; the message is the service's."""


async def renew(exchange: Exchange, token: str) -> tuple[str, str]:
    """A new access and refresh token for a refresh token; raises RefusedRefresh."""
    knobs = exchange.sim.knobs
    await asyncio.sleep(knobs.refresh_delay_s)
    claims = _refresh_claims(token)
    try:
        successor = exchange.sim.world.use_refresh_token(
            claims,
            grace_s=knobs.refresh_grace_s,
            rotates=knobs.refresh_rotates,
            stale_kills=knobs.refresh_stale_kills,
        )
    except StaleRefresh as error:
        raise RefusedRefresh("invalid claims") from error
    finally:
        exchange.sim.bell.ring()
    return (
        tokens.mint(claims.user, "access", knobs.access_lifetime_s, site=claims.site, level=claims.level),
        tokens.mint(
            claims.user, "refresh", knobs.refresh_lifetime_s, jti=successor, site=claims.site, level=claims.level
        ),
    )


def _refresh_claims(token: str) -> Claims:
    try:
        claims = tokens.check(token)
    except InvalidToken as error:
        raise RefusedRefresh("Session expired") from error
    if claims.kind != "refresh":
        raise RefusedRefresh("Session expired")
    return claims


async def refresh(exchange: Exchange) -> Reply:
    """R1: the refresh token comes as bearer, or in the body of a POST (L4)."""
    try:
        access, successor = await renew(exchange, _refresh_token(exchange))
    except RefusedRefresh:
        return refuse("token_invalid", EXPIRED)
    return json_reply({"access_token": access, "refresh_token": successor})


def _refresh_token(exchange: Exchange) -> str:
    if exchange.request.method == "GET":
        return exchange.request.bearer
    try:
        return str(exchange.request.json_object().get("refresh_token", exchange.request.bearer))
    except ValueError:
        return exchange.request.bearer


async def register_device(exchange: Exchange) -> Reply:
    """An anonymous access token (2.5)."""
    device = exchange.request.headers.get("x-msh-device-id", "unknown")
    return json_reply({"access_token": tokens.mint(f"anonymous-{device}")})


async def user(exchange: Exchange) -> Reply:
    assert exchange.account
    return json_reply({"id": exchange.account.sub, "name": exchange.account.name})


async def create_chat(exchange: Exchange) -> Reply:
    body = _body(exchange)
    if body is None:
        return refuse("bad_request")
    assert exchange.account
    chat = exchange.sim.world.new_chat(exchange.account, str(body.get("name") or _UNNAMED), "sse")
    exchange.sim.bell.ring()
    if name := exchange.sim.knobs.create_gate:
        gate = exchange.sim.gates.arrive(name)
        try:
            await gate.opened.wait()
        finally:
            exchange.sim.gates.leave(gate)
    return json_reply({"id": chat.id, "name": chat.name, "created_at": _moment(chat.created_at)})


async def delete_chat(exchange: Exchange, chat_id: str) -> Reply:
    chat = exchange.own_chat(chat_id)
    if chat is None or chat.generation != "sse":  # the old call does not know the new chats (5.8)
        return missing(exchange, chat_id, exchange.sim.knobs)
    if chat.moderated and exchange.sim.knobs.delete_after_moderation == "error":
        return json_reply({"error_type": "internal", "message": "database error"}, 500)
    exchange.sim.world.delete(chat)
    exchange.sim.bell.ring()
    return json_reply({})


async def list_chats(exchange: Exchange) -> Reply:
    body = _body(exchange)
    if body is None:
        return refuse("bad_request")
    assert exchange.account
    chats = exchange.sim.world.chats_of(exchange.account)
    start, size = _number(body, "offset", 0), _number(body, "size", 50)
    items = [
        {"id": chat.id, "name": chat.name, "updated_at": _moment(chat.updated_at)}
        for chat in chats[start : start + size]
    ]
    return json_reply({"total": len(chats), "items": items})


async def history(exchange: Exchange, chat_id: str) -> Reply:
    body, chat = _body(exchange), exchange.own_chat(chat_id)
    if body is None:
        return refuse("bad_request")
    if chat is None:
        return missing(exchange, chat_id, exchange.sim.knobs)
    messages = list(chat.messages.values())
    last = _number(body, "last", 50)
    return json_reply(
        {"total": len(messages), "items": [_segment(m) for m in messages[max(0, len(messages) - last) :]]}
    )


def _segment(message: Message) -> dict[str, object]:
    found = [
        {"msg": {"successNum": number, "title": page.title, "type": "get_res", "url": page.url}}
        for number, page in enumerate(message.pages, start=1)
    ]
    return {
        "id": message.id,
        "role": message.role,
        "content": message.sent or message.text,
        "created_at": _moment(message.created_at),
        "search_plus": found,
    }


async def citations(exchange: Exchange) -> Reply:
    """Resolves `[^n^]` markers (3.7); a question about nothing gets no references."""
    body = _body(exchange)
    if body is None:
        return refuse("bad_request")
    queries = body.get("queries")
    if not isinstance(queries, list) or not all(isinstance(query, dict) for query in queries):
        return refuse("bad_request")
    items = [{"refs": _refs(exchange, query)} for query in queries]
    return json_reply({"items": items})


def _refs(exchange: Exchange, query: dict[str, Any]) -> list[dict[str, object]]:
    chat: Chat | None = exchange.own_chat(str(query.get("chat_id")))
    message = chat.messages.get(str(query.get("sid"))) if chat else None
    return [
        {
            "ref_id": number,
            "ref_doc": {
                "title": page.title,
                "url": page.url,
                "source_label": page.site,
                "published_time_str": page.date,
                "rag_segments": [{"text": page.snippet}],
            },
        }
        for number, page in enumerate(message.pages if message else (), start=1)
    ]


async def nothing(exchange: Exchange, *_: str) -> Reply:
    """The browser's small talk, whose answers no client reads."""
    return json_reply({}) if _body(exchange) is not None else refuse("bad_request")


async def research_usage(_: Exchange) -> Reply:
    return json_reply({"remain": 5, "total": 5, "used": 0})


async def sign_upload(exchange: Exchange) -> Reply:
    """Step 1 of an upload: where to put the bytes."""
    body = _body(exchange)
    if body is None or not body.get("name"):
        return refuse("bad_request")
    file_id = exchange.sim.world.ids.xid()
    name = str(body["name"])
    stored = StoredFile(
        file_id,
        name,
        f"sim/{file_id}",
        str(body.get("action") or "file"),
        owner=exchange.account,
        answers_left=-1 if "stuck" in name else exchange.sim.knobs.parse_answers,
    )
    exchange.sim.world.files[file_id] = stored
    host = exchange.request.headers.get("host", "127.0.0.1")
    url = f"http://{host}/_sim/objects/{file_id}?X-Amz-Expires=3600"
    return json_reply({"url": url, "object_name": stored.object_name, "file_id": file_id})


async def store_object(exchange: Exchange, file_id: str) -> Reply:
    """Step 2: the bytes, without any Kimi login, as at an object store."""
    stored = exchange.sim.world.files.get(file_id)
    if stored is None:
        return Reply(404, b"no such upload", "text/plain")
    knobs, content = exchange.sim.knobs, exchange.request.body
    if len(content) > knobs.upload_max_bytes:
        return Reply(knobs.upload_refusal, b"too large", "text/plain")
    stored.fill(content, exchange.request.headers.get("content-type", ""))
    exchange.sim.bell.ring()
    return Reply(200)


async def register_file(exchange: Exchange) -> Reply:
    """Step 3: makes the uploaded object a file of the account."""
    body = _body(exchange)
    if body is None:
        return refuse("bad_request")
    wanted = (body.get("file_id"), body.get("object_name"))
    files = exchange.sim.world.files.values()
    stored = next((file for file in files if file.id == wanted[0] or file.object_name == wanted[1]), None)
    if stored is None:
        return refuse("not_found", "文件不存在")
    stored.registered = True
    now = _moment(datetime.now(UTC).timestamp())
    return json_reply(
        {
            "id": stored.id,
            "name": stored.name,
            "parent_path": "",
            "type": stored.kind,
            "size": stored.size,
            "status": "initialized" if stored.kind == "file" else "parsed",
            "presigned_url": "https://objects.example/raw",
            "text_presigned_url": "https://objects.example/text",
            "uploaded_at": now,
            "created_at": now,
            "updated_at": now,
        }
    )


async def parse_files(exchange: Exchange) -> Reply:
    """Step 4: an event stream with one line per parsed file."""
    body = _body(exchange)
    if body is None or not isinstance(body.get("ids"), list):
        return refuse("bad_request")
    files = [exchange.sim.world.files.get(str(file_id)) for file_id in body["ids"]]
    events = [b"data: " + json_bytes(event) + b"\n\n" for file in files if file for event in _parsing(file)]
    exchange.sim.bell.ring()
    return Reply(200, b"".join(events), CONTENT_TYPE)


def _parsing(file: StoredFile) -> Iterator[dict[str, object]]:
    """The events while a file is read, to the last one."""
    while is_being_read(file):
        yield _parsed(file, "parsing")
        if file.answers_left < 0:
            return
    yield _parsed(file, "failed" if "broken" in file.name else "parsed")


def _parsed(file: StoredFile, status: str) -> dict[str, object]:
    info = {
        "id": file.id,
        "name": file.name,
        "type": file.kind,
        "content_type": file.name.rpartition(".")[2],
        "status": status,
        "size": file.size,
        "token_size": file.size // 4,
        "failed_reason": "",
    }
    return {"event": "resp", "file_info": info, "id": file.id, "status": status}


def _body(exchange: Exchange) -> dict[str, Any] | None:
    """The JSON body, an empty one where there is none, or None where it is something else."""
    try:
        return exchange.request.json_object() if exchange.request.body else {}
    except ValueError:
        return None


def _number(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name, default)
    return value if isinstance(value, int) else default


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
