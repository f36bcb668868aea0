"""Between WSGI and us: an iterator of bytes as a response that is not buffered, made before it is certain that there
will be one.

Must never know what the bytes mean.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from flask import Response, current_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Awaited(Protocol):
    """``wait_for_answer`` returns when it is certain that there is something to stream, or raises what the request
    fails with. ``close`` is safe to call again."""

    def wait_for_answer(self) -> None: ...

    def close(self) -> None: ...


def event_stream(
    body: Iterator[bytes], answer: Awaited, headers: Mapping[str, str], more: Callable[[], Mapping[str, str]]
) -> Response:
    """An SSE response. ``answer`` is closed at its end, whatever the end is, also where it never began. ``more``: the
    headers that are only known when the answer is certain."""
    pieces = _Pieces(body)
    response = _Undecided(pieces, content_type="text/event-stream; charset=utf-8", direct_passthrough=True)
    response.headers["Cache-Control"] = "no-cache"
    # nginx holds a whole answer back without this (measured: openai-contract.md 6).
    response.headers["X-Accel-Buffering"] = "no"
    response.headers.update(headers)
    response.call_on_close(answer.close)
    response.answer, response.more = answer, more
    pieces.ended = response.close
    return response


class _Undecided(Response):
    """A response that waits for its answer when it is about to be sent: what Flask does with a response has been done
    by then. Where there is no answer, it is what Flask makes of a view that raises."""

    answer: Awaited
    more: Callable[[], Mapping[str, str]]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            self.answer.wait_for_answer()
        except Exception as e:  # noqa: BLE001  # the edge of the request: the application's handlers answer all
            refusal = current_app.finalize_request(current_app.handle_user_exception(e))
            return refusal(environ, start_response)
        self.headers.update(self.more())
        return super().__call__(environ, start_response)


class _Pieces:
    """A body whose end is told to its response: with ``direct_passthrough``, which spares each piece two layers of
    werkzeug's, the server does not know that."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body
        self.ended: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        """Called by the server. The response runs what was to be called on close, and calls this again."""
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()
