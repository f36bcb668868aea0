"""Small images and documents, and bodies of requests that hold them, in each API."""

import base64
import hashlib
import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

from tests.running import CANARY


@dataclass(frozen=True)
class Sample:
    name: str
    media_type: str
    data: bytes
    is_image: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode()

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.base64}"

    def arrived(self, name: str | None = None) -> str:
        """As the simulator names it."""
        return f"{name or self.name} ({self.media_type}, {len(self.data)} bytes, sha256 {self.digest})"

    @property
    def unnamed(self) -> str:
        """The same where an API has no name for it, or where there is a name."""
        return self.arrived(sent_name(self))


def png(width: int = 3, height: int = 2, shade: int = 7) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((shade, 0, 255 - shade)) * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        for name, data in files.items():
            written.writestr(name, data)
    return buffer.getvalue()


PNG = Sample("chart.png", "image/png", png(), is_image=True)
OTHER_PNG = Sample("other.png", "image/png", png(shade=200), is_image=True)
GIF = Sample("dot.gif", "image/gif", base64.b64decode("R0lGODlhAQABAAAAADs="), is_image=True)
PDF = Sample("report.pdf", "application/pdf", b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n")
TEXT = Sample("notes.txt", "text/plain", "Grüße aus 北京\n".encode())
WORD = Sample(
    "letter.docx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    archive({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w:document/>"}),
)


@dataclass(frozen=True)
class Dialect:
    """One API: how it names what it is sent."""

    path: str

    def text(self, text: str) -> dict[str, Any]:
        return {"type": "input_text" if self.path == "responses" else "text", "text": text}

    def part(self, sample: Sample) -> dict[str, Any]:
        """With the content in it. Images have no name in any of the APIs."""
        match self.path:
            case "chat/completions" if sample.is_image:
                return {"type": "image_url", "image_url": {"url": sample.url}}
            case "chat/completions":
                return {"type": "file", "file": {"file_data": sample.url, "filename": sample.name}}
            case "responses" if sample.is_image:
                return {"type": "input_image", "image_url": sample.url}
            case "responses":
                return {"type": "input_file", "file_data": sample.url, "filename": sample.name}
            case _:
                source = {"type": "base64", "media_type": sample.media_type, "data": sample.base64}
                named = {} if sample.is_image else {"title": sample.name}
                return {"type": "image" if sample.is_image else "document", "source": source, **named}

    def body(self, model: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
        field = "input" if self.path == "responses" else "messages"
        own = {"max_tokens": 9999} if self.path == "messages" else {}
        kept = {"store": False} if self.path == "responses" else {}
        return {"model": model, field: list(messages), **own, **kept, **more}

    def ask(self, model: str, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.body(model, {"role": "user", "content": [*parts, self.text(CANARY)]}, **more)


CHAT, RESPONSES, MESSAGES = Dialect("chat/completions"), Dialect("responses"), Dialect("messages")
DIALECTS = {dialect.path: dialect for dialect in (CHAT, RESPONSES, MESSAGES)}


def sent_name(sample: Sample) -> str:
    """Under which name Kimi gets what a client sent inside a request."""
    return f"image-{sample.digest[:8]}.{sample.name.rpartition('.')[2]}" if sample.is_image else sample.name


def mark(sample: Sample) -> str:
    return f"[{'image' if sample.is_image else 'file'}: {sent_name(sample)}]"


def seen(said: str) -> list[str]:
    """The files that the simulator says it sees."""
    found = re.search(r"(?:I see the files: |我看到了文件：)(.*?)[.。]$", said.strip())
    return [] if found is None else re.split(", (?=[^ ]+ \\()|、", found[1])
