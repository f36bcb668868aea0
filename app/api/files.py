"""OpenAI's files, and Anthropic's in the same place: ``/v1/files``. Who sends ``anthropic-version`` gets Anthropic's.

Source of the shapes: OpenAI's and Anthropic's API references, openai-python 2 and anthropic-python 2.12 (2026-11-26).
Must never know that Kimi exists.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from flask import Blueprint, Response, g, request

from app.attachments import AboutFile
from app.attachments.content import pieces_of
from app.concurrency.yielding import pause
from app.errors import InvalidRequest
from app.store import FileRow
from app.web.anthropic_shapes import encode_error
from app.web.error_responses import Failure, answer_failures, openai_error
from app.web.multipart import FileForm
from app.web.operations import Operation, object_of
from app.web.request_context import caller, gateway, json_response

blueprint = Blueprint("files", __name__)

_PURPOSES = ("user_data", "assistants", "vision")
# As at OpenAI: from an hour to 30 days.
_EXPIRES_S = (3600, 2_592_000)
_MOST_LISTED = 10_000


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
    row = files.receive(owner, form.name, form.file, lambda: _about(form.fields), "file")
    return json_response(_encode(row))


@blueprint.get("/files")
def list_files() -> Response:
    owner = caller().owner
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: Input should be 'asc' or 'desc'", param="order")
    most = _most()
    after = request.args.get("after") or request.args.get("after_id")
    rows = gateway().files.page(owner, request.args.get("purpose", ""), after, most + 1, newest_first=order == "desc")
    shown = [_encode(row) for row in rows[:most]]
    ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
    listed = {"data": shown, "has_more": len(rows) > most, **ends}
    return json_response(listed if _is_anthropic() else {"object": "list", **listed})


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


def _most() -> int:
    text = request.args.get("limit", "20" if _is_anthropic() else str(_MOST_LISTED))
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _MOST_LISTED:
        raise InvalidRequest(f"limit: Input should be a number from 1 to {_MOST_LISTED}", param="limit")
    return int(text)


def _about(fields: dict[str, str]) -> AboutFile:
    """Raises InvalidRequest with the field that is at fault."""
    purpose = fields.get("purpose", "user_data" if _is_anthropic() else "")
    if purpose not in _PURPOSES:
        raise InvalidRequest(f"purpose: Input should be {', '.join(map(repr, _PURPOSES))}", param="purpose")
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return AboutFile(purpose)
    lowest, highest = _EXPIRES_S
    if not re.fullmatch(r"[0-9]{1,9}", seconds) or not lowest <= int(seconds) <= highest:
        raise InvalidRequest(
            f"expires_after[seconds]: Input should be a number from {lowest} to {highest}",
            param="expires_after[seconds]",
        )
    return AboutFile(purpose, float(seconds))


def _encode(row: FileRow) -> dict[str, Any]:
    if _is_anthropic():
        return {
            "id": row.id,
            "type": "file",
            "filename": row.name,
            "mime_type": row.media_type,
            "size_bytes": row.bytes,
            "created_at": datetime.fromtimestamp(row.created_at, UTC).isoformat().replace("+00:00", "Z"),
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
                "expires_after[seconds]": {"type": "integer", "minimum": _EXPIRES_S[0], "maximum": _EXPIRES_S[1]},
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
