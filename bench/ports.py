"""Ports of this machine that are given to a server, or at which nobody must answer."""

import socket


def reserved_port() -> int:
    """A port of 127.0.0.1 that no other program gets by chance as long as this process lives.

    It is bound, and nothing listens on it: a connection is refused. Servers that set SO_REUSEADDR, as PostgreSQL,
    nginx, gunicorn and asyncio do, can listen on it, and again after a stop.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    # Stays open until the end of the process.
    holder.detach()
    return port
