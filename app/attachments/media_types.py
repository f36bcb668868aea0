"""What a file is, by its content: its media type, and whether Kimi takes it.

Neither the name nor the media type that a client gives is believed, apart from the extension of a text. Nothing is
decoded or unpacked here. What Kimi takes: ``kimi-protocol-2.md`` 2.7.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

# So much of a file is looked at, and of its end for the directory of a ZIP archive.
_HEAD_BYTES = 65_536
# An image with more pixels, or an archive that unpacks to more bytes or to more files, is a bomb.
MAX_PIXELS = 178_956_970
MAX_UNPACKED_BYTES = 1 << 30
_MAX_ARCHIVED_FILES = 10_000
# Of the directory of an archive. Bytes.
_MAX_DIRECTORY_BYTES = 200 * _MAX_ARCHIVED_FILES
# Of the file "mimetype" in an e-book, packed or not: it holds one media type. Bytes.
_MAX_MIMETYPE_BYTES = 200


class Unusable(Exception):
    """Kimi cannot take this file. The text says why: it continues a sentence that names the file."""


@dataclass(frozen=True, slots=True)
class MediaType:
    name: str
    # Those that fit it; the first one is given to a file that has none of them.
    extensions: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        return self.name.startswith("image/")


_PNG = MediaType("image/png", ("png", "apng"))
_JPEG = MediaType("image/jpeg", ("jpg", "jpeg", "jfif", "pjp", "pjpeg"))
_GIF = MediaType("image/gif", ("gif",))
_WEBP = MediaType("image/webp", ("webp",))
_BMP = MediaType("image/bmp", ("bmp", "dib"))
_TIFF = MediaType("image/tiff", ("tiff", "tif"))
_ICO = MediaType("image/x-icon", ("ico",))
_AVIF = MediaType("image/avif", ("avif",))
_PDF = MediaType("application/pdf", ("pdf",))
_OFFICE = "application/vnd.openxmlformats-officedocument."
_DOCX = MediaType(f"{_OFFICE}wordprocessingml.document", ("docx",))
_XLSX = MediaType(f"{_OFFICE}spreadsheetml.sheet", ("xlsx",))
_PPTX = MediaType(f"{_OFFICE}presentationml.presentation", ("pptx",))
_EPUB = MediaType("application/epub+zip", ("epub",))
_MOBI = MediaType("application/x-mobipocket-ebook", ("mobi",))
# One format for three programs: the extension says which.
_OLE = {
    "doc": MediaType("application/msword", ("doc",)),
    "xls": MediaType("application/vnd.ms-excel", ("xls",)),
    "ppt": MediaType("application/vnd.ms-powerpoint", ("ppt",)),
}
_TEXTS = {
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "md": "text/markdown",
    **dict.fromkeys(("txt", "log", "dot", "ini", "conf", "yaml", "yml"), "text/plain"),
    **dict.fromkeys(("go", "h", "c", "cpp", "cxx", "cc", "cs", "java", "js", "ts", "css"), "text/plain"),
    **dict.fromkeys(("jsp", "php", "py", "py3", "asp"), "text/plain"),
}

# Formats that are known and not taken: how they begin, and what they are called.
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"ID3", "audio (MP3)"),
    (b"\xff\xfb", "audio (MP3)"),
    (b"\xff\xf3", "audio (MP3)"),
    (b"OggS", "audio or video (Ogg)"),
    (b"fLaC", "audio (FLAC)"),
    (b"\x1aE\xdf\xa3", "video (Matroska, WebM)"),
    (b"\x00\x00\x01\xba", "video (MPEG)"),
    (b"FLV\x01", "video (Flash)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"8BPS", "a Photoshop image"),
    (b"II\xbc\x01", "a JPEG XR image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
)
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"heim": "HEIC"}
_INSTEAD = "send PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF instead"


def recognise(file: BinaryIO, size: int, name: str) -> MediaType:
    """``name``: as the client gave it. Raises Unusable."""
    if size == 0:
        raise Unusable("is empty")
    head = file.read(_HEAD_BYTES)
    for begins, media_type, measure in _IMAGES:
        if head.startswith(begins):
            _check_pixels(media_type, measure(head))
            return media_type
    if head[:4] == b"RIFF":
        return _riff(head)
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if b"%PDF-" in head[:1024]:
        return _PDF
    extension = name.rpartition(".")[2].lower()
    if head.startswith(b"PK\x03\x04"):
        return _zip(file, size)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _OLE.get(extension) or _OLE["doc"]
    if head[60:68] == b"BOOKMOBI":
        return _MOBI
    for begins, what in _REFUSED:
        if head.startswith(begins):
            raise Unusable(f"is {what}, which Kimi does not take")
    return _text(head, extension)


def known_type(media_type: str, name: str) -> MediaType:
    """A type that ``recognise`` has found, by its name. ``name``: of the file."""
    found = _BY_NAME.get(media_type)
    if found is not None:
        return found
    extension = name.rpartition(".")[2].lower()
    return MediaType(media_type, (extension if extension in _TEXTS else "txt",))


# With "*+", a comment that has ended is never read as a longer one: thirty comments would take minutes.
_SVG = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*+<svg\b",
    re.DOTALL | re.IGNORECASE,
)


def _text(head: bytes, extension: str) -> MediaType:
    if not _is_text(head):
        raise Unusable("is of a type that Kimi does not take: it is no image, PDF, Office document, e-book or text")
    if _SVG.match(head):
        raise Unusable(f"is an SVG image, which Kimi does not take: {_INSTEAD}")
    if head.lstrip()[:5] == b"{\\rtf":
        raise Unusable("is an RTF document, which Kimi does not take: send PDF or DOCX instead")
    known = _TEXTS.get(extension)
    return MediaType(known, (extension,)) if known else MediaType("text/plain", ("txt",))


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
        head = head[: len(head) // 2 * 2]
    else:
        encoding = "utf-8"
        if b"\0" in head:
            return False
    try:
        head.decode(encoding)
    except UnicodeDecodeError as e:
        # The last character may be cut; and Chinese texts may be in GB 18030.
        if e.start >= len(head) - 4:
            return True
        return _is_gb18030(head)
    return True


def _is_gb18030(head: bytes) -> bool:
    try:
        text = head.decode("gb18030")
    except UnicodeDecodeError as e:
        if e.start < len(head) - 4:
            return False
        text = head[: e.start].decode("gb18030")
    return all(character.isprintable() or character in "\t\r\n\f\ufeff\u3000" for character in text)


# Images

Measure = Callable[[bytes], tuple[int, int] | None]


def _check_pixels(media_type: MediaType, measured: tuple[int, int] | None) -> None:
    if measured is None:
        raise Unusable(f"begins like {media_type.name} and is not valid")
    width, height = measured
    if width * height > MAX_PIXELS:
        raise Unusable(f"has {width} x {height} pixels, and the most is {MAX_PIXELS}")


def _unpacked(form: str, data: bytes) -> tuple[int, int] | None:
    if len(data) < struct.calcsize(form):
        return None
    width, height = struct.unpack_from(form, data)
    return (abs(width), abs(height)) if width and height else None


def _png(head: bytes) -> tuple[int, int] | None:
    return _unpacked(">II", head[16:24]) if head[12:16] == b"IHDR" else None


def _gif(head: bytes) -> tuple[int, int] | None:
    return _unpacked("<HH", head[6:10])


def _bmp(head: bytes) -> tuple[int, int] | None:
    return _unpacked("<ii", head[18:26])


def _jpeg(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _unpacked(">HH", head[at + 5 : at + 9])
        elif marker in (0xD8, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    # Behind a long preview.
    return (1, 1) if len(head) >= _HEAD_BYTES else None


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if kind == b"VP8 " and len(head) >= 30:
        found = _unpacked("<HH", head[26:30])
        return None if found is None else (found[0] & 0x3FFF, found[1] & 0x3FFF)
    return None


def _avif(head: bytes) -> tuple[int, int] | None:
    at = head.find(b"ispe")
    return _unpacked(">II", head[at + 8 : at + 16]) if at > 0 else (1, 1)


def _unmeasured(head: bytes) -> tuple[int, int] | None:
    return (1, 1) if len(head) > 8 else None


_IMAGES: tuple[tuple[bytes, MediaType, Measure], ...] = (
    (b"\x89PNG\r\n\x1a\n", _PNG, _png),
    (b"\xff\xd8\xff", _JPEG, _jpeg),
    (b"GIF87a", _GIF, _gif),
    (b"GIF89a", _GIF, _gif),
    (b"II*\0", _TIFF, _unmeasured),
    (b"MM\0*", _TIFF, _unmeasured),
    (b"\0\0\1\0", _ICO, _unmeasured),
    (b"BM", _BMP, _bmp),
)


def _riff(head: bytes) -> MediaType:
    if head[8:12] == b"WEBP":
        _check_pixels(_WEBP, _webp(head))
        return _WEBP
    what = {b"WAVE": "audio (WAV)", b"AVI ": "video (AVI)"}.get(head[8:12], "of a type")
    raise Unusable(
        f"is {what} that Kimi does not take" if what == "of a type" else f"is {what}, which Kimi does not take"
    )


def _iso_media(head: bytes) -> MediaType:
    brands = [head[at : at + 4] for at in range(8, min(int.from_bytes(head[:4], "big"), 256), 4)]
    if b"avif" in brands or b"avis" in brands:
        _check_pixels(_AVIF, _avif(head))
        return _AVIF
    image = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if image is not None:
        raise Unusable(f"is a {image} image, which Kimi does not take: {_INSTEAD}")
    what = "audio (M4A)" if brands[:1] == [b"M4A "] else "video (MP4)"
    raise Unusable(f"is {what}, which Kimi does not take")


# Archives

# What zipfile raises for an archive that is none.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, NotImplementedError),
)


def _zip(file: BinaryIO, size: int) -> MediaType:
    file.seek(max(0, size - _HEAD_BYTES))
    end = file.read(_HEAD_BYTES)
    at = end.rfind(b"PK\5\6")
    if at < 0 or len(end) < at + 22:
        raise Unusable("begins like a ZIP archive and is cut off")
    try:
        with zipfile.ZipFile(cast(IO[bytes], _Archive(file))) as archive:
            files = archive.infolist()
            kind = _archived(archive, {one.filename for one in files})
    except _BROKEN:
        raise Unusable("begins like a ZIP archive and is not valid") from None
    if sum(one.file_size for one in files) > MAX_UNPACKED_BYTES:
        raise Unusable(f"would unpack to more than {MAX_UNPACKED_BYTES} bytes")
    if kind is None:
        raise Unusable("is a ZIP archive, which Kimi does not take: send its files")
    return kind


def _archived(archive: zipfile.ZipFile, names: set[str]) -> MediaType | None:
    if "[Content_Types].xml" in names:
        for folder, media_type in (("word/", _DOCX), ("xl/", _XLSX), ("ppt/", _PPTX)):
            if any(name.startswith(folder) for name in names):
                return media_type
    if "mimetype" not in names:
        return None
    about = archive.getinfo("mimetype")
    # What it says of its size unpacked may be a lie, and bzip2 makes megabytes of a hundred bytes.
    is_short = max(about.file_size, about.compress_size) <= _MAX_MIMETYPE_BYTES
    if not is_short or about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return None
    return _EPUB if archive.read(about).strip() == b"application/epub+zip" else None


class _Archive:
    """The file of an archive as zipfile reads it. zipfile reads a directory to its end, whatever number of files the
    archive declares, and one in ZIP64's form may be as long as the file: a million files take seconds and 300 MB."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Raises Unusable: if it is a directory of too many files."""
        if size > _MAX_DIRECTORY_BYTES:
            raise Unusable(_TOO_MANY_FILES)
        data = self._file.read(_MAX_DIRECTORY_BYTES if size < 0 else size)
        if data.count(b"PK\1\2") > _MAX_ARCHIVED_FILES:
            raise Unusable(_TOO_MANY_FILES)
        return data


_TOO_MANY_FILES = f"is a ZIP archive with more than {_MAX_ARCHIVED_FILES} files"


_BY_NAME = {
    one.name: one
    for one in (
        *(media_type for _, media_type, _ in _IMAGES),
        *(_WEBP, _AVIF, _PDF, _DOCX, _XLSX, _PPTX, _EPUB, _MOBI),
        *_OLE.values(),
    )
}
