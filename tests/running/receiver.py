"""A receiver of messages on a free port: keeps what is posted to it, and answers as it is told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Behind the address: what a real one has as its secret.
SECRET = "T0123/B4567/a-secret-of-the-owner"


@dataclass
class Receiver:
    """``statuses``: of the next answers, then always 200. ``reply``: their body. ``holds``: no answer is sent
    before it is set."""

    url: str
    got: list[tuple[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    reply: bytes = b""
    holds: threading.Event | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    def events(self) -> list[str]:
        return [message["event"] for message in self.messages]


@contextmanager
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            one.got.append((self.headers["Content-Type"], body))
            if one.holds is not None:
                one.holds.wait(60)
            self.send_response(one.statuses.pop(0) if one.statuses else 200)
            self.send_header("Location", one.url)
            self.send_header("Content-Length", str(len(one.reply)))
            self.end_headers()
            self.wfile.write(one.reply)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        one = Receiver(f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield one
        finally:
            server.shutdown()
