"""Files that are made to cost much when they are looked at: they cost little, and are refused in words."""

import bz2
import io
import os
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import pytest

from app.attachments.media_types import Unusable, recognise
from tests.attachments import samples


def archive(
    name: bytes, packed: bytes, method: int, *, files: int = 1, says: int = 1, zip64: bool = False, at: int = 0
) -> bytes:
    """A file in an archive whose directory names it ``files`` times and declares ``says``; each unpacks to 20 bytes,
    as it says. ``at``: where the directory says that it begins."""
    numbers = struct.pack("<HHIIIH", 0, 0, 0, len(packed), 20, len(name))
    first = b"PK\3\4" + struct.pack("<HHH", 20, 0, method) + numbers + b"\0\0" + name + packed
    entry = b"PK\1\2" + struct.pack("<HHHH", 20, 20, 0, method) + numbers
    directory = (entry + struct.pack("<HHHHII", 0, 0, 0, 0, 0, at) + name) * files
    size, begin = len(directory), len(first)
    large = b""
    if zip64:
        large = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, files, files, size, begin)
        large += b"PK\6\7" + struct.pack("<IQI", 0, begin + size, 1)
        size = 46
    return first + directory + large + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, says, says, size, begin, 0)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


MANY = "is a ZIP archive with more than 10000 files"
NONE = "is a ZIP archive, which Kimi does not take: send its files"
BROKEN = "begins like a ZIP archive and is not valid"
# Each is made by its test: together they take a second.
EXPENSIVE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a directory of more files than it declares": (lambda: archive(b"", b"", 0, files=40_000), MANY),
    "a directory in ZIP64's form": (lambda: archive(b"", b"", 0, files=60_000, zip64=True), MANY),
    "a bomb that declares 20 bytes": (lambda: archive(b"mimetype", deflated(bytes(40 << 20)), 8), NONE),
    "a bomb in bzip2": (lambda: archive(b"mimetype", bz2.compress(bytes(40 << 20)), 12), NONE),
    "what cannot be unpacked": (lambda: archive(b"mimetype", b"\xff" * 20, 8), BROKEN),
    "a file that begins behind the end": (lambda: archive(b"mimetype", b"a", 0, at=0xFFFFFF), BROKEN),
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_an_archive_that_lies_costs_no_memory(name: str) -> None:
    make, why = EXPENSIVE[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(Unusable, match=why):
            recognise(io.BytesIO(data), len(data), "a.zip")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_e_book_is_known_by_its_file_mimetype(method: int) -> None:
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w", method) as written:
        written.writestr("mimetype", "application/epub+zip\n")
    book.seek(0)
    assert recognise(book, len(book.getvalue()), "a").name == "application/epub+zip"


def test_a_page_that_begins_with_many_comments_is_read_at_once() -> None:
    page = b"<!-- a -->" * 23 + b"<html>"
    began = time.process_time()
    assert recognise(io.BytesIO(page), len(page), "a.html").name == "text/html"
    assert time.process_time() - began < 0.3
    drawing = b"<!-- a --> <!DOCTYPE svg> <!-- <b> -->" * 20 + b"<svg>"
    with pytest.raises(Unusable, match="is an SVG image"):
        recognise(io.BytesIO(drawing), len(drawing), "a.html")


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def _archive_of(*names: str) -> bytes:
    return samples.archive(dict.fromkeys(names, b"<a/>" * 40))


# The beginning of a file of each type that is measured or opened.
BEGINNINGS = {
    "a.png": samples.png(40, 30),
    "a.gif": b"GIF89a" + struct.pack("<HHBBB", 40, 30, 0x80, 0, 0) + bytes(80),
    "a.jpg": b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + bytes(9) + b"\xff\xdb\0\x43" + bytes(65)
    + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 30, 40, 3) + bytes(9) + b"\xff\xda" + bytes(60) + b"\xff\xd9",
    "a.bmp": b"BM" + struct.pack("<IHHI", 200, 0, 0, 54) + struct.pack("<IiiHHI", 40, 40, -30, 1, 24, 0) + bytes(99),
    "lossy.webp": b"RIFF\x64\0\0\0WEBPVP8 \x58\0\0\0" + b"\x10\x02\0\x9d\x01\x2a\x28\0\x1e\0" + bytes(70),
    "lossless.webp": b"RIFF\x64\0\0\0WEBPVP8L\x58\0\0\0\x2f\x27\x40\x07\0" + bytes(70),
    "extended.webp": b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\x27\0\0\x1d\0\0" + bytes(70),
    "a.avif": _box(b"ftyp", b"avif\0\0\0\0avifmif1")
    + _box(b"meta", bytes(4) + _box(b"iprp", _box(b"ipco", _box(b"ispe", bytes(4) + struct.pack(">II", 40, 30))))),
    "a.tiff": b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHII", 256, 4, 1, 40) + struct.pack("<HHII", 257, 4, 1, 30),
    "a.ico": b"\0\0\1\0\1\0\x28\x1e\0\0\1\0\x20\0" + struct.pack("<II", 100, 22) + bytes(100),
    "a.heic": _box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(60),
    "a.pdf": samples.PDF.data,
    "a.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "a.docx": _archive_of("[Content_Types].xml", "word/document.xml"),
    "a.xlsx": _archive_of("[Content_Types].xml", "xl/workbook.xml", "xl/a.xml"),
    "a.epub": samples.archive({"mimetype": b"application/epub+zip", "a.xhtml": b"<a/>"}),
    "a.mobi": bytes(60) + b"BOOKMOBI" + bytes(60),
    "a.html": b"<!-- a --><!DOCTYPE html><html><p>" + "Grüße 北京".encode() * 9,
    "gb18030.txt": "北京欢迎你，这是一个文本文件。".encode("gb18030") * 4,
    "utf16.txt": "Grüße aus 北京".encode("utf-16") * 4,
}  # fmt: skip


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_damaged_file_is_of_a_type_or_refused_and_costs_little(name: str) -> None:
    """Cut at each byte, and with bytes that were changed, left out, doubled: ``HOSTILE_FILES`` of each type."""
    data, noise = BEGINNINGS[name], random.Random(name)
    if name != "a.heic":
        assert recognise(io.BytesIO(data), len(data), name).name
    files = [data[:length] for length in range(len(data))]
    files += [_damaged(data, noise) for _ in range(int(os.environ.get("HOSTILE_FILES", "1000")))]
    began = time.process_time()
    tracemalloc.start()
    try:
        for file in files:
            try:
                recognise(io.BytesIO(file), len(file), name)
            except Unusable:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    spent_s = time.process_time() - began
    print(f"{name}: {len(files)} files, {peak / 1024:.0f} KB, {1000 * spent_s / len(files):.2f} ms each")  # noqa: T201
    assert peak < 4 << 20 and spent_s / len(files) < 0.02


def _damaged(data: bytes, noise: random.Random) -> bytes:
    """With some bytes changed, a part left out or doubled; numbers near limits are frequent."""
    damaged = bytearray(data)
    for _ in range(noise.randrange(1, 6)):
        at = noise.randrange(len(damaged))
        match noise.randrange(5):
            case 0:
                damaged[at] = noise.randrange(256)
            case 1:
                damaged[at : at + 4] = noise.choice(
                    (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
                )
            case 2:
                del damaged[at : at + noise.randrange(1, 40)]
            case 3:
                damaged[at:at] = damaged[at : at + noise.randrange(1, 40)] * noise.randrange(1, 20)
            case _:
                damaged[at:at] = noise.randbytes(noise.randrange(1, 40))
        damaged = damaged or bytearray(b"x")
    return bytes(damaged)
