"""Unbuffered SSE responses whose status is decided as late as possible.

A response is prepared while Kimi thinks, and waits for the first part of the answer when it is about to be sent. Must
never know what the bytes mean.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from flask import Response, current_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Deferred(Protocol):
    """What a response waits for. ``wait_for_answer`` returns when it is certain that there is something to stream, or
    raises the failure of the request. ``close`` is safe to call again."""

    def wait_for_answer(self) -> None: ...

    def close(self) -> None: ...


def event_stream(
    body: Iterator[bytes], answer: Deferred, headers: Mapping[str, str], late_headers: Callable[[], Mapping[str, str]]
) -> Response:
    """An SSE response. ``answer`` is closed at its end, whatever the end is, also where the stream never began.
    ``late_headers``: those that are only known when the answer is certain."""
    closing = _ClosingBody(body)
    response = _DeferredResponse(closing, content_type="text/event-stream; charset=utf-8", direct_passthrough=True)
    response.headers["Cache-Control"] = "no-cache"
    # nginx holds a whole answer back without this (measured: openai-contract.md 6).
    response.headers["X-Accel-Buffering"] = "no"
    response.headers.update(headers)
    response.call_on_close(answer.close)
    response.body, response.answer, response.late_headers = closing, answer, late_headers
    closing.on_close = response.close
    return response


class _DeferredResponse(Response):
    """A response that waits for its answer when it is about to be sent: Flask has done its part by then. Where the
    answer fails, the response is what Flask makes of a view that raises."""

    body: "_ClosingBody"
    answer: Deferred
    late_headers: Callable[[], Mapping[str, str]]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            self.answer.wait_for_answer()
        except Exception as e:  # noqa: BLE001  # the edge of the request: the error handlers answer everything
            # The two hold each other, and nothing closes them any more.
            self.body.on_close = None
            refusal = current_app.finalize_request(current_app.handle_user_exception(e))
            return refusal(environ, start_response)
        self.headers.update(self.late_headers())
        return super().__call__(environ, start_response)


class _ClosingBody:
    """A body that closes its response when the server closes it. With ``direct_passthrough``, which saves two layers
    of werkzeug for each piece, the server closes the body only."""

    # Without a dictionary: there is one for each stream.
    __slots__ = ("_body", "on_close")

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body
        self.on_close: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        """Called by the server. The response then runs what was to be called on close, and calls this again."""
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
