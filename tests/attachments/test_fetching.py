"""Fetching by address: what is public comes, and no hostile address reaches a socket of this machine or its net."""

import http.server
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from app.attachments import AttachmentLimits, Attachments, Fetcher, FileLimits, Files
from app.attachments.content import BadContent, TooLarge
from app.chat import ChatRequest, FileReference, Message, TextPart
from app.errors import InvalidRequest
from app.store import Store
from tests.attachments.samples import CHAT, DIALECTS, PDF, PNG, Dialect, seen
from tests.attachments.test_attachments import text_of
from tests.running import SHIPPED, Gateway, Running, Simulator, wait_until
from tests.running.each_case import check_each

_PUBLIC = "93.184.215.14"
# Each names this machine, its net, or something that no program should be made to speak to.
HOSTILE = [
    *(f"http://{host}/" for host in (
        "127.0.0.1", "127.1", "127.255.255.254", "0.0.0.0", "0", "localhost", "LOCALHOST", "localhost.", "2130706433",
        "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "10.0.0.1", "10.255.255.255",
        "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "2852039166",
        "0251.0376.0251.0376", "169.254.0.1", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]",
        "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]",
        "[2001:0:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
        "[2001:db8::1]", "[100::1]", "①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1",
        # The rest of IANA's special addresses, and those of clouds.
        "100.127.255.254", "100.100.100.200", "192.0.0.8", "192.0.0.170", "192.0.0.192", "192.0.0.255",
        "198.19.255.255", "168.63.129.16", "0.255.255.255", "232.1.1.1", "[64:ff9b:1::7f00:1]", "[64:ff9b::1]",
        "[::ffff:0:127.0.0.1]", "[::ffff:100.64.0.1]", "[2002:c0a8:101::]", "[2001::1]", "[2001:20::1]", "[3fff::1]",
        "[5f00::1]", "[fec0::1]", "[febf::1]", "[ff0e::1]", "[::1%25lo]", "[::1%lo]", "[::ffff:127.0.0.1%251]",
        # Other ways to write this machine.
        "localhost:80", "%6cocalhost", "foo.localhost", "localhost%00.example.com", "127.0.0.1%00", "１２７.0.0.1",
        "127.0.0.%31", "127.0.0.1%2f@example.com", "0x7f.0x0.0x0.0x1", "00000177.0.0.1", "127.0.0.1:80:80",
        "127.0.0.1:+80", "127.0.0.1:８０", "[::1]:80", "[::1]]", "[127.0.0.1]", "127.0.0.1&@example.com",
        "example.com\\@127.0.0.1", "127.0.0.1\\.example.com", "127.0.0.1%23@example.com", "127.0.0.1?@example.com",
    )),
    "HTTP://LOCALHOST/", "hTTps://127.0.0.1/", "http:\\\\127.0.0.1\\", "http:\\127.0.0.1/", " http://127.0.0.1/",
    "http://127.0.0.1/%0d%0aHost:%20x", "http://127.0.0.1/\u2028", "http://127.0.0.1/\u0085", "url:http://127.0.0.1/",
    "javascript:alert(1)", "blob:http://127.0.0.1/x", "view-source:http://127.0.0.1/", "ws://127.0.0.1/",
    "http://user:password@127.0.0.1/", f"http://user@{_PUBLIC}/", "http://example.com@127.0.0.1/",
    "http://127.0.0.1#@example.com/", "http://127.0.0.1\\@example.com/", "http://example.com:80@127.0.0.1:80/",
    f"http://{_PUBLIC}:22/", f"http://{_PUBLIC}:6379/", f"http://{_PUBLIC}:0/", f"http://{_PUBLIC}:99999/",
    f"http://{_PUBLIC}:8000/", "https://127.0.0.1/", "https://localhost/",
    "file:///etc/passwd", "file://localhost/etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:70/_x",
    "dict://127.0.0.1:11211/stats", "ldap://127.0.0.1/", "jar:http://127.0.0.1!/", "http:127.0.0.1",
    "http:/127.0.0.1",
    "http:///127.0.0.1", "//127.0.0.1/", "http://", "http://[::1", "http://127.0.0.1/\r\nHost: x", "http://a b/",
    "http://127.0.0.1/\x00", "http://exa\tmple.com/", "http://" + "a" * 9000,
]  # fmt: skip


class Sites:
    """A site on this machine. Counts the connections to it."""

    def __init__(self) -> None:
        self.connections = 0
        self.headers: list[dict[str, str]] = []
        # Path → status, headers, body, seconds between two bytes of it.
        self.pages: dict[str, tuple[int, dict[str, str], bytes, float]] = {}
        sites = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sites.connections += 1
                sites.headers.append(dict(self.headers))
                status, headers, body, pause_s = sites.pages.get(self.path, (404, {}, b"", 0.0))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in [body[at : at + 1] for at in range(len(body))] if pause_s else [body]:
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        return
                    time.sleep(pause_s)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving() -> Iterator[Sites]:
    sites = Sites()
    thread = threading.Thread(target=sites.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sites
    finally:
        sites.server.shutdown()
        sites.server.server_close()


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with serving() as sites:
        yield sites


@pytest.fixture(scope="module")
def inner() -> Iterator[Sites]:
    """One that must not be reached."""
    with serving() as sites:
        yield sites


@pytest.fixture(scope="module")
def fetching(running: Running, shared_simulator: Simulator, sites: Sites) -> Iterator[Gateway]:
    settings = {"FETCH_URLS": "1", "FETCH_HOSTS": f"127.0.0.1:{sites.port}", "FILE_MAX_BYTES": "100000"}
    all_settings: dict[str, Any] = {**SHIPPED, **settings}
    with running.gateway(shared_simulator.url, **all_settings) as gateway:
        yield gateway


def part_of(dialect: Dialect, url: str) -> dict[str, Any]:
    match dialect.path:
        case "chat/completions":
            return {"type": "image_url", "image_url": {"url": url}}
        case "responses":
            return {"type": "input_file", "file_url": url}
        case _:
            return {"type": "document", "source": {"type": "url", "url": url}}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=[*DIALECTS])
def test_kimi_gets_what_an_address_holds(
    fetching: Gateway, simulator: Simulator, sites: Sites, dialect: Dialect
) -> None:
    sites.pages["/papers/report.pdf"] = (200, {"Set-Cookie": "a=b", "Content-Type": "text/html"}, PDF.data, 0)
    sites.pages["/moved"] = (302, {"Location": "/papers/report.pdf"}, b"", 0)
    sites.headers.clear()
    parts = [part_of(dialect, sites.url + path) for path in ("/papers/report.pdf", "/moved")]
    response = fetching.post(f"/v1/{dialect.path}", json=dialect.ask(fetching.model, *parts))
    assert seen(text_of(response, dialect)) == [PDF.arrived()]
    for headers in sites.headers:
        assert {name.lower() for name in headers} == {"host", "accept", "accept-encoding", "user-agent"}


def test_a_file_of_a_chat_may_be_an_address(fetching: Gateway, simulator: Simulator, sites: Sites) -> None:
    sites.pages["/report.pdf"] = (200, {}, PDF.data, 0)
    part = {"type": "file", "file": {"file_data": f"{sites.url}/report.pdf", "filename": "other.pdf"}}
    said = text_of(fetching.chat(CHAT.ask(fetching.model, part)), CHAT)
    assert seen(said) == [PDF.arrived("other.pdf")]


def test_an_address_is_fetched_once_for_several_choices(
    fetching: Gateway, simulator: Simulator, sites: Sites
) -> None:
    sites.pages["/once.pdf"] = (200, {}, PDF.data, 0)
    before = sites.connections
    body = CHAT.ask(fetching.model, part_of(CHAT, f"{sites.url}/once.pdf"))
    choices = fetching.chat({**body, "n": 3}).json()["choices"]
    assert len(choices) == 3 and all(PDF.digest in choice["message"]["content"] for choice in choices)
    assert sites.connections == before + 1


def test_hostile_addresses_reach_nothing_and_are_a_400(fetching: Gateway, inner: Sites, sites: Sites) -> None:
    assert len(set(HOSTILE)) >= 140
    sites.pages["/to-inner"] = (302, {"Location": f"{inner.url}/secret"}, b"", 0)
    sites.pages["/to-meta"] = (301, {"Location": "http://169.254.169.254/latest"}, b"", 0)
    sites.pages["/to-file"] = (307, {"Location": "file:///etc/passwd"}, b"", 0)
    sites.pages["/in-circles"] = (302, {"Location": "/in-circles"}, b"", 0)
    sites.pages["/nowhere"] = (302, {}, b"", 0)
    redirects = [sites.url + path for path in ("/to-inner", "/to-meta", "/to-file", "/in-circles", "/nowhere")]
    own = [inner.url, f"http://localhost:{inner.port}/", f"http://[::ffff:127.0.0.1]:{inner.port}/"]
    own += [f"http://2130706433:{inner.port}/", fetching.url, f"{fetching.url}/metrics"]
    for url in (*HOSTILE, *redirects, *own):
        response = fetching.chat(CHAT.ask(fetching.model, part_of(CHAT, url)))
        assert response.status_code == 400, (url, response.text)
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_attachment", "messages[0].content[0]"), url
    assert inner.connections == 0


def test_a_bad_answer_of_a_site_is_a_clear_400(fetching: Gateway, sites: Sites) -> None:
    answers = {
        "404": ((404, {}, b"", 0), "its site answered 404"),
        "500": ((500, {}, b"", 0), "its site answered 500"),
        "empty": ((200, {}, b"", 0), "is empty"),
        "page": ((200, {}, b"<svg/>", 0), "is an SVG image"),
        "packed": ((200, {"Content-Encoding": "gzip"}, b"x", 0), "sends it compressed"),
        "short": ((200, {"Content-Length": "50"}, b"x", 0), "does not answer as it should"),
    }
    for path, (page, why) in answers.items():
        sites.pages[f"/{path}"] = page
        response = fetching.chat(CHAT.ask(fetching.model, part_of(CHAT, f"{sites.url}/{path}")))
        assert response.status_code == 400 and why in response.json()["error"]["message"], (path, response.text)
    for headers in ({}, {"Content-Length": "100001"}):
        sites.pages["/large.txt"] = (200, headers, b"x" * 100_001, 0)
        response = fetching.chat(CHAT.ask(fetching.model, part_of(CHAT, f"{sites.url}/large.txt")))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")


def test_what_the_disk_does_not_take_is_a_507_and_nothing_is_left_on_it(
    running: Running, simulator: Simulator, sites: Sites, tmp_path: Path
) -> None:
    sites.pages["/large.txt"] = (200, {}, b"x" * (5 << 20), 0)
    sites.pages["/small.pdf"] = (200, {}, PDF.data, 0)
    settings: dict[str, Any] = {**SHIPPED, "FETCH_URLS": "1", "FETCH_HOSTS": f"127.0.0.1:{sites.port}"}
    with running.gateway(simulator.url, server="small disk", TMPDIR=str(tmp_path), **settings) as gateway:
        refused = gateway.chat(CHAT.ask(gateway.model, part_of(CHAT, f"{sites.url}/large.txt")))
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full"), refused.text
        said = text_of(gateway.chat(CHAT.ask(gateway.model, part_of(CHAT, f"{sites.url}/small.pdf"))), CHAT)
        assert PDF.digest in said
        assert _files_in(tmp_path) == []


def test_what_a_killed_worker_was_fetching_is_gone_with_it(
    running: Running, simulator: Simulator, sites: Sites, tmp_path: Path
) -> None:
    sites.pages["/slow.txt"] = (200, {}, b"x" * 10_000, 0.01)
    settings: dict[str, Any] = {**SHIPPED, "FETCH_URLS": "1", "FETCH_HOSTS": f"127.0.0.1:{sites.port}"}
    with running.gateway(simulator.url, server="gevent", TMPDIR=str(tmp_path), **settings) as gateway:
        gateway.wait_for_workers()
        (worker,) = gateway.process.children()
        before = sites.connections
        body = CHAT.ask(gateway.model, part_of(CHAT, f"{sites.url}/slow.txt"))
        asking = threading.Thread(target=_ask_in_vain, args=(gateway, body))
        asking.start()
        wait_until("it is being fetched", lambda: sites.connections > before and _temporary_files(worker, tmp_path))
        assert _files_in(tmp_path) == []
        os.kill(worker, signal.SIGKILL)
        asking.join()
        gateway.workers += 1
        gateway.wait_for_workers()
        assert _files_in(tmp_path) == []


def _files_in(folder: Path) -> list[str]:
    """gunicorn has its own there."""
    return [name for name in os.listdir(folder) if not name.startswith("wgunicorn-")]


def _temporary_files(pid: int, folder: Path) -> list[str]:
    """Those that a process has open in this folder: they have no name any more."""
    opened = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            opened.append(os.readlink(link))
    return [name for name in opened if name.startswith(str(folder)) and "wgunicorn-" not in name]


def _ask_in_vain(gateway: Gateway, body: dict[str, Any]) -> None:
    with pytest.raises(requests.ConnectionError):
        gateway.chat(body)


def test_an_address_in_the_result_of_a_call_may_be_bad(fetching: Gateway, simulator: Simulator) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [part_of(CHAT, "http://127.0.0.1/a.png")]},
    ]
    response = fetching.chat({"model": fetching.model, "messages": messages})
    assert response.ok and "attachment-left-out" in response.headers["x-kimi-notice"]
    assert "it must be public" in simulator.prompts()[0]


# The fetcher by itself: what it resolves, and what it connects to.


class Net:
    """A DNS that answers as it is told, and sockets that note where they were to go."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.connected: list[str] = []

    def resolve(self, _host: str, port: int) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    def connect(self, address: tuple[Any, ...], _timeout_s: float) -> socket.socket:
        self.connected.append(address[0])
        raise OSError("no net")


def fetch(net: Net, url: str = "http://x.example/a.png") -> None:
    with pytest.raises(BadContent):
        Fetcher((), net.resolve, connect=net.connect).fetch(url, 1000)


def test_a_name_is_resolved_once_so_that_rebinding_finds_nothing() -> None:
    net = Net([_PUBLIC], ["127.0.0.1"])
    fetch(net)
    assert (net.asked, net.connected) == (1, [_PUBLIC])


def test_a_name_with_one_private_address_is_not_connected_to() -> None:
    for answer in ([_PUBLIC, "10.0.0.1"], ["127.0.0.1", _PUBLIC], ["169.254.169.254"], [], ["::1"]):
        net = Net(answer)
        fetch(net)
        assert net.connected == [], answer


def test_no_hostile_address_is_connected_to() -> None:
    check_each(((url, url) for url in HOSTILE), _is_not_connected_to)


def _is_not_connected_to(url: str) -> None:
    connected: list[Any] = []

    def connect(address: tuple[Any, ...], _timeout_s: float) -> socket.socket:
        connected.append(address)
        raise OSError("no net")

    with pytest.raises((BadContent, TooLarge)):
        Fetcher((), connect=connect).fetch(url, 1000)
    assert connected == []


def test_public_addresses_of_both_kinds_are_connected_to() -> None:
    for address in (_PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"):
        net = Net([address])
        fetch(net)
        assert net.connected == [address]


def test_few_addresses_of_a_name_are_tried() -> None:
    net = Net([f"93.184.215.{last}" for last in range(200)])
    fetch(net)
    assert net.connected == ["93.184.215.0", "93.184.215.1", "93.184.215.2"]


def test_names_that_are_slow_to_look_up_leave_threads_to_others() -> None:
    asked, release = threading.Semaphore(0), threading.Event()

    def resolve(_host: str, _port: int) -> Any:
        asked.release()
        release.wait(30)
        return []

    fetcher = Fetcher((), resolve, total_s=0.5)

    def fetch_slowly() -> None:
        with pytest.raises(BadContent):
            fetcher.fetch("http://slow.example/", 1000)

    threads = [threading.Thread(target=fetch_slowly, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert all(asked.acquire(timeout=60) for _ in range(3))
    # The others give up when their time is over.
    wait_until("five have given up", lambda: sum(thread.is_alive() for thread in threads) == 3)
    assert not asked.acquire(blocking=False)
    release.set()
    for thread in threads:
        thread.join()


def test_each_address_of_a_request_is_fetched_once_and_few_are(running: Running) -> None:
    asked: list[str] = []

    def resolve(host: str, _port: int) -> Any:
        asked.append(host)
        return []

    hosts = [f"{number}.example" for number in (1, 2, 1, 3, 2, 4, 5, 6, 1)]
    parts = [
        FileReference("url", f"http://{host}/", f"messages[0].content[{n}]", "x") for n, host in enumerate(hosts)
    ]
    request = ChatRequest("k2", (Message("tool", tuple(parts)),))
    with closing(Store(running.new_database().url)) as store:
        files = Files(store, None, FileLimits(1000, 10, 1000, None))
        attachments = Attachments(AttachmentLimits(1000, 4), files, Fetcher((), resolve))
        (message,) = attachments.resolve(request, "me").messages
        assert asked == ["1.example", "2.example", "3.example", "4.example"]
        words = [part.text for part in message.parts if isinstance(part, TextPart)]
        assert ["one address too many" in text for text in words] == [False] * 6 + [True, True, False]
        with pytest.raises(InvalidRequest, match=r"messages\[0\]\.content\[0\] cannot be fetched"):
            attachments.resolve(replace(request, messages=(Message("user", tuple(parts)),)), "me")


def test_a_site_that_drips_is_given_up(sites: Sites) -> None:
    sites.pages["/drip"] = (200, {}, PNG.data * 10, 0.05)
    began = time.monotonic()
    with pytest.raises(BadContent):
        Fetcher([f"127.0.0.1:{sites.port}"], total_s=1).fetch(f"{sites.url}/drip", 10_000)
    # All of it would take longer than half a minute.
    assert time.monotonic() - began < 20
