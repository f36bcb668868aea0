"""gunicorn's gevent worker, with client sockets that send at once what they can, and an end that is announced.

gevent's ``sendall`` asks the kernel for the size of its buffer and cuts the data accordingly, each time: for a token,
which always fits, that is a call more into the kernel than the sending itself. Must never know what is sent.
"""

from typing import Any

import gevent
from gevent import socket
from gunicorn.workers.ggevent import GeventWorker

# Nobody asks who started a greenlet; noting it takes a KB of each stream, as long as it lasts.
gevent.config.track_greenlet_tree = False


# How long before the end that gunicorn sets, after which connections are just cut. Seconds: a stream notices within
# a second that it is to end, and what it held is given back before its process goes.
_FAREWELL_S = 3.0


class Worker(GeventWorker):
    def handle_exit(self, sig: int, frame: Any) -> None:
        """gunicorn's, for an end that waits for answers: no new ones any more."""
        super().handle_exit(sig, frame)
        # There is none yet where the end comes before the beginning was done.
        if (app := getattr(self, "wsgi", None)) is not None:
            app.extensions["gateway"].end_within(max(0.0, self.cfg.graceful_timeout - _FAREWELL_S))

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        # One with TLS around it stays what it is: only the bare connection would be left of it.
        if type(client) is socket.socket:
            client = _Eager(client.family, client.type, client.proto, fileno=client.detach())
        super().handle(listener, client, addr)


class _Eager(socket.socket):
    def sendall(self, data: Any, flags: int = 0) -> None:
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(memoryview(data)[sent:], flags)
