"""Files in generation 2: one upload in multipart form, then a look at how far Kimi is (``kimi-protocol-2.md`` 2).

Knows these two calls. Must never know a chat.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.chat import Attachment
from app.concurrency.background import Cancellation
from app.errors import UpstreamProtocolError
from app.upstreams.account import Account
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.clients import KimiClients
from app.upstreams.kimi.connections import StreamedBody
from app.upstreams.kimi.uploads import REFUSES_FILE, State, pieces_of, refused_file

_UPLOAD = "/apiv2-files/file/upload"
_PROGRESS = "/apiv2-files/kimi.gateway.file.v1.FileService/GetFileParseProgress"
_FAILED = 4
_READ = 3


class ConnectFiles:
    """A ``FileWire``."""

    def __init__(self, name: str, clients: KimiClients) -> None:
        self.name = name
        self._clients = clients

    def upload(self, file: Attachment, account: Account, cancellation: Cancellation) -> str:
        """See ``FileWire.upload``."""
        http = self._clients.of(account)
        boundary = f"----{secrets.token_hex(16)}"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
            f"Content-Type: {file.media_type}\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def pieces() -> Iterator[bytes]:
            yield head
            yield from pieces_of(file)
            yield tail

        body = StreamedBody(pieces(), len(head) + file.size + len(tail))
        reply = http.upload(_UPLOAD, account, body, f"multipart/form-data; boundary={boundary}", cancellation)
        if reply.status in REFUSES_FILE:
            raise refused_file(file, reply.status, kimi_errors.words_of(reply, account))
        if not kimi_errors.succeeded(reply):
            raise kimi_errors.refusal(reply, account, http.base_url)
        file_id = _file_id(reply.body)
        if file_id is None:
            raise UpstreamProtocolError(f"{account.label}: Kimi took a file and named no id", reached_upstream=False)
        return file_id

    def states(self, file_ids: Sequence[str], account: Account, cancellation: Cancellation) -> Mapping[str, State]:
        """See ``FileWire.states``."""
        http = self._clients.of(account)
        body = orjson.dumps({"file_ids": list(file_ids)})
        version = {"Connect-Protocol-Version": "1"}
        reply = http.call("POST", _PROGRESS, account, body, cancellation, headers=version)
        if not kimi_errors.succeeded(reply):
            raise kimi_errors.refusal(reply, account, http.base_url)
        try:
            progresses = orjson.loads(reply.body).get("progresses") or []
            return {str(one.get("fileId") or one.get("file_id")): _state(one.get("status")) for one in progresses}
        except (ValueError, AttributeError, TypeError):
            raise UpstreamProtocolError(f"{account.label}: the progress of files cannot be read") from None


def _file_id(body: bytes) -> str | None:
    try:
        fields = orjson.loads(body)
        file_id = fields["file"]["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return file_id if isinstance(file_id, str) and 0 < len(file_id) <= 200 else None


def _state(status: Any) -> State:
    """Words and numbers were seen, and failures never recorded (``kimi-protocol-2.md`` 2.3, P3)."""
    if status == _READ or (isinstance(status, str) and "SUCCESS" in status):
        return "read"
    if status == _FAILED or (isinstance(status, str) and "FAIL" in status):
        return "failed"
    return "reading"
