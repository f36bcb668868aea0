"""OpenAI's files, and Anthropic's in the same place: ``/v1/files``. Who sends ``anthropic-version`` gets Anthropic's.

Source of the shapes: OpenAI's and Anthropic's API references, openai-python 2 and anthropic-python 2.12 (2026-11-26).
Must never know that Kimi exists.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from flask import Blueprint, Response, g, request

from app.attachments import AboutFile
from app.attachments.content import pieces_of
from app.concurrency.yielding import pause
from app.errors import InvalidRequest, UnknownFile
from app.store import FileRow
from app.web.anthropic_shapes import encode_error
from app.web.error_responses import Failure, answer_failures, openai_error
from app.web.multipart import FileForm
from app.web.operations import Operation, object_of
from app.web.parameters import ignored_parameters_header
from app.web.request_context import caller, gateway, json_response

blueprint = Blueprint("files", __name__)

_PURPOSES = ("user_data", "assistants", "vision")
# As at OpenAI: from an hour to 30 days; and at Anthropic: to 90 days.
_EXPIRES_S, _EXPIRES_ANTHROPIC_S = (3600, 2_592_000), (3600, 7_776_000)
_MOST_LISTED, _MOST_LISTED_ANTHROPIC, _MOST_IDS = 10_000, 1000, 100
# Anthropic's cursor: behind it, when the last file of a page was created, and its id. That file may be deleted then.
_CURSOR = re.compile(r"page_([0-9]{1,10}\.[0-9]{1,9})_(file-[0-9a-f]{32})")


def _is_anthropic() -> bool:
    return "anthropic-version" in request.headers


def _encode_failure(failure: Failure) -> dict[str, Any]:
    return encode_error(failure) if _is_anthropic() else openai_error(failure)


answer_failures(blueprint, _encode_failure)


@blueprint.after_request
def _name_request(response: Response) -> Response:
    if _is_anthropic():
        response.headers["request-id"] = g.request_id
    return response


@blueprint.post("/files")
def create() -> Response:
    owner, files = caller().owner, gateway().files
    files.check_room(owner)
    form = FileForm("file", files.limits.max_bytes)
    headers: dict[str, str] = {}

    def about() -> AboutFile:
        headers.update(ignored_parameters_header(_unknown(form.fields)))
        return _about(form.fields)

    row = files.receive(owner, form.name, form.file, about, "file")
    return json_response(_encode(row), headers=headers)


@blueprint.get("/files")
def list_files() -> Response:
    return _list_as_anthropic() if _is_anthropic() else _list_as_openai()


def _list_as_openai() -> Response:
    headers = _ignored_query("purpose", "after", "limit", "order")
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: Input should be 'asc' or 'desc'", param="order")
    most = _most(_MOST_LISTED, _MOST_LISTED)
    purpose, after = request.args.get("purpose", ""), _place_of("after")
    rows = gateway().files.page(caller().owner, purpose, after, most + 1, newest_first=order == "desc")
    return json_response({"object": "list", **_page(rows[:most]), "has_more": len(rows) > most}, headers=headers)


def _list_as_anthropic() -> Response:
    """With ``page`` as anthropic-python 2 has it, or ``after_id`` and ``before_id`` as older ones."""
    headers = _ignored_query("ids", "ids[]", "page", "limit", "after_id", "before_id")
    files, owner = gateway().files, caller().owner
    wanted = [one for name in ("ids", "ids[]") for text in request.args.getlist(name) for one in text.split(",")]
    if wanted:
        return json_response({**_page(_those(wanted)), "has_more": False, "next_page": None}, headers=headers)
    most = _most(20, _MOST_LISTED_ANTHROPIC)
    before = _place_of("before_id")
    if before is None:
        rows = files.page(owner, "", _cursor() or _place_of("after_id"), most + 1, newest_first=True)
        shown = rows[:most]
    else:
        rows = files.page(owner, "", before, most + 1, newest_first=False)
        shown = rows[:most][::-1]
    more = len(rows) > most
    cursor = f"page_{shown[-1].created_at!r}_{shown[-1].id}" if more and before is None else None
    return json_response({**_page(shown), "has_more": more, "next_page": cursor}, headers=headers)


def _page(rows: Sequence[FileRow]) -> dict[str, Any]:
    shown = [_encode(row) for row in rows]
    return {
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _place_of(field: str) -> tuple[float, str] | None:
    """Of the file that a parameter names. Raises UnknownFile."""
    file_id = request.args.get(field)
    if not file_id:
        return None
    row = gateway().files.find(caller().owner, file_id)
    return row.created_at, row.id


def _cursor() -> tuple[float, str] | None:
    text = request.args.get("page")
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise InvalidRequest("page: this is no cursor of a list of files", param="page")
    return float(found[1]), found[2]


def _those(ids: Sequence[str]) -> list[FileRow]:
    """The files with these ids, without those that are unknown. Raises InvalidRequest: if there are too many."""
    different = list(dict.fromkeys(ids))
    if len(different) > _MOST_IDS:
        raise InvalidRequest(f"ids: at most {_MOST_IDS} can be asked for at once", param="ids")
    rows = []
    for file_id in different:
        with contextlib.suppress(UnknownFile):
            rows.append(gateway().files.find(caller().owner, file_id))
        pause()
    return rows


def _ignored_query(*known: str) -> dict[str, str]:
    return ignored_parameters_header([name for name in request.args if name not in known])


@blueprint.get("/files/<file_id>")
def get(file_id: str) -> Response:
    return json_response(_encode(gateway().files.find(caller().owner, unquote(file_id))))


@blueprint.get("/files/<file_id>/content")
def get_content(file_id: str) -> Response:
    files = gateway().files
    row = files.find(caller().owner, unquote(file_id))
    headers = {
        "Content-Length": str(row.bytes),
        # It is a stranger's page if a browser opens it.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(row.name)}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    return Response(_content(files.open(row)), 200, headers, content_type=row.media_type)


@blueprint.delete("/files/<file_id>")
def delete(file_id: str) -> Response:
    file_id = unquote(file_id)
    gateway().files.delete(caller().owner, file_id)
    if _is_anthropic():
        return json_response({"id": file_id, "type": "file_deleted"})
    return json_response({"id": file_id, "object": "file", "deleted": True})


def _content(file: BinaryIO) -> Iterator[bytes]:
    with file:
        for piece in pieces_of(file):
            yield piece
            pause()


def _most(default: int, highest: int) -> int:
    text = request.args.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= highest:
        raise InvalidRequest(f"limit: Input should be a number from 1 to {highest}", param="limit")
    return int(text)


_SECONDS, _ANCHOR, _SECONDS_ANTHROPIC = "expires_after[seconds]", "expires_after[anchor]", "expires_in_seconds"


def _about(fields: dict[str, str]) -> AboutFile:
    """Raises InvalidRequest with the field that is at fault."""
    purpose = fields.get("purpose", "user_data" if _is_anthropic() else "")
    if purpose not in _PURPOSES:
        raise InvalidRequest(f"purpose: Input should be {', '.join(map(repr, _PURPOSES))}", param="purpose")
    if fields.get(_ANCHOR, "created_at") != "created_at":
        raise InvalidRequest(f"{_ANCHOR}: Input should be 'created_at'", param=_ANCHOR)
    if _is_anthropic():
        return AboutFile(purpose, _seconds(fields, _SECONDS_ANTHROPIC, _EXPIRES_ANTHROPIC_S))
    return AboutFile(purpose, _seconds(fields, _SECONDS, _EXPIRES_S))


def _seconds(fields: dict[str, str], field: str, limits: tuple[int, int]) -> float | None:
    text = fields.get(field)
    if text is None:
        return None
    lowest, highest = limits
    if not re.fullmatch(r"[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
        raise InvalidRequest(f"{field}: Input should be a number from {lowest} to {highest}", param=field)
    return float(text)


def _unknown(fields: dict[str, str]) -> list[str]:
    known = ("purpose", _SECONDS_ANTHROPIC) if _is_anthropic() else ("purpose", _SECONDS, _ANCHOR)
    return [name for name, value in fields.items() if name not in known and value]


def _encode(row: FileRow) -> dict[str, Any]:
    if _is_anthropic():
        return {
            "id": row.id,
            "type": "file",
            "filename": row.name,
            "mime_type": row.media_type,
            "size_bytes": row.bytes,
            "created_at": _moment(row.created_at),
            "expires_at": None if row.expires_at is None else _moment(row.expires_at),
            "downloadable": True,
        }
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
        "expires_at": None if row.expires_at is None else int(row.expires_at),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


_FILE = object_of(
    id={"type": "string"},
    object={"const": "file"},
    bytes={"type": "integer"},
    created_at={"type": "integer"},
    filename={"type": "string"},
    purpose={"enum": list(_PURPOSES)},
)
_ID = {"file_id": {"type": "string", "description": "the id of an uploaded file"}}
_UNKNOWN = {404: "there is no such file, or its content is gone"}
OPERATIONS = (
    Operation(
        "post",
        "/v1/files",
        "Uploads an image or a document",
        _FILE,
        form={
            "type": "object",
            "required": ["file", "purpose"],
            "properties": {
                "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                "purpose": {"enum": list(_PURPOSES)},
                _SECONDS: {"type": "integer", "minimum": _EXPIRES_S[0], "maximum": _EXPIRES_S[1]},
            },
        },
        failures={408: "the body did not come in time", 413: "the file is too large", 507: "the disk is full"},
    ),
    Operation(
        "get",
        "/v1/files",
        "The files of the API key",
        object_of(object={"const": "list"}, data={"type": "array", "items": _FILE}),
        query={
            "purpose": {"enum": list(_PURPOSES)},
            "after": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": _MOST_LISTED},
            "order": {"enum": ["asc", "desc"]},
        },
        failures={404: "there is no file `after`"},
    ),
    Operation("get", "/v1/files/{file_id}", "One file", _FILE, _ID, failures=_UNKNOWN),
    Operation(
        "get",
        "/v1/files/{file_id}/content",
        "The bytes of a file",
        {"type": "string", "contentMediaType": "application/octet-stream"},
        _ID,
        # That of the file.
        media_type="*/*",
        failures=_UNKNOWN,
    ),
    Operation(
        "delete",
        "/v1/files/{file_id}",
        "Deletes a file",
        object_of(id={"type": "string"}, object={"const": "file"}, deleted={"type": "boolean"}),
        _ID,
        failures=_UNKNOWN,
    ),
)
