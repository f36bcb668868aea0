"""The Connect generation's files: upload, the progress of reading them, their addresses, the room for them.

Knows section 2 of the second part of the protocol notes. Must never know a chat.
"""

from __future__ import annotations

import time
from email import message_from_bytes
from email.message import Message as Part

from app.simulator.connect_errors import error_body, refuse
from app.simulator.http1 import Reply, json_reply
from app.simulator.knobs import Knobs
from app.simulator.simulation import Exchange
from app.simulator.world import StoredFile

_QUOTA_BYTES = "524288000"
# The numbers of the statuses; 1 and 2 are inferred (2.3).
_NUMBERS = {"PROCESS_STATUS_PROCESSING": 2, "PROCESS_STATUS_SUCCESS": 3}
_FAILED = 4


async def upload(exchange: Exchange) -> Reply:
    """Exactly one part, named `file` (2.2)."""
    sim = exchange.sim
    knobs = sim.knobs
    part = _part(exchange)
    if part is None:
        return refuse("bad_request")
    if sim.take_turn("shed_uploads", knobs.shed_uploads):
        return json_reply(error_body("overloaded", knobs), 429)
    head, content = part
    if len(content) > knobs.upload_max_bytes:
        # Invented: no refusal of a file was ever recorded (P2).
        return json_reply(error_body("upload_refused", knobs), knobs.upload_refusal)
    # Browsers send names as UTF-8, which Python's parser keeps as escaped bytes.
    name = (head.get_filename() or "unnamed").encode("ascii", "surrogateescape").decode("utf-8", "replace")
    file = StoredFile(
        sim.world.ids.uuid(),
        name,
        "",
        "file",
        registered=True,
        owner=exchange.account,
        origin=f"http://{exchange.request.headers.get('host', '127.0.0.1')}",
        answers_left=-1 if "stuck" in name else knobs.parse_answers,
    )
    file.fill(content, head.get_content_type())
    sim.world.files[file.id] = file
    exchange.sim.bell.ring()
    return json_reply({"file": file.shown()})


def _part(exchange: Exchange) -> tuple[Part, bytes] | None:
    """The part of the body that is called `file`: its head and its content, if it is the only one."""
    head = message_from_bytes(f"Content-Type: {exchange.request.headers.get('content-type', '')}\r\n\r\n".encode())
    boundary = str(head.get_param("boundary", "")).encode()
    body, begin, end = exchange.request.body, b"--%b\r\n" % boundary, b"\r\n--%b--" % boundary
    last = body.rfind(end)
    if head.get_content_maintype() != "multipart" or not body.startswith(begin) or last < 0:
        return None
    middle = body.find(b"\r\n\r\n")
    if not 0 <= middle < last or body.find(b"\r\n--%b\r\n" % boundary) >= 0:
        return None
    part = message_from_bytes(body[len(begin) : middle + 4])
    return (part, body[middle + 4 : last]) if part.get_param("name", header="content-disposition") == "file" else None


async def progress(exchange: Exchange) -> Reply:
    """How far the files are read. One that is unknown is left out."""
    try:
        body = exchange.request.json_object()
    except ValueError:
        return refuse("bad_request")
    ids = body.get("file_ids") or body.get("fileIds") or []
    files = [file for file in map(exchange.sim.world.files.get, ids) if file and file.owner is exchange.account]
    return json_reply(
        {"progresses": [{"fileId": file.id, "status": _status(file, exchange.sim.knobs)} for file in files]}
    )


def is_being_read(file: StoredFile) -> bool:
    """Whether one more question after the file is answered so."""
    is_being_read = file.answers_left != 0
    file.answers_left -= file.answers_left > 0
    return is_being_read


def _status(file: StoredFile, knobs: Knobs) -> str | int:
    if is_being_read(file):
        status = "PROCESS_STATUS_PROCESSING"
    else:
        status = knobs.parse_failure if "broken" in file.name else "PROCESS_STATUS_SUCCESS"
    return _NUMBERS.get(status, _FAILED) if knobs.parse_numbers else status


async def fetch(exchange: Exchange, file_id: str) -> Reply:
    """The content of a file, without a login (2.6)."""
    file, knobs = exchange.sim.world.files.get(file_id), exchange.sim.knobs
    if file is None or time.time() - file.created_at > knobs.signature_s:
        return Reply(403, b"", "text/plain")
    if exchange.request.method == "HEAD":
        return Reply(403, b"", "text/plain")
    if knobs.object_redirect and "moved" not in exchange.request.query:
        return Reply(307, headers={"Location": f"{exchange.request.path}?t=o&moved=1"})
    return Reply(200, file.content, file.content_type, {"Content-Disposition": "attachment"})


async def storage_quota(_: Exchange) -> Reply:
    return json_reply({"quota": {"limitBytes": _QUOTA_BYTES}})
