"""A body in multipart form that is read as it comes: nothing of a file is held.

werkzeug's own form parser reads the whole body before a view can begin, and puts files into the folder for temporary
files; its decoder is used here.
"""

from collections.abc import Iterator
from typing import Any

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app.errors import FileTooLarge, InvalidRequest
from app.web.request_body import READ_BYTES, read_pieces

# Of the heads of all parts, and of the fields beside the file. Bytes.
_REST_BYTES = 65_536
# What the decoder may hold: one piece, behind the head of a part or what may be the beginning of a boundary. Without
# this it would hold a whole body that never has a boundary, or goes on behind the last one.
_HELD_BYTES = READ_BYTES + _REST_BYTES
_FIELD_BYTES = 4096
_MAX_PARTS = 20


class FileForm:
    """The body of the current request: one file, and fields before or behind it.

    ``file`` reads to the end of the body. ``fields`` are complete after that.
    """

    def __init__(self, field: str, most: int) -> None:
        """``field``: of the file. ``most``: its bytes. Raises InvalidRequest, FileTooLarge, BodyTooSlow."""
        self.fields: dict[str, str] = {}
        self.name = ""
        self._field = field
        # Nothing more is read: a client that declares too much need not send it.
        if request.content_length is not None and request.content_length > most + _REST_BYTES:
            raise FileTooLarge(f"{field} has more than {most} bytes (FILE_MAX_BYTES)", param=field)
        boundary = request.mimetype_params.get("boundary", "")
        if request.mimetype != "multipart/form-data" or not boundary:
            raise InvalidRequest("the body must be multipart/form-data, with the file in the field 'file'")
        request.max_content_length = most + _REST_BYTES
        self._decoder = MultipartDecoder(boundary.encode(), _HELD_BYTES, max_parts=_MAX_PARTS)
        self._body: Iterator[bytes] = read_pieces(request.stream)
        self._events = self._decoded()
        for _ in self._events:
            break
        else:
            raise InvalidRequest(f"{field}: the form holds no file with this name", param=field)

    @property
    def file(self) -> Iterator[bytes]:
        """The bytes of the file. Raises as the constructor."""
        return (piece for piece in self._events if piece)

    def _decoded(self) -> Iterator[bytes]:
        """Fields are kept. An empty piece says that the file begins, others are its bytes."""
        has_file = in_file = False
        field, value = "", b""
        for event in self._all_events():
            match event:
                case File(name=name, filename=filename):
                    in_file, field = name == self._field and not has_file, ""
                    if in_file:
                        has_file, self.name = True, filename or ""
                        yield b""
                case Field(name=name):
                    in_file, field, value = False, name, b""
                case Data(data=data, more_data=more):
                    if in_file:
                        if data:
                            yield bytes(data)
                    elif field:
                        value += data
                        if len(value) > _FIELD_BYTES:
                            raise InvalidRequest(
                                f"a field of the form, beside the file, has more than {_FIELD_BYTES} bytes"
                            )
                        if not more:
                            self.fields[field] = value.decode(errors="replace")

    def _all_events(self) -> Iterator[Any]:
        try:
            for piece in self._body:
                self._decoder.receive_data(piece)
                while not isinstance(event := self._decoder.next_event(), NeedData):
                    yield event
                    if isinstance(event, Epilogue):
                        return
            self._decoder.receive_data(None)
            while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
                yield event
        except (ValueError, RequestEntityTooLarge) as e:
            # Too many parts are too large for werkzeug, and so is what holds nothing but the head of one.
            raise InvalidRequest(
                f"the form cannot be read ({type(e).__name__}): it is cut off, or not as multipart/form-data is",
                code="invalid_body",
            ) from None
