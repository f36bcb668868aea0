"""The page Conversations: what is stored, deleting it with its chat at Kimi, and the export of what is kept."""

import json
from dataclasses import dataclass

from flask import Blueprint, Response, abort, request
from werkzeug.wrappers import Response as BaseResponse

from app.chat import Caller
from app.console.page import console, go, names_of_keys, page, say, store
from app.errors import ConversationBusy, ConversationTaken, UnknownConversation
from app.store import ConversationRow

blueprint = Blueprint("conversations", __name__)

_PER_PAGE = 50
_IDLE_DAYS = (1, 7, 30, 90)


@dataclass(frozen=True, slots=True)
class ConversationView:
    row: ConversationRow
    key: str
    account: str
    is_busy: bool

    @property
    def reference(self) -> str:
        """Names the conversation in forms and addresses."""
        return f"{self.row.owner}/{self.row.id}"


@blueprint.get("/conversations")
def show() -> BaseResponse:
    return _page()


def _page(done: str = "", problem: str = "") -> BaseResponse:
    services = console().services
    search, idle = request.args.get("search", "").strip()[:200], request.args.get("idle", "")
    idle_days = int(idle) if idle in map(str, _IDLE_DAYS) else 0
    now = store().database.now()
    before = now - idle_days * 86_400 if idle_days else None
    rows = store().conversations.listed(search, before, _cursor(request.args.get("after", "")), _PER_PAGE + 1)
    names = names_of_keys()
    labels = {standing.account_id: standing.label for standing in services.accounts.standings()}
    views = [
        ConversationView(
            row,
            names.get(row.owner, row.owner[:12]),
            labels.get(row.account_id or "", ""),
            services.gateway.is_busy(row),
        )
        for row in rows[:_PER_PAGE]
    ]
    last = rows[_PER_PAGE - 1] if len(rows) > _PER_PAGE else None
    return page(
        "conversations.html",
        conversations=views,
        search=search,
        idle_days=idle_days,
        idle_choices=_IDLE_DAYS,
        more="" if last is None else f"{last.updated_at!r} {last.owner} {last.id}",
        pending=store().pending_deletions.summary(),
        transcripts=services.config.store_transcripts,
        done=done,
        problem=problem,
        now=now,
    )


def _cursor(text: str) -> tuple[float, str, str] | None:
    at, _, rest = text.partition(" ")
    owner, _, id_ = rest.partition(" ")
    try:
        return (float(at), owner, id_) if owner else None
    except ValueError:
        return None


@blueprint.post("/conversations/delete")
def delete() -> BaseResponse:
    """Forgets the chosen conversations, and has their chats at Kimi deleted."""
    gateway = console().services.gateway
    chosen = request.form.getlist("chosen")
    if not chosen:
        return go("conversations.show")
    deleted = busy = 0
    for reference in chosen[:_PER_PAGE]:
        owner, _, id_ = reference.partition("/")
        row = store().conversations.find(owner, id_)
        if row is None:
            continue
        if gateway.is_busy(row):
            # Waiting for each of them would take long.
            busy += 1
            continue
        try:
            gateway.forget_conversation(Caller(owner, lambda: False), id_)
        except UnknownConversation:
            continue
        except (ConversationBusy, ConversationTaken):
            busy += 1
        else:
            deleted += 1
    return _page(
        done=say("conversations_deleted", number=deleted) if deleted else "",
        problem=say("conversations_busy", number=busy) if busy else "",
    )


@blueprint.get("/conversations/export")
def export() -> BaseResponse:
    """The messages of one conversation, as a file."""
    owner, id_ = request.args.get("owner", ""), request.args.get("id", "")
    row = store().conversations.find(owner, id_)
    if row is None or not console().services.config.store_transcripts:
        abort(404)
    messages = store().transcripts.read(owner, id_)
    if request.args.get("form") == "markdown":
        content, kind, ending = _markdown(messages), "text/markdown", "md"
    else:
        document = {
            "conversation": id_,
            "model": row.model,
            "created_at": row.created_at,
            "messages": [{"turn": turn, "role": role, "text": text} for turn, role, text in messages],
        }
        content, kind, ending = json.dumps(document, ensure_ascii=False, indent=1), "application/json", "json"
    response = Response(content, content_type=f"{kind}; charset=utf-8")
    # The id may be somebody's words, so it is not in the name of the file.
    response.headers["Content-Disposition"] = f'attachment; filename="conversation.{ending}"'
    return response


def _markdown(messages: list[tuple[int, str, str]]) -> str:
    return "\n\n".join(f"**{role}**\n\n{text}" for _, role, text in messages) + "\n"
