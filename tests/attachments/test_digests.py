"""Each way to send an image or a document, in each generation, streamed or not, while something fails: the digest of
what Kimi got is that of what the client sent.

Each route is taken once in each generation, with the modes and events in turn; with ``DIGESTS=all``, in every
combination.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import pytest
import requests

from tests.attachments.samples import CHAT, MESSAGES, PDF, PNG, RESPONSES, TEXT, Dialect, Sample
from tests.attachments.test_attachments import streamed_text, text_of
from tests.attachments.test_fetching import Sites, serving
from tests.attachments.test_files import bearer, by_id, folder_of, upload
from tests.attachments.test_uploads import UPLOADS
from tests.running import CANARY, EACH_GENERATION, SHIPPED, Gateway, Running, Simulator, mint, wait_until

ALL = os.environ.get("DIGESTS") == "all"
pytestmark = [pytest.mark.timeout(3600)] if ALL else []

Mode = Literal["whole", "stream"]
Event = Literal["nothing", "the turn fails", "the upload fails", "the token is renewed"]
EVENTS: tuple[Event, ...] = ("nothing", "the turn fails", "the upload fails", "the token is renewed")
MODES: tuple[Mode, ...] = ("stream", "whole")


@dataclass(frozen=True)
class Place:
    """Where a route may put its sample beside the request."""

    gateway: Gateway
    sites: Sites

    def id_of(self, sample: Sample) -> str:
        return str(upload(self.gateway, sample).json()["id"])

    def address_of(self, sample: Sample) -> str:
        path = f"/{sample.digest}/{sample.name}"
        self.sites.pages[path] = (200, {}, sample.data, 0)
        return self.sites.url + path


@dataclass(frozen=True)
class Route:
    """A form in which one API takes an image or a document. ``part`` makes it."""

    name: str
    dialect: Dialect
    kind: Sample
    part: Callable[[Place, Sample], dict[str, Any]]
    in_result: bool = False

    def messages(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        if not self.in_result:
            return [{"role": "user", "content": [part, self.dialect.text(CANARY)]}]
        asked = {"role": "user", "content": CANARY}
        match self.dialect.path:
            case "chat/completions":
                call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
                answer = {"role": "assistant", "tool_calls": [call]}
                return [asked, answer, {"role": "tool", "tool_call_id": "c", "content": [part]}]
            case "responses":
                call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
                return [asked, call, {"type": "function_call_output", "call_id": "c", "output": [part]}]
            case _:
                use = {"type": "tool_use", "id": "c", "name": "look", "input": {}}
                result = {"type": "tool_result", "tool_use_id": "c", "content": [part]}
                return [asked, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _source(kind: str, **source: Any) -> dict[str, Any]:
    return {"type": kind, "source": source}


def _block(sample: Sample) -> dict[str, Any]:
    return _source("document", type="content", content=[{"type": "text", "text": "See:"}, MESSAGES.part(sample)])


ROUTES = (
    Route("image as data:", CHAT, PNG, lambda _, s: CHAT.part(s)),
    Route("image as text", CHAT, PNG, lambda _, s: {"type": "image_url", "image_url": s.url}),
    Route("image by ms:// id", CHAT, PNG, lambda p, s: _image(f"ms://{p.id_of(s)}")),
    Route("image by address", CHAT, PNG, lambda p, s: _image(p.address_of(s))),
    Route("file as data:", CHAT, PDF, lambda _, s: CHAT.part(s)),
    Route(
        "file as base64",
        CHAT,
        PDF,
        lambda _, s: {"type": "file", "file": {"file_data": s.base64, "filename": s.name}},
    ),
    Route("file by id", CHAT, TEXT, lambda p, s: by_id(CHAT, s, p.id_of(s))),
    Route("image in a result", CHAT, PNG, lambda _, s: CHAT.part(s), in_result=True),
    Route("file by id in a result", CHAT, PDF, lambda p, s: by_id(CHAT, s, p.id_of(s)), in_result=True),
    Route("image by address in a result", CHAT, PNG, lambda p, s: _image(p.address_of(s)), in_result=True),
    Route("image as data:", RESPONSES, PNG, lambda _, s: RESPONSES.part(s)),
    Route("image by id", RESPONSES, PNG, lambda p, s: by_id(RESPONSES, s, p.id_of(s))),
    Route("image by address", RESPONSES, PNG, lambda p, s: {"type": "input_image", "image_url": p.address_of(s)}),
    Route("file as data:", RESPONSES, PDF, lambda _, s: RESPONSES.part(s)),
    Route("file by address", RESPONSES, TEXT, lambda p, s: {"type": "input_file", "file_url": p.address_of(s)}),
    Route("file by id", RESPONSES, PDF, lambda p, s: by_id(RESPONSES, s, p.id_of(s))),
    Route("file in a result", RESPONSES, PDF, lambda _, s: RESPONSES.part(s), in_result=True),
    Route("image by id in a result", RESPONSES, PNG, lambda p, s: by_id(RESPONSES, s, p.id_of(s)), in_result=True),
    Route("image as base64", MESSAGES, PNG, lambda _, s: MESSAGES.part(s)),
    Route("image by address", MESSAGES, PNG, lambda p, s: _source("image", type="url", url=p.address_of(s))),
    Route("image by id", MESSAGES, PNG, lambda p, s: by_id(MESSAGES, s, p.id_of(s))),
    Route("document as base64", MESSAGES, PDF, lambda _, s: MESSAGES.part(s)),
    Route("document as text", MESSAGES, TEXT, lambda _, s: _source("document", type="text", data=s.data.decode())),
    Route("document by address", MESSAGES, PDF, lambda p, s: _source("document", type="url", url=p.address_of(s))),
    Route("document by id", MESSAGES, PDF, lambda p, s: by_id(MESSAGES, s, p.id_of(s))),
    Route("image of a document of blocks", MESSAGES, PNG, lambda _, s: _block(s)),
    Route("image in a result", MESSAGES, PNG, lambda _, s: MESSAGES.part(s), in_result=True),
    Route("document by id in a result", MESSAGES, TEXT, lambda p, s: by_id(MESSAGES, s, p.id_of(s)), in_result=True),
)


def new_sample(kind: Sample, seed: str) -> Sample:
    """Of the type of ``kind``, and of several pieces, with content that nobody has seen before."""
    noise = random.Random(seed)
    size = 200_000 + noise.randrange(10_000)
    more = noise.randbytes(size).hex().encode() if kind.name.endswith(".txt") else noise.randbytes(size)
    return Sample(kind.name, kind.media_type, kind.data + more, kind.is_image)


def ask(place: Place, route: Route, part: dict[str, Any], mode: Mode) -> str:
    """What Kimi said."""
    model = place.gateway.model
    body = route.dialect.body(model, *route.messages(part), stream=mode == "stream")
    response = place.gateway.post(f"/v1/{route.dialect.path}", json=body, stream=mode == "stream")
    if mode == "whole":
        return text_of(response, route.dialect)
    return streamed_text(response)


def digests(simulator: Simulator) -> list[str]:
    return [one["digest"] for one in simulator.state()["uploads"]]


def attached(simulator: Simulator) -> list[str]:
    """The digests of the files of the last turn, by the ids that stand in it."""
    body = simulator.turns()[-1].body
    blocks = body.get("message", {}).get("blocks", [])
    ids = [block["file"]["id"] for block in blocks if "file" in block] + body.get("refs", [])
    known = {one["id"]: one["digest"] for one in simulator.state()["uploads"]}
    return [known[file_id] for file_id in ids]


def combinations(events: Sequence[Any], generation: int) -> Iterator[tuple[Route, Mode, Any]]:
    if ALL:
        yield from product(ROUTES, MODES, events)
        return
    for number, route in enumerate(ROUTES):
        # The two generations take other combinations.
        turn = number + 5 * generation
        yield route, MODES[turn % 2], events[turn // 2 % len(events)]


def begin(event: Event, simulator: Simulator) -> None:
    match event:
        case "the turn fails":
            simulator.knobs(fail="account_abnormal", fail_at="turn", fail_times=1)
        case "the upload fails":
            wish = {"match": UPLOADS[simulator.profile.name], "status": 500, "times": 1}
            simulator.control("POST", "script", json=wish)
        case "the token is renewed":
            wish = {"match": UPLOADS[simulator.profile.name], "status": 401, "times": 1}
            simulator.control("POST", "script", json=wish)


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with serving() as sites:
        yield sites


def settings_for(sites: Sites, simulator: Simulator, **more: str) -> dict[str, Any]:
    site = simulator.profile.site
    tokens = ",".join(f"{name}={mint(name, 3600, 'refresh', site=site)}" for name in ("alice", "bob", "carol"))
    fetching = {"FETCH_URLS": "1", "FETCH_HOSTS": f"127.0.0.1:{sites.port}"}
    return {**SHIPPED, **fetching, "KIMI_TOKENS": tokens, "FILES_MAX_TOTAL_BYTES": str(1 << 30), **more}


@EACH_GENERATION
def test_kimi_gets_what_was_sent_on_every_route_whatever_fails(
    running: Running, simulator: Simulator, sites: Sites
) -> None:
    simulator.knobs(parse_answers=0)
    wrong: list[object] = []
    taken = 0
    with running.gateway(simulator.url, **settings_for(sites, simulator)) as gateway:
        place = Place(gateway, sites)
        for route, mode, event in combinations(EVENTS, generation=int(simulator.profile.speaks_connect)):
            sample = new_sample(route.kind, f"{simulator.profile.name} {route} {mode} {event}")
            part = route.part(place, sample)
            before = len(digests(simulator))
            begin(event, simulator)
            said = ask(place, route, part, mode)
            taken += 1
            sent = digests(simulator)[before:]
            # Another account gets it once more.
            expected = 2 if event == "the turn fails" else 1
            # The simulator speaks of files where no function was called.
            is_named = f"sha256 {sample.digest}" in said or route.in_result
            if not is_named or attached(simulator) != [sample.digest] or sent != [sample.digest] * expected:
                wrong.append((route.dialect.path, route.name, mode, event, said[-200:], sent))
            gateway.tables.forget_what_accounts_did()
        assert not simulator.state()["scripted_replies"]
    print(f"{simulator.profile.name}: {taken} answers, {len(wrong)} wrong")  # noqa: T201
    assert wrong == []


End = Literal["a worker is killed", "all are restarted"]
ENDS: tuple[End, ...] = ("a worker is killed", "all are restarted")


@contextmanager
def in_the_background(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as e:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield future
    finally:
        thread.join(60)


@EACH_GENERATION
def test_kimi_gets_what_was_sent_although_workers_end_in_the_middle_of_an_upload(
    running: Running, simulator: Simulator, sites: Sites
) -> None:
    simulator.knobs(parse_answers=0)
    # An upload is held until new workers run. What killed workers held is not waited for.
    patient = {"FIRST_EVENT_TIMEOUT_S": "60", "IDLE_TIMEOUT_S": "60", "ACCOUNT_MAX_STREAMS": "0"}
    settings = settings_for(sites, simulator, **patient)
    # No token is renewed here: that takes a process of its own.
    del settings["KIMI_TOKENS"]
    chosen = list(product(ROUTES, MODES, ENDS))
    if not ALL:
        # One that stands in the body, by an address, by an id; streamed and not; killed and, in one generation,
        # restarted: a restart knows nothing of generations, and costs as much as all the rest.
        chosen = [chosen[at] for at in ((4, 15, 24) if simulator.profile.speaks_connect else (26, 52, 78))]
    taken = 0
    for end in dict.fromkeys(end for _, _, end in chosen):
        # Only a restart takes the command: its workers import what they run anew.
        server = "forked" if end == "a worker is killed" else "gevent"
        with running.gateway(simulator.url, server=server, **settings) as gateway:
            place = Place(gateway, sites)
            for route, mode in [(route, mode) for route, mode, how in chosen if how == end]:
                gateway.wait_for_workers()
                sample = new_sample(route.kind, f"{simulator.profile.name} {route} {mode} {end}")
                part = route.part(place, sample)
                gate = f"upload {taken}"
                simulator.script(b"{}", match=UPLOADS[simulator.profile.name], status=500, wait_for=gate)
                with in_the_background(partial(ask, place, route, part, mode)) as first:
                    simulator.wait(f"gate_waiting:{gate}", equals=1)
                    if end == "a worker is killed":
                        kill_workers(gateway)
                        simulator.open_gate(gate)
                        # Neither an answer nor the end of one: the client knows that it has to ask again.
                        with pytest.raises(requests.RequestException):
                            first.result(60)
                        again_with_workers(gateway)
                        said = ask(place, route, part, mode)
                    else:
                        restart_workers(gateway)
                        simulator.open_gate(gate)
                        # Who is answered already goes on, with another account.
                        said = first.result(60)
                taken += 1
                assert said and attached(simulator) == [sample.digest], (route, mode, end)
                gateway.tables.forget_what_accounts_did()
    print(f"{simulator.profile.name}: {taken} answers")  # noqa: T201


def kill_workers(gateway: Gateway) -> None:
    """All of them: which one uploads is not known."""
    for pid in gateway.process.children():
        os.kill(pid, signal.SIGKILL)


def again_with_workers(gateway: Gateway, more: int = 1) -> None:
    """Until new workers run."""
    gateway.workers += more
    gateway.wait_for_workers()


def restart_workers(gateway: Gateway) -> None:
    os.kill(gateway.process.popen.pid, signal.SIGHUP)
    again_with_workers(gateway)


def test_what_a_killed_worker_was_receiving_is_swept_by_the_next_one(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {**SHIPPED, "WEB_CONCURRENCY": "2"}
    sample = new_sample(TEXT, "swept")

    def slowly() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + sample.data
        go_on.wait(30)

    go_on = threading.Event()
    headers = {"Content-Type": "multipart/form-data; boundary=b", **bearer("any")}
    with running.gateway(simulator.url, **settings) as gateway:
        gateway.wait_for_workers()
        kept = upload(gateway, PDF).json()["id"]

        def send() -> requests.Response:
            return requests.post(f"{gateway.url}/v1/files", data=slowly(), headers=headers, timeout=60)

        with in_the_background(send) as sent:
            wait_until("an upload runs", lambda: list(folder_of(gateway).glob("*.part")))
            kill_workers(gateway)
            go_on.set()
            with pytest.raises(requests.RequestException):
                sent.result(60)
        again_with_workers(gateway, 2)
        wait_until("it is swept", lambda: os.listdir(folder_of(gateway)) == [kept])
        again = upload(gateway, sample).json()["id"]
        assert gateway.get(f"/v1/files/{again}/content").content == sample.data
