"""gunicorn's gevent worker, with client sockets that send at once what they can, and an end that is announced.

gevent's ``sendall`` asks the kernel for the size of its buffer and cuts the data accordingly, each time: for a token,
which always fits, that is a call more into the kernel than the sending itself. Must never know what is sent.
"""

from typing import Any, cast

import gevent
from gevent import socket
from greenlet import greenlet
from gunicorn.workers.ggevent import GeventWorker

# Nobody asks who started a greenlet; noting it takes a KB of each stream, as long as it lasts.
gevent.config.track_greenlet_tree = False


# How long before the end that gunicorn sets, after which connections are just cut. Seconds: a stream notices within
# a second that it is to end, and what it held is given back before its process goes.
_FAREWELL_S = 3.0

# By then a request that was on its way when the end was announced has come.
_LAST_REQUEST_S = 2.0


class Worker(GeventWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Connections that wait for their next request.
        self.idle: dict[_Idle, greenlet] = {}

    def timeout_ctx(self) -> "_Idle":  # type: ignore[override]  # its stub says None, its code uses what it gives
        return _Idle(self)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """gunicorn's, for an end that waits for answers: no new ones any more."""
        super().handle_exit(sig, frame)
        # There is none yet where the end comes before the beginning was done.
        if (app := getattr(self, "wsgi", None)) is not None:
            app.extensions["gateway"].end_within(max(0.0, self.cfg.graceful_timeout - _FAREWELL_S))
        # gunicorn would wait for clients that keep a connection and have nothing to ask.
        gevent.spawn_later(_LAST_REQUEST_S, gevent.get_hub().loop.run_callback, self._close_idle)

    def _close_idle(self) -> None:
        """Runs in the event loop: whoever gets a request meanwhile is not among them any more."""
        for waiting, waiter in list(self.idle.items()):
            if waiting in self.idle:
                waiter.throw(waiting)

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        # One with TLS around it stays what it is: only the bare connection would be left of it.
        if type(client) is socket.socket:
            client = _Eager(client.family, client.type, client.proto, fileno=client.detach())
        super().handle(listener, client, addr)


class _Idle(gevent.Timeout):
    """While a connection waits for its next request; the end of that waiting is the end of the connection."""

    def __init__(self, worker: Worker) -> None:
        # False: it ends the waiting and is no error. Its stub does not know that.
        super().__init__(worker.cfg.keepalive, cast(Any, False))
        self._worker = worker

    def __enter__(self) -> "_Idle":
        self._worker.idle[self] = gevent.getcurrent()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        self._worker.idle.pop(self, None)
        return super().__exit__(*error)


class _Eager(socket.socket):
    def sendall(self, data: Any, flags: int = 0) -> None:
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(memoryview(data)[sent:], flags)
