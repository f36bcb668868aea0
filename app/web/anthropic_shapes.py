"""What Anthropic's APIs have in common: the error, and how to know a request for them.

Source of the shapes: Anthropic's API reference, and the models of anthropic-python 2.12.
"""

from typing import Any

from flask import request

from app import logs
from app.web.error_responses import Failure

# Anthropic's `type` for a status. The types say what a client shall do, so 503 is an overload here too: clients look
# for that word.
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# Types that a code decides: what its status stands for would be wrong, and lets clients try again.
_TYPES_OF_CODES = {"account_token_rejected": "api_error"}


def encode_error(failure: Failure) -> dict[str, Any]:
    """``{"type": "error", "error": {type, message}, request_id}``: the field at fault stands in the message."""
    default = "api_error" if failure.status >= 500 else "invalid_request_error"
    message = failure.message
    if failure.param and not message.startswith(failure.param) and f"'{failure.param}'" not in message:
        message = f"{failure.param}: {message}"
    error: dict[str, Any] = {
        "type": _TYPES_OF_CODES.get(failure.code or "") or _TYPES.get(failure.status, default),
        "message": message,
    }
    if failure.param == "thread":
        # By this the SDK's tool runner knows that it is to send the whole conversation instead.
        error["details"] = {"error_code": "thread_unsupported_request"}
    return {"type": "error", "error": error, "request_id": logs.request_id.get()}


def is_anthropic() -> bool:
    """Whether the current request is one of Anthropic's clients: each of them names the version of the API. For paths
    that both APIs have."""
    return "anthropic-version" in request.headers
