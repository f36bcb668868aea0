"""Files in generation 1: a signed address, the bytes put there, a record, and Kimi's reading of it
(``kimi-protocol.md`` 4.1; ``kimi-protocol-2.md`` 3).

Knows these four calls. Must never know how a turn is streamed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from app.chat import Attachment
from app.concurrency.background import Cancellation
from app.errors import UpstreamProtocolError
from app.upstreams.account import Account
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.clients import KimiClients
from app.upstreams.kimi.connections import StreamedBody
from app.upstreams.kimi.http import Reply
from app.upstreams.kimi.uploads import REFUSES_FILE, State, pieces_of, refused_file

_SIGN = "/api/pre-sign-url"
_RECORD = "/api/file"
_PARSE = "/api/file/parse_process"

_STATES: Mapping[str, State] = {"parsed": "read", "failed": "failed"}


class RestFiles:
    """A ``FileWire``."""

    def __init__(self, name: str, clients: KimiClients) -> None:
        self.name = name
        self._clients = clients

    def upload(self, file: Attachment, account: Account, cancellation: Cancellation) -> str:
        """See ``FileWire.upload``."""
        http = self._clients.of(account)
        kind = "image" if file.is_image else "file"
        signed = self._ask(_SIGN, {"action": kind, "name": file.name}, file, account, cancellation)
        status = http.put_object(
            _text(signed, "url"), account, StreamedBody(pieces_of(file), file.size), file.media_type, cancellation
        )
        if not 200 <= status < 300:
            if status in REFUSES_FILE:
                raise refused_file(file, status, "")
            raise UpstreamProtocolError(
                f"{account.label}: Kimi's store for files answered {status}", reached_upstream=False
            )
        # Which of the two ids a record needs depends on its kind (4.1).
        if file.is_image:
            record = {"type": kind, "name": file.name, "file_id": _text(signed, "file_id")}
        else:
            record = {"type": kind, "name": file.name, "object_name": _text(signed, "object_name"), "file_id": ""}
        recorded = self._ask(_RECORD, record, file, account, cancellation)
        file_id = _text(recorded, "id")
        if not 0 < len(file_id) <= 200:
            raise UpstreamProtocolError(f"{account.label}: Kimi took a file and named no id", reached_upstream=False)
        return file_id

    def states(self, file_ids: Sequence[str], account: Account, cancellation: Cancellation) -> Mapping[str, State]:
        """See ``FileWire.states``. The answer is a stream of events that ends when Kimi has read the files."""
        http = self._clients.of(account)
        reply = http.call("POST", _PARSE, account, orjson.dumps({"ids": list(file_ids)}), cancellation)
        if not 200 <= reply.status < 300 or reply.is_page:
            raise kimi_errors.refusal(reply, account, http.base_url)
        states: dict[str, State] = {}
        for line in reply.body.splitlines():
            event = _json(line.removeprefix(b"data:").strip()) if line.startswith(b"data:") else {}
            info = event.get("file_info")
            status = info.get("status") if isinstance(info, dict) else event.get("status")
            if event.get("id") is not None:
                states[str(event["id"])] = _STATES.get(str(status), "reading")
        return states

    def _ask(
        self, path: str, body: dict[str, str], file: Attachment, account: Account, cancellation: Cancellation
    ) -> dict[str, Any]:
        http = self._clients.of(account)
        reply: Reply = http.call("POST", path, account, orjson.dumps(body), cancellation)
        if reply.status in REFUSES_FILE:
            raise refused_file(file, reply.status, kimi_errors.words_of(reply, account))
        if not kimi_errors.succeeded(reply):
            raise kimi_errors.refusal(reply, account, http.base_url)
        return _json(reply.body)


def _json(body: bytes) -> dict[str, Any]:
    """Empty where it is something else."""
    try:
        fields = orjson.loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
