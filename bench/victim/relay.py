"""Kimi as the gateway sees it in this benchmark: the simulator for the victim, the hostile upstream for the attack.

Requests are told apart by their path: the two generations of Kimi's protocol have different ones, and one of them is
the attack's. Bytes are passed on as they come, so that a large request does not delay the victim here.
"""

import argparse
import asyncio
import re
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_PATHS = {"sse": b"/api/", "connect": b"/apiv2"}


class _Site(asyncio.Protocol):
    """The connection to the simulator or to the hostile upstream, for one connection of the gateway."""

    def __init__(self, gateway: "_Gateway") -> None:
        self._gateway = gateway
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._gateway.answer(self, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self._gateway.site_is_gone(self)

    def pause_writing(self) -> None:
        self._gateway.pause_reading()

    def resume_writing(self) -> None:
        self._gateway.resume_reading()


class _Gateway(asyncio.Protocol):
    """One connection of the gateway. Its requests are framed by their Content-Length."""

    def __init__(self, simulator: int, hostile: int, hostile_path: bytes) -> None:
        self._ports = {False: simulator, True: hostile}
        self._hostile_path = hostile_path
        self._transport: asyncio.Transport | None = None
        self._head = b""
        # Bytes of the current request that have not come yet.
        self._left = 0
        self._sites: dict[bool, _Site] = {}
        self._current: _Site | None = None
        self._waiting: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        for site in self._sites.values():
            if site.transport:
                site.transport.abort()

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._pass_on(piece)
                continue
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            length = _LENGTH.search(head + b"\r\n")
            self._left = int(length[1]) if length else 0
            self._choose(head.split(b" ", 2)[1].startswith(self._hostile_path))
            self._pass_on(head + end)

    def _choose(self, hostile: bool) -> None:
        if hostile in self._sites:
            self._current = self._sites[hostile]
        else:
            self._current = None
            self._connecting = asyncio.ensure_future(self._connect(hostile))

    async def _connect(self, hostile: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, site = await loop.create_connection(lambda: _Site(self), "127.0.0.1", self._ports[hostile])
        except OSError:
            self._abort()
            return
        self._sites[hostile] = self._current = site
        waiting, self._waiting = self._waiting, []
        for piece in waiting:
            self._pass_on(piece)

    def _pass_on(self, piece: bytes) -> None:
        if self._current is None or self._current.transport is None:
            self._waiting.append(piece)
        else:
            self._current.transport.write(piece)

    def answer(self, site: _Site, data: bytes) -> None:
        if site is self._current and self._transport:
            self._transport.write(data)

    def site_is_gone(self, site: _Site) -> None:
        self._sites = {hostile: one for hostile, one in self._sites.items() if one is not site}
        if site is self._current and self._transport:
            self._transport.close()

    def pause_writing(self) -> None:
        for site in self._sites.values():
            if site.transport:
                site.transport.pause_reading()

    def resume_writing(self) -> None:
        for site in self._sites.values():
            if site.transport:
                site.transport.resume_reading()

    def pause_reading(self) -> None:
        if self._transport:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport:
            self._transport.resume_reading()

    def _abort(self) -> None:
        if self._transport:
            self._transport.abort()


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    path = _PATHS[options.hostile_generation]
    server = await loop.create_server(
        lambda: _Gateway(options.simulator, options.hostile, path), "127.0.0.1", options.port, backlog=4096
    )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.victim.relay", description=__doc__)
    for name in ("port", "simulator", "hostile"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--hostile-generation", choices=_PATHS, required=True)
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
