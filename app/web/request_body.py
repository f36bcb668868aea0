"""From the bytes of a request to a checked model, or to an error that names the field.

Bodies have a limit of bytes and one of values, so that no step holds the worker for longer than some 50 ms. Knows
JSON and pydantic's errors. Must never know the fields of any one API.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, cast

from flask import current_app, g
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.chat import Caller
from app.concurrency.yielding import in_slices, pause
from app.errors import BodyTooSlow, InvalidRequest
from app.text.json_size import has_more_values
from app.web import json_bytes
from app.web.file_references import attached_chars
from app.web.long_contents import LongContents
from app.web.request_context import current_request
from app.web.request_memory import RequestMemory, Reservation

# How much is read at once.
READ_BYTES = 262_144
# A request needs so many times its body: the body or its text for Kimi, its messages, and their prompt.
_COPIES = 3
# Strings of Python have one, two or four bytes for each character, as the rarest character needs.
_MAX_BYTES_PER_CHAR = 4
# How much is searched between two pauses.
_PART = 1 << 20
# What is shorter is not measured, needs no pause, and does not wait for what is longer. Bytes.
_LONG = 65_536


class Fields(BaseModel):
    """Named fields of a request or of a part of it. Those that we do not know are kept, to be named as ignored."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)


_T = TypeVar("_T")

# A list that is read up to its first fault. One fault is reported; to collect a few hundred thousand takes seconds,
# in which every other stream of the worker waits.
Many = Annotated[list[_T], Field(fail_fast=True)]

_F = TypeVar("_F", bound=Fields)


def receive(model: type[_F], caller: Caller) -> tuple[_F, Reservation]:
    """The body of the current request, and the memory that is reserved for it until the response has ended.

    Raises InvalidRequest: with the name of the field that is at fault.
    Raises BodyTooSlow, GatewayOverloaded, ClientGone, RequestEntityTooLarge.
    """
    data, reservation = _read(caller)
    data = _decoded(data, reservation)
    checked = _validate(model, _load(data, reservation))
    if len(data) > _LONG:
        pause()
    return checked, reservation


def _read(caller: Caller) -> tuple[bytes, Reservation]:
    """The body, and the memory that is reserved for its request. ``middleware`` ends the reservation."""
    request = current_request()
    # Raises for a body that is too large. One in HTTP chunks has no length.
    stream, length = request.stream, request.content_length
    memory = cast(RequestMemory, current_app.extensions["request_memory"])
    start = b""
    if length is None or length <= _LONG:
        short = g.reservation = memory.short.reserve(caller, _COPIES * (_LONG if length is None else length))
        start = b"".join(read_pieces(stream, _LONG + 1))
        if len(start) <= _LONG:
            return start, short
        short.end()
    came, size = len(start), length or 2 * _LONG
    # Not a list of pieces: to join them would take the memory of the body twice.
    gathered = io.BytesIO()
    gathered.write(start)
    body = memory.bodies.reserve(caller, size)
    try:
        for piece in read_pieces(stream):
            gathered.write(piece)
            came += len(piece)
            if came > size:
                size *= 2
                body.resize(size)
        data = gathered.getvalue()
        del gathered
        running = g.reservation = memory.running.reserve(caller, _estimate(data))
    finally:
        body.end()
    return data, running


def read_pieces(stream: Any, most: int = sys.maxsize) -> Iterator[bytes]:
    """What comes, up to ``most`` bytes.

    Raises BodyTooSlow. Raises InvalidRequest: if it is cut off, or framed as HTTP does not allow.
    """
    try:
        while piece := stream.read(min(READ_BYTES, most)):
            yield piece
            most -= len(piece)
    except HTTPException as e:
        if isinstance(e.__context__, TimeoutError):
            raise BodyTooSlow("the body of the request did not come in time") from None
        raise
    except Exception as e:  # noqa: BLE001  # each server has exceptions of its own for this
        # Their texts quote the body.
        raise InvalidRequest(
            f"the body cannot be read ({type(e).__name__}): it is cut off, or its chunks are not as HTTP wants them",
            code="invalid_body",
        ) from None


def _decoded(data: bytes, reservation: Reservation) -> bytes:
    """The body as JSON in UTF-8. Raises InvalidRequest, RequestEntityTooLarge, GatewayOverloaded, ClientGone."""
    request = current_request()
    encoding, charset = request.headers.get("Content-Encoding"), request.mimetype_params.get("charset")
    if encoding:
        data = _decompressed(data, encoding, reservation)
    if charset or data.startswith(json_bytes.BYTE_ORDER_MARKS):
        data = json_bytes.in_utf8(data, charset)
        reservation.resize(_estimate(data))
    return data


def _decompressed(data: bytes, encoding: str, reservation: Reservation) -> bytes:
    reserved = len(data)

    def grow(size: int) -> None:
        nonlocal reserved
        if size > reserved:
            reserved = 2 * size
            reservation.resize(_COPIES * reserved)

    try:
        data = json_bytes.decompressed(data, encoding, current_app.config["MAX_CONTENT_LENGTH"], grow)
    except json_bytes.TooLarge:
        raise RequestEntityTooLarge from None
    reservation.resize(_estimate(data))
    return data


def _estimate(data: bytes) -> int:
    """The most memory that the request may need."""
    if len(data) <= _LONG or (data.isascii() and not _has_escapes(data)):
        return _COPIES * len(data)
    return len(data) + (_COPIES - 1) * _MAX_BYTES_PER_CHAR * len(data)


def _has_escapes(data: bytes) -> bool:
    """Whether it may contain other characters than ASCII ones, written in ASCII."""
    return any(data.find(b"\\u", at, at + _PART + 1) >= 0 for at in in_slices(range(0, len(data), _PART)))


def _load(data: bytes, reservation: Reservation) -> dict[str, Any]:
    is_long = len(data) > _LONG
    if is_long:
        pause()
    config = current_app.config
    contents = LongContents(data, config["FILE_MAX_BYTES"])
    most_chars = config["MAX_TEXT_CHARS"]
    if len(contents.rest) > most_chars and (chars := contents.least_chars()) > most_chars:
        # Before it is read as JSON, which for one text of 16 MB is a step of 30 to 80 ms.
        raise _too_many_chars(f"at least {chars}", most_chars)
    most = config["MAX_JSON_VALUES"]
    if has_more_values(contents.rest, most):
        raise InvalidRequest(
            f"the body has more than {most} values: objects, lists, strings, numbers (MAX_JSON_VALUES)",
            code="too_many_values",
        )
    media_type = current_request().mimetype
    raw = json_bytes.load(contents.rest, media_type)
    if contents.put_back(raw):
        data = contents.rest
    else:
        raw = json_bytes.load(data, media_type)
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    if is_long or len(data) > most_chars:
        pause()
        chars, size = _size_of_texts(raw)
        if chars > most_chars:
            chars -= attached_chars(raw)
        if chars > most_chars:
            raise _too_many_chars(str(chars), most_chars)
        reservation.resize(min(_estimate(data), len(data) + (_COPIES - 1) * size))
    return raw


def _too_many_chars(chars: str, most: int) -> InvalidRequest:
    return InvalidRequest(
        f"the texts of this request have {chars} characters, and the most is {most} (MAX_TEXT_CHARS). "
        "This model's maximum context length is exceeded: shorten the messages",
        code="context_length_exceeded",
    )


def _size_of_texts(value: Any) -> tuple[int, int]:
    """The characters of all strings in a value, and their memory in bytes."""
    chars, size, rest, seen = 0, 0, [value], 0
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            chars += len(part)
            size += sys.getsizeof(part)
        elif isinstance(part, dict):
            rest.extend(part.values())
        elif isinstance(part, list):
            rest.extend(part)
        seen += 1
        if not seen % 1024:
            pause()
    return chars, size


def _validate(model: type[_F], raw: dict[str, Any]) -> _F:
    most = current_app.config["MAX_MESSAGES"]
    for name, value in raw.items():
        if isinstance(value, list) and len(value) > most:
            raise InvalidRequest(
                f"{name}: at most {most} items, not {len(value)} (MAX_MESSAGES)", code="too_many_items", param=name
            )
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        # A value that fits none of several forms has an error for each: those of the deepest place are meant.
        errors = e.errors(include_url=False)
        places = [_param(error["loc"], raw, is_missing=error["type"] == "missing") for error in errors]
        param = places[max(range(len(errors)), key=lambda index: len(errors[index]["loc"]))]
        messages = [_message(error) for error, place in zip(errors, places, strict=True) if place == param]
        raise InvalidRequest(f"{param}: {_one_of(messages)}", param=param) from None


def _message(error: Any) -> str:
    if error["type"] == "union_tag_invalid":
        # Pydantic's own message repeats what was sent, which would then stand in the log.
        return "{discriminator} should be one of {expected_tags}".format(**error["ctx"])
    # Where an object is expected, it names a class of ours.
    return _AN_OBJECT if error["type"] in ("model_type", "dict_type") else str(error["msg"])


_AN_OBJECT = "Input should be an object"


def _one_of(messages: Sequence[str]) -> str:
    """The errors of all forms that a value may have, as one sentence."""
    start = "Input should be "
    different = list(dict.fromkeys(messages))
    if not all(message.startswith(start) for message in different):
        return "; or: ".join(different)
    return start + ", or ".join(message.removeprefix(start) for message in different)


def unsupported(name: str, why: str) -> InvalidRequest:
    """The refusal of a parameter that OpenAI knows and that cannot be served."""
    return InvalidRequest(f"Unsupported parameter: '{name}': {why}", code="unsupported_parameter", param=name)


def has_effect(value: Any) -> bool:
    """Whether the sender of this value may expect an effect: null, false, "", [] and {} ask for nothing."""
    return value is not None and value is not False and value not in ("", [], {})


def _param(location: Sequence[int | str], raw: Any, *, is_missing: bool) -> str:
    """A pydantic location → ``messages[0].content``. A location also holds the names of alternatives, which are no
    part of the path: a name that is not in the body is one of those, or the field that is missing."""
    path, here = "", raw
    for index, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, list) and step < len(here) else None
        elif isinstance(here, dict) and (step in here or (is_missing and index == len(location) - 1)):
            path += f".{step}" if path else step
            here = here.get(step)
    return path
