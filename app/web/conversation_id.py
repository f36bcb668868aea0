"""The doors to a conversation: where in a request its id may stand, and what an id is.

Three doors lead to the same conversation: the end of the path, ``conversation_id`` in the body, and a base URL
``/v1/conversations/{id}`` in front of an endpoint, for clients that can set nothing else. The names that paths give
to the id are here, so that every API file has one way to ask for it.
"""

import re
from typing import Any, cast

from flask import Flask, g
from werkzeug.routing import BaseConverter

from app.errors import InvalidRequest

# What stands in front of the routes of a blueprint, see ``app.factory``: clients differ in whether their base URL
# ends in /v1, and one that can set nothing but its base URL names its conversation there.
PREFIXES = {
    "": "/v1",
    "_unprefixed": "",
    "_of_conversation": "/v1/conversations/<door>",
    "_of_conversation_unprefixed": "/conversations/<door>",
    # For those that add /v1 to any base URL.
    "_of_conversation_suffixed": "/conversations/<door>/v1",
}

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class AnythingConverter(BaseConverter):
    """Whatever stands at the end of a path, slashes and line ends too, so that we can say what is wrong with it.

    One slash at its end is a client's habit and no part of it.
    """

    regex = r"(?s:.+)"
    part_isolating = False

    def to_python(self, value: str) -> str:
        return value.removesuffix("/")


def install(app: Flask) -> None:
    app.url_map.converters["anything"] = AnythingConverter
    app.url_value_preprocessor(_note_door)


def asked_conversation(
    in_path: str | None = None, in_body: str | None = None, field: str = "conversation_id"
) -> str | None:
    """The conversation that the current request is about, by its base URL or by one of the arguments; None for a
    stateless one. ``field``: what it is called in the body. Raises InvalidRequest where two doors disagree or an id
    is none.
    """
    named = [name for name in (cast(str | None, g.door), in_path, in_body) if name is not None]
    if any(name != named[0] for name in named):
        raise InvalidRequest(
            "the request names two different conversations", code="conversation_mismatch", param=field
        )
    return checked(named[0], field) if named else None


def checked(conversation_id: str, field: str = "conversation_id") -> str:
    """The id, if it is one. Raises InvalidRequest."""
    if not _ID.fullmatch(conversation_id):
        raise InvalidRequest(
            "a conversation id is made of 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
            code="invalid_conversation_id",
            param=field,
        )
    return conversation_id


def _note_door(_endpoint: str | None, arguments: dict[str, Any] | None) -> None:
    """Takes the id of a base URL out of the arguments, so that no view has to know that there are such URLs."""
    g.door = arguments.pop("door", None) if arguments else None
