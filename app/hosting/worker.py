"""gunicorn's gevent worker with three changes.

- A client socket sends what it can before anything else. gevent's ``sendall`` first asks the kernel for the size of
  the send buffer, to split the data: for a token, which always fits, that system call costs more than the sending.
  5 % of the time per token (docs/performance.md).
- At a graceful stop the gateway learns how much time is left, so that streams end with an error in time.
- At a graceful stop idle keep-alive connections are closed. gunicorn would wait for them.
"""

from typing import Any, cast

import gevent
from gevent import socket
from greenlet import greenlet
from gunicorn.workers.ggevent import GeventWorker

# The tree of greenlets is for debugging, and costs 1 KB per stream.
gevent.config.track_greenlet_tree = False

# Streams end this long before gunicorn's graceful_timeout, at which connections are cut. Seconds: a stream notices
# its end within one second, and then releases its leases.
_RELEASE_S = 3.0

# Idle connections are closed this long after the stop was requested. Seconds: requests that were already on their way
# arrive before.
_LAST_REQUEST_S = 2.0


class Worker(GeventWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Keep-alive connections that wait for their next request.
        self.idle: dict[_IdleTimeout, greenlet] = {}

    def timeout_ctx(self) -> "_IdleTimeout":  # type: ignore[override]  # its stub says None, its code uses the value
        """The context in which gunicorn waits for the next request of a connection."""
        return _IdleTimeout(self)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The signal handler for a graceful stop."""
        super().handle_exit(sig, frame)
        # The signal may arrive before the application is loaded.
        if (app := getattr(self, "wsgi", None)) is not None:
            app.extensions["gateway"].end_within(max(0.0, self.cfg.graceful_timeout - _RELEASE_S))
        gevent.spawn_later(_LAST_REQUEST_S, gevent.get_hub().loop.run_callback, self._close_idle)

    def _close_idle(self) -> None:
        """Runs in the event loop, where no connection can get a request meanwhile."""
        for timeout, waiting in list(self.idle.items()):
            if timeout in self.idle:
                waiting.throw(timeout)

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        # A TLS socket stays as it is: detaching would leave only the plain connection.
        if type(client) is socket.socket:
            client = _ClientSocket(client.family, client.type, client.proto, fileno=client.detach())
        super().handle(listener, client, addr)


class _IdleTimeout(gevent.Timeout):
    """The keep-alive timeout of a connection, which can be raised early."""

    def __init__(self, worker: Worker) -> None:
        # False: the timeout ends the with block and raises nothing. The stub does not know that.
        super().__init__(worker.cfg.keepalive, cast(Any, False))
        self._worker = worker

    def __enter__(self) -> "_IdleTimeout":
        self._worker.idle[self] = gevent.getcurrent()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        self._worker.idle.pop(self, None)
        return super().__exit__(*error)


class _ClientSocket(socket.socket):
    def sendall(self, data: Any, flags: int = 0) -> None:
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(memoryview(data)[sent:], flags)
