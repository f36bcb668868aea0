"""Fetches a file from an address that a stranger names. Off unless FETCH_URLS is set.

Threat model. Whoever has an API key chooses the address, and whoever runs the site at that address chooses the
answer. They must not

1. reach what this machine can reach and they cannot: its own ports, its net, the metadata service of a cloud. Only
   public addresses are connected to, and only the ports 80 and 443. A name is resolved once, for each connection, and
   the very address that was checked is connected to, so that a second answer of the DNS (rebinding) is never asked
   for. Redirects are followed by hand, each as an address of its own. Not covered: what this machine serves to the
   whole internet under a public address of its own, which they can reach anyway.
2. make the gateway speak another protocol or say something in a header: http and https only, no user and password, no
   control characters; one parser reads the address, that of the library which connects.
3. learn secrets: no token, cookie, Referer, netrc or proxy of the environment is used. Errors say that an address
   cannot be fetched, and nothing that an answer of a private service could be guessed from.
4. fill memory or disk, or hold the worker: an answer has as many bytes as a file may have, is written to a nameless
   temporary file as it comes, and is never decompressed; all together has ``TOTAL_S`` seconds, however slowly it
   drips. ``resolving`` limits how many addresses one request may name, and the time for all of them.

FETCH_HOSTS names hosts that are exempt from 1, for people who serve files themselves. Why no library (2026-11):
advocate is of 2020, its newer fork champion was not tried, and the others are for httpx.
"""

import contextlib
import ipaddress
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urljoin

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, NewConnectionError
from urllib3.util import parse_url

from app import __version__
from app.attachments.content import BadContent, OnDisk, TooLarge
from app.attachments.folder import translated
from app.concurrency.yielding import pause
from app.errors import GatewayError

log = logging.getLogger(__name__)

# For all of it, redirects included. Seconds.
TOTAL_S = 20.0
_MAX_REDIRECTS = 3
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_URL_CHARS = 8192
_PORTS = {"http": 80, "https": 443}
# So many addresses of a name are tried: whoever runs its DNS may name thousands.
_MAX_TRIED = 3
# Names that are looked up at the same time. gevent has ten threads for that, and Kimi's name needs one, too.
_MAX_LOOKUPS = 3
# Of IPv6 only what is assigned to the public internet: not NAT64 or other forms that hold an IPv4 address.
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
# Public by ``ipaddress`` of some versions of Python, and yet not on the internet, or not only (IANA's registries of
# special-purpose addresses, 2026-11).
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # of the IETF's protocols; Oracle's cloud has its metadata service there
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # the machine below a virtual one, in Azure
        "2001::/23",  # of the IETF's protocols: Teredo, which holds an IPv4 address
        "2002::/16",  # 6to4, which holds one, too
        "3fff::/20",  # for documentation
    )
)

# What ``socket.getaddrinfo`` returns.
Resolved = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]
Resolve = Callable[[str, int], Resolved]
# Connects to an address that was checked; seconds.
Connect = Callable[[tuple[Any, ...], float], socket.socket]

_FORBIDDEN = "is at an address that this gateway does not fetch from: it must be public"


class Fetched(OnDisk):
    """The content of an address."""

    # As the address ends.
    name = ""


class Fetcher:
    """Fetches addresses. One object per process."""

    def __init__(
        self,
        allowed_hosts: Sequence[str] = (),
        resolve: Resolve = lambda host, port: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        total_s: float = TOTAL_S,
        connect: Connect = lambda address, timeout_s: socket.create_connection(address[:2], timeout_s),
    ) -> None:
        """``allowed_hosts``: ``host:port``, exempt from the check of addresses and ports."""
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._resolve = resolve
        self._connect = connect
        self._total_s = total_s
        self._lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)

    def fetch(self, url: str, most: int, ends_at: float = math.inf) -> Fetched:
        """``ends_at``: when it is given up at the latest, in monotonic seconds.

        Raises BadContent, TooLarge: if it has more than ``most`` bytes. Raises StorageFull, StorageUnavailable.
        """
        deadline = min(ends_at, time.monotonic() + self._total_s)
        for _ in range(_MAX_REDIRECTS + 1):
            with self._asked(url, deadline) as response:
                if response.status not in _REDIRECTS:
                    return self._read(response, url, most, deadline)
                location = response.headers.get("Location", "")
                if not location:
                    raise BadContent(f"cannot be fetched: its site answered {response.status}")
                url = urljoin(url, location)
        raise BadContent(f"cannot be fetched: it was redirected more than {_MAX_REDIRECTS} times")

    @contextlib.contextmanager
    def _asked(self, url: str, deadline: float) -> Iterator[urllib3.BaseHTTPResponse]:
        scheme, host, port, target = self._split(url)
        opened: list[socket.socket] = []

        def new_connection(connection: HTTPConnection) -> socket.socket:
            sock = self._connected(host, port, connection, deadline)
            opened.append(sock)
            return sock

        pool = _pool(scheme, host, port, new_connection, min(10.0, self._total_s))
        # A peer that drips is ended in time, wherever it is read.
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: _shut_down(opened))
        timer.daemon = True
        timer.start()
        try:
            response = pool.urlopen(
                "GET",
                target,
                headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"kimi-gateway/{__version__}"},
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            yield response
        except (HTTPError, OSError, ValueError) as e:
            if isinstance(e, GatewayError):
                raise
            forbidden = next((cause for cause in _causes(e) if isinstance(cause, BadContent)), None)
            if forbidden is not None:
                raise forbidden from None
            log.info("fetch_failed error=%s", type(e).__name__)
            raise BadContent("cannot be fetched: its site does not answer as it should") from None
        finally:
            timer.cancel()
            _shut_down(opened)
            pool.close()

    def _split(self, url: str) -> tuple[str, str, int, str]:
        """Scheme, host, port and path of an address. Raises BadContent."""
        if len(url) > _MAX_URL_CHARS or re.search(r"[\x00-\x20\x7f\\]", url):
            raise BadContent("is not a valid address")
        try:
            parts = parse_url(url)
        except (LocationValueError, ValueError):
            raise BadContent("is not a valid address") from None
        if parts.scheme not in _PORTS or not parts.host:
            raise BadContent("is no http: or https: address")
        if parts.auth is not None:
            raise BadContent("is an address with user and password")
        port = parts.port if parts.port is not None else _PORTS[parts.scheme]
        if port not in _PORTS.values() and f"{parts.host}:{port}".lower() not in self._allowed:
            raise BadContent("is at a port that this gateway does not fetch from: only 80 and 443")
        return parts.scheme, parts.host, port, parts.request_uri

    def _connected(self, host: str, port: int, connection: HTTPConnection, deadline: float) -> socket.socket:
        """A connection to an address of the host that was checked. Raises NewConnectionError, BadContent."""
        if not self._lookups.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise NewConnectionError(connection, "too many names are looked up")
        try:
            found = self._resolve(host.strip("[]"), port)
        except (OSError, UnicodeError) as e:
            raise NewConnectionError(connection, "the name is unknown") from e
        finally:
            self._lookups.release()
        addresses = [address for *_, address in found]
        if f"{host}:{port}".lower() not in self._allowed and not all(map(_is_public, addresses)):
            raise NewConnectionError(connection, "forbidden") from BadContent(_FORBIDDEN)
        for address in addresses[:_MAX_TRIED]:
            with contextlib.suppress(OSError):
                return self._connect(address, max(0.1, min(5.0, deadline - time.monotonic())))
        raise NewConnectionError(connection, "nothing answers")

    def _read(self, response: urllib3.BaseHTTPResponse, url: str, most: int, deadline: float) -> Fetched:
        if response.status != 200:
            raise BadContent(f"cannot be fetched: its site answered {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BadContent("cannot be fetched: its site sends it compressed although nothing asked for that")
        length = response.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            raise TooLarge
        with translated("TMPDIR"):
            fetched = Fetched()
        for piece in response.stream(65_536, decode_content=False):
            if fetched.size + len(piece) > most:
                raise TooLarge
            with translated("TMPDIR"):
                fetched.write(piece)
            pause()
        if time.monotonic() > deadline:
            raise BadContent(f"cannot be fetched: it takes longer than {self._total_s:.0f} s")
        with translated("TMPDIR"):
            fetched.complete()
        fetched.name = (parse_url(url).path or "").rpartition("/")[2]
        return fetched


def _is_public(address: tuple[Any, ...]) -> bool:
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        may_be = ip.is_global and not ip.is_multicast and not ip.is_reserved
    else:
        may_be = ip.is_global and ip in _GLOBAL_IPV6
    return may_be and not any(ip in network for network in _NOT_PUBLIC)


def _pool(
    scheme: str, host: str, port: int, connect: Callable[[HTTPConnection], socket.socket], timeout_s: float
) -> HTTPConnectionPool:
    """A pool whose connections are made by ``connect``, and without proxies."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
    if scheme == "http":
        plain = HTTPConnectionPool(host, port, timeout=timeout, maxsize=1)
        plain.ConnectionCls = Plain
        return plain
    secure = HTTPSConnectionPool(
        host, port, timeout=timeout, maxsize=1, cert_reqs="CERT_REQUIRED", ca_certs=certifi.where()
    )
    secure.ConnectionCls = Secure
    return secure


def _shut_down(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            # The plain method: that of SSLSocket would first drop the TLS state that a reader is using.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
