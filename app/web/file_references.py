"""Images and documents in the body of a request: what the APIs have in common.

Must never know the fields of any one API.
"""

from typing import Any

from app.chat import FileReference
from app.concurrency.yielding import pause

# For the tables of parameters.
ATTACHED = (
    "are sent to Kimi ([how](files.md)); audio and video are a 400 that names their place. What cannot be used is a "
    "400, in the results of calls words take its place"
)
ATTACHED_ZH = (
    "会发给 Kimi（[说明](files.zh-CN.md)）；音频和视频返回 400，并指出位置。"
    "无法使用的返回 400；工具结果里的则用文字代替"
)


def image_reference(url: Any, place: str, sent_as: str) -> FileReference:
    """An image by its URL. ``ms://`` before the id of a file is Moonshot's form."""
    text = _text(url)
    if text.startswith("ms://"):
        return FileReference("id", text.removeprefix("ms://"), place, sent_as, is_image=True)
    return FileReference("url", text, place, sent_as, is_image=True)


def file_reference(
    content: Any,
    file_id: Any,
    place: str,
    sent_as: str,
    name: Any = None,
    *,
    url: Any = None,
    is_image: bool = False,
) -> FileReference:
    """A file by the first of these that is given: its ``content`` (base64, a ``data:`` URL, or an address, as
    OpenRouter takes it), its URL, its id."""
    named = _text(name)
    if text := _text(content):
        is_url = text[:8].lower().startswith(("data:", "http:", "https:"))
        return FileReference("url" if is_url else "base64", text, place, sent_as, named, is_image)
    if text := _text(url):
        return FileReference("url", text, place, sent_as, named, is_image)
    if text := _text(file_id):
        return FileReference("id", text, place, sent_as, named, is_image)
    return FileReference("url", "", place, sent_as, named, is_image)


def clean_line(text: str | None) -> str:
    """In one line, and without the brackets of a mark."""
    return " ".join((text or "").replace("[", " ").replace("]", " ").split())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def attached_chars(body: dict[str, Any]) -> int:
    """The characters of the images and documents that stand in a body, in any of the APIs: they are no text that Kimi
    reads."""
    chars, rest = 0, [*_list(body.get("messages")), *_list(body.get("input"))]
    seen = 0
    while rest:
        item = rest.pop()
        seen += 1
        if not seen % 1024:
            pause()
        if not isinstance(item, dict):
            continue
        # Messages and results hold parts, and a result may be a part itself.
        for name in ("content", "output"):
            rest += _list(item.get(name))
        if isinstance(source := item.get("source"), dict):
            # That of a document of blocks.
            rest += _list(source.get("content"))
        file, url = item.get("file"), item.get("image_url")
        found = [
            item.get("file_data"),
            file.get("file_data") if isinstance(file, dict) else None,
            item.get("file_url"),
            *((source.get("data"), source.get("url")) if isinstance(source, dict) else ()),
            url.get("url") if isinstance(url, dict) else url,
        ]
        chars += sum(len(text) for text in found if isinstance(text, str))
    return chars


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
