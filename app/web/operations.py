"""How a public API describes what it offers: its ``OPERATIONS``, from which the OpenAPI document is made.

Must never know any operation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

Schema = Mapping[str, Any]

# OpenAI's error; all four keys are always there.
OPENAI_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

# Why a request may fail, whatever it asks for.
_OF_EVERY: Mapping[int, str] = {
    400: "the request cannot be understood or served; `param` names the field",
    401: "no API key, or one that is not known",
    429: "the key has reached its limit",
    500: "the gateway itself failed",
    503: "the database cannot be used now",
}
# Why an answer may fail besides.
OF_ANSWERS: Mapping[int, str] = {
    403: "Kimi refuses the account or the chat, or the API key may not use the model",
    404: "there is no such model or conversation",
    409: "an earlier turn of the conversation still runs, or it cannot go on",
    413: "the body is too large",
    429: "the key or every account has reached its limit; `Retry-After` says when to try again",
    499: "the client left",
    502: "Kimi cannot be reached or understood",
    503: "Kimi is overloaded, or no account can be used, or the database cannot be used now",
    504: "Kimi fell silent",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. ``path`` is written as OpenAPI does, ``parameters`` has the schemas of its names.

    ``answer`` is the schema of a 200; ``streams``: with ``"stream": true`` it is a stream of events instead. ``body``
    returns the model of its body, and may import it for that. ``is_open``: no key is asked for. ``failures``: by
    status, beside those of every operation.
    """

    method: str
    path: str
    summary: str
    answer: Schema
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    body: "Callable[[], type[BaseModel]] | None" = None
    # The schema of a body in multipart form.
    form: Schema | None = None
    # Of a query.
    query: Mapping[str, Schema] = field(default_factory=dict)
    media_type: str = "application/json"
    streams: bool = False
    is_open: bool = False
    failures: Mapping[int, str] = field(default_factory=dict)
    error: Schema = field(default_factory=lambda: OPENAI_ERROR)

    @property
    def all_failures(self) -> Mapping[int, str]:
        return {**({} if self.is_open else _OF_EVERY), **self.failures}


def object_of(**properties: Schema) -> Schema:
    """An object that has at least these."""
    return {"type": "object", "required": list(properties), "properties": properties}
