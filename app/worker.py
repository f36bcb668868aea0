"""gunicorn's gevent worker, with client sockets that send at once what they can.

gevent's ``sendall`` asks the kernel for the size of its buffer and cuts the data accordingly, each time: for a token,
which always fits, that is a call more into the kernel than the sending itself. Knows sockets only.
"""

from typing import Any

import gevent
from gevent import socket
from gunicorn.workers.ggevent import GeventWorker

# Nobody asks who started a greenlet; noting it takes a KB of each stream, as long as it lasts.
gevent.config.track_greenlet_tree = False


class Worker(GeventWorker):
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
