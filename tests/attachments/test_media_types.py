"""Files that are made to cost much when they are looked at: they cost little, and are refused in words."""

import bz2
import io
import struct
import time
import tracemalloc
import zipfile
import zlib

import pytest

from app.attachments.media_types import Unusable, recognise


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
EXPENSIVE = {
    "a directory of more files than it declares": (archive(b"", b"", 0, files=40_000), MANY),
    "a directory in ZIP64's form": (archive(b"", b"", 0, files=60_000, zip64=True), MANY),
    "a bomb that declares 20 bytes": (archive(b"mimetype", deflated(bytes(40 << 20)), 8), NONE),
    "a bomb in bzip2": (archive(b"mimetype", bz2.compress(bytes(40 << 20)), 12), NONE),
    "what cannot be unpacked": (archive(b"mimetype", b"\xff" * 20, 8), BROKEN),
    "a file that begins behind the end": (archive(b"mimetype", b"a", 0, at=0xFFFFFF), BROKEN),
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_an_archive_that_lies_costs_no_memory(name: str) -> None:
    data, why = EXPENSIVE[name]
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
