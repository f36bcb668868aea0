"""The names under which files are stored and sent."""

import unicodedata

from app.attachments.media_types import MediaType

_NAME_CHARS = 100


def clean_name(name: str) -> str:
    """A name that can stand in a header and in a line of text; empty if nothing of it is left."""
    name = unicodedata.normalize("NFC", name[-4 * _NAME_CHARS :]).replace("\\", "/").rpartition("/")[2]
    name = "".join(c for c in name if (c.isprintable() and c not in '"[]<>|?*:') or c == " ").strip(" .")
    stem, dot, extension = name.rpartition(".")
    if len(name) > _NAME_CHARS and dot and len(extension) < 10:
        return stem[: _NAME_CHARS - len(extension) - 1] + dot + extension
    return name[:_NAME_CHARS]


def file_name(sent: str, digest: str, media_type: MediaType) -> str:
    """The name under which Kimi gets a file: what it is read as depends on the extension (``kimi-protocol-2.md``
    2.2). The same content without a name has always the same one."""
    name = clean_name(sent) or f"{'image' if media_type.is_image else 'document'}-{digest[:8]}"
    if name.rpartition(".")[2].lower() not in media_type.extensions or "." not in name:
        name += f".{media_type.extensions[0]}"
    return name
