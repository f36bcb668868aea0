"""Where in a request the id of a conversation may stand, and what an id is.

There are three places: the end of the path, ``conversation_id`` in the body, and a base URL
``/v1/conversations/{id}`` in front of an endpoint, for clients that can set nothing else. An API asks in one way,
wherever the id stood.
"""

import re
from typing import Any, Final, cast

from flask import Flask, g
from werkzeug.routing import BaseConverter

from app.errors import InvalidRequest, UnknownConversation
from app.web.placeholders import is_placeholder

# What stands in front of the routes of a blueprint (``app.factory``), by the suffix that its name gets. Clients
# differ in whether their base URL ends in /v1, and one that can set nothing but its base URL names its conversation
# there.
PREFIXES = {
    "": "/v1",
    "_unprefixed": "",
    "_of_conversation": "/v1/conversations/<conversation_in_url>",
    "_of_conversation_unprefixed": "/conversations/<conversation_in_url>",
    # For those that add /v1 to any base URL.
    "_of_conversation_suffixed": "/conversations/<conversation_in_url>/v1",
}

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# The ids that this gateway gives to its replies. Those of Responses name the conversation before their last number.
_OF_REPLIES = re.compile(
    r"(?:chatcmpl-|cmpl-|msg_|resp_)[0-9a-f]{32}|resp_(?P<conversation>[A-Za-z0-9._:-]{1,128})_[1-9][0-9]{0,8}"
)

_HOW_TO_BEGIN: Final = (
    "To begin a conversation choose an id yourself, and send it with each of its turns; for a request without a "
    "conversation leave it out"
)

# What stands behind the base URL in the paths of OpenAI's and Anthropic's APIs.
_ENDPOINT = (
    r"(?:chat/completions|fim/completions|completions|chat|responses|messages(?:/count_tokens)?|models|embeddings"
    r"|moderations|audio/[a-z]+|images/[a-z]+|files|batches|conversations)"
)
# One endpoint behind another one, or behind what follows it.
_DOUBLED = re.compile(rf"(?:/v1)?/{_ENDPOINT}/+(?:v1/+)?{_ENDPOINT}/*", re.IGNORECASE)


class AnythingConverter(BaseConverter):
    """Whatever stands at the end of a path, slashes and line ends too, so that an error can say what is wrong with
    it.

    One slash at the end is a client's habit and no part of it.
    """

    regex = r"(?s:.+)"
    part_isolating = False

    def to_python(self, value: str) -> str:
        return value.removesuffix("/")


class IdConverter(AnythingConverter):
    """The id of something. The name of an endpoint is none: it comes from a base URL that has one already."""

    regex = rf"(?!(?:v1/+)?{_ENDPOINT}(?:/+v1)?/*$)(?s:.+)"


def install(app: Flask) -> None:
    app.url_map.converters["anything"] = AnythingConverter
    app.url_map.converters["id"] = IdConverter
    app.url_value_preprocessor(_take_id_of_base_url)


def named_conversation(
    in_path: str | None = None, in_body: str | None = None, field: str = "conversation_id"
) -> str | None:
    """The conversation that the current request names, in its base URL or in one of the arguments; None: a stateless
    request. ``field``: what it is called in the body. Raises InvalidRequest where two names differ or one is no id.
    """
    names = [name for name in (cast(str | None, g.conversation_in_url), in_path, in_body) if name is not None]
    if any(name != names[0] for name in names):
        raise InvalidRequest(
            "the request names two different conversations", code="conversation_mismatch", param=field
        )
    return check_id(names[0], field) if names else None


def only_conversation(in_path: str) -> str:
    """The conversation that the current request is about. Raises as ``named_conversation``."""
    return named_conversation(in_path) or in_path


def check_id(conversation_id: str, field: str = "conversation_id") -> str:
    """The id, if it is one. Raises InvalidRequest."""
    if not _ID.fullmatch(conversation_id):
        raise InvalidRequest(
            "a conversation id is made of 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
            code="invalid_conversation_id",
            param=field,
        )
    if is_placeholder(conversation_id):
        raise InvalidRequest(
            f"'{conversation_id}' is what a program writes where it has no value, and would be one conversation for "
            f"all of them. {_HOW_TO_BEGIN}",
            code="invalid_conversation_id",
            param=field,
        )
    if reply := _OF_REPLIES.fullmatch(conversation_id):
        of_what = f"; its conversation is '{reply['conversation']}'" if reply["conversation"] else ""
        raise UnknownConversation(
            f"'{conversation_id}' is the id of a reply of this gateway, not of a conversation{of_what}. "
            f"{_HOW_TO_BEGIN}",
            param=field,
        )
    return conversation_id


def names_two_endpoints(path: str) -> bool:
    """Whether the path of a request holds an endpoint twice, because the base URL of its client has one already."""
    return _DOUBLED.fullmatch(path) is not None


def _take_id_of_base_url(_endpoint: str | None, arguments: dict[str, Any] | None) -> None:
    """Takes it out of the arguments, so that no view has to know that there are such URLs."""
    g.conversation_in_url = arguments.pop("conversation_in_url", None) if arguments else None
