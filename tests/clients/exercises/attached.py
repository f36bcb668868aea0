"""A picture, a document and a text, and whether they came to Kimi as they are. Standard library only, as told.py."""

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from told import ask_simulator

_FOLDER = Path(__file__).with_name("samples")


@dataclass(frozen=True)
class Sample:
    name: str
    media_type: str
    data: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode()

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.base64}"

    @property
    def path(self) -> str:
        return str(_FOLDER / self.name)

    @property
    def address(self) -> str:
        """Where the gateway may fetch it: on a site of the runner."""
        return f"{os.environ['SITE_URL']}/{self.name}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


PNG, PDF, NOTES = (
    Sample(name, media_type, (_FOLDER / name).read_bytes())
    for name, media_type in (
        ("chart.png", "image/png"),
        ("report.pdf", "application/pdf"),
        ("notes.txt", "text/plain"),
    )
)


@contextlib.contextmanager
def arrives(*samples: Sample, times: int = 1) -> Iterator[None]:
    """Within, Kimi is asked so many times, each time with exactly these files, byte for byte and in this order."""
    before = last_request()
    yield
    turns = digests_of_turns(before)
    assert turns == [[sample.digest for sample in samples]] * times, turns


def last_request() -> int:
    """The number of the request that Kimi got last."""
    requests = _requests()
    return int(requests[-1]["n"]) if requests else 0


def digests_of_turns(after: int) -> list[list[str]]:
    """SHA-256 of the files of each turn that Kimi was asked for after this request, as they were when they came."""
    uploads: Any = ask_simulator("state")["uploads"]
    digests = {upload["id"]: upload["digest"] for upload in uploads}
    requests = [request for request in _requests() if request["n"] > after]
    return [[digests[file_id] for file_id in ids] for ids in _files_of_turns(requests)]


def _files_of_turns(requests: list[Any]) -> Iterator[list[str]]:
    for request in requests:
        match request:
            case {"path": "/apiv2/kimi.gateway.chat.v1.ChatService/Chat", "frames": frames}:
                for frame in frames:
                    yield [block["file"]["id"] for block in frame["message"]["blocks"] if "file" in block]
            case {"path": str(path), "json": {"messages": _, **fields}} if path.endswith("/completion/stream"):
                yield list(fields.get("refs", []))


def _requests() -> list[Any]:
    found: Any = ask_simulator("requests")
    return list(found)
