"""``/v1/files``: files that are uploaded once and named by their ids."""

import contextlib
import itertools
import math
import os
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import requests

from app.attachments import AboutFile, FileLimits, Files, Folder, free_bytes_at
from app.errors import FileLost, StorageFull, TooManyFiles, UnknownFile
from app.store import KeyRow, Store
from tests.attachments.samples import CHAT, DIALECTS, MESSAGES, PDF, PNG, TEXT, WORD, Dialect, Sample, archive, seen
from tests.attachments.test_attachments import text_of
from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    SHIPPED,
    Gateway,
    Running,
    Share,
    Simulator,
    wait_until,
)

EACH_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=[*DIALECTS])


def upload(gateway: Gateway, sample: Sample, key: str = "any", **fields: str) -> requests.Response:
    form = {"purpose": "user_data", **fields}
    file = {"file": (sample.name, sample.data, "application/octet-stream")}
    return gateway.post("/v1/files", data=form, files=file, headers=bearer(key))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def by_id(dialect: Dialect, sample: Sample, file_id: str) -> dict[str, Any]:
    match dialect.path:
        case "chat/completions":
            return {"type": "file", "file": {"file_id": file_id}}
        case "responses":
            return {"type": "input_image" if sample.is_image else "input_file", "file_id": file_id}
        case _:
            return {
                "type": "image" if sample.is_image else "document",
                "source": {"type": "file", "file_id": file_id},
            }


def folder_of(gateway: Gateway) -> Path:
    database = Path(gateway.database.url.removeprefix("sqlite:///"))
    with contextlib.closing(sqlite3.connect(database)) as connection:
        ((name,),) = connection.execute("SELECT value FROM facts WHERE name = 'name'").fetchall()
    return database.parent / "files" / str(name)


@pytest.fixture(params=["folder", "database"])
def stored(request: pytest.FixtureRequest, shared_gateway: Share) -> Gateway:
    """A gateway that keeps files in either place."""
    return shared_gateway(**SHIPPED, FILES_DIR="database" if request.param == "database" else "")


def test_a_file_comes_back_as_it_was_uploaded(stored: Gateway, simulator: Simulator) -> None:
    large = Sample("log.txt", "text/plain", b"".join(b"%d\n" % n for n in range(200_000)))
    for sample in (PNG, PDF, TEXT, WORD, large):
        made = upload(stored, sample).json()
        about = {"object": "file", "bytes": len(sample.data), "filename": sample.name, "purpose": "user_data"}
        assert {**made, **about} == made and made["id"].startswith("file-") and made["status"] == "processed"
        assert made["expires_at"] - made["created_at"] == 30 * 86_400
        path = f"/v1/files/{made['id']}"
        assert stored.get(path, headers=bearer("any")).json() == made
        content = stored.get(f"{path}/content", headers=bearer("any"))
        assert content.content == sample.data and content.headers["Content-Type"].startswith(sample.media_type)
        assert stored.delete(path).json() == {"id": made["id"], "object": "file", "deleted": True}
        for gone in (stored.get(path), stored.get(f"{path}/content"), stored.delete(path)):
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "file_not_found")


@EACH_GENERATION
@EACH_DIALECT
def test_kimi_gets_a_file_that_is_named_by_its_id(gateway: Gateway, simulator: Simulator, dialect: Dialect) -> None:
    samples = (PNG, PDF)
    parts = [by_id(dialect, sample, upload(gateway, sample).json()["id"]) for sample in samples]
    response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, *parts), headers=bearer("any"))
    assert seen(text_of(response, dialect)) == [sample.arrived() for sample in samples]


@BOTH_DATABASES
def test_a_file_in_the_database_reaches_kimi(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(**SHIPPED, FILES_DIR="database")
    sample = Sample("log.txt", "text/plain", os.urandom(400_000).hex().encode())
    part = by_id(MESSAGES, sample, upload(gateway, sample).json()["id"])
    response = gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, part))
    assert seen(text_of(response, MESSAGES)) == [sample.arrived()]


@pytest.fixture
def keyed(shared_gateway: Share) -> Gateway:
    names = ("ann", "ben", "cat", "dan", "eve", "fay", "gus")
    return shared_gateway(**SHIPPED, GATEWAY_API_KEYS=",".join(f"{name}=key-of-{name}-000" for name in names))


def test_a_list_has_pages_and_purposes(keyed: Gateway) -> None:
    gateway = keyed
    names = [f"{number}.txt" for number in range(5)]
    key: dict[str, Any] = {"headers": bearer("key-of-cat-000")}
    ids = {}
    for name in names:
        purpose = "vision" if name == "3.txt" else "user_data"
        made = upload(gateway, Sample(name, "text/plain", b"x"), "key-of-cat-000", purpose=purpose)
        ids[name] = made.json()["id"]
    listed = gateway.get("/v1/files", **key).json()
    assert [one["filename"] for one in listed["data"]] == names[::-1]
    assert listed["object"] == "list" and not listed["has_more"]
    first = gateway.get("/v1/files?order=asc&limit=2", **key).json()
    assert [one["filename"] for one in first["data"]] == names[:2] and first["has_more"]
    rest = gateway.get(f"/v1/files?order=asc&after={first['last_id']}", **key).json()
    assert [one["filename"] for one in rest["data"]] == names[2:]
    (vision,) = gateway.get("/v1/files?purpose=vision", **key).json()["data"]
    assert vision["id"] == ids["3.txt"]
    for query, field in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order")):
        refused = gateway.get(f"/v1/files?{query}", **key)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
    assert gateway.get("/v1/files?after=file-unknown", **key).status_code == 404


def test_anthropics_list_goes_on_behind_a_file_that_was_deleted(keyed: Gateway) -> None:
    with anthropic.Anthropic(base_url=keyed.url, api_key="key-of-fay-000", max_retries=0) as client:
        ids = [client.beta.files.upload(file=(f"{n}.txt", b"x", "text/plain")).id for n in range(5)]
        assert [one.id for one in client.beta.files.list(limit=2)] == ids[::-1]
        assert {one.id for one in client.beta.files.list(ids=[ids[0], "file-unknown", ids[3]])} == {ids[0], ids[3]}
        # As older versions ask.
        before = client.beta.files.list(limit=2, extra_query={"before_id": ids[1]})
        assert [one.id for one in before.data] == [ids[3], ids[2]]
        after = client.beta.files.list(limit=2, extra_query={"after_id": ids[3]})
        assert [one.id for one in after.data] == [ids[2], ids[1]]
        for wrong in ({"page": "page_x"}, {"limit": "1001"}, {"ids": ",".join(f"file-{n}" for n in range(101))}):
            with pytest.raises(anthropic.BadRequestError, match=next(iter(wrong))):
                client.beta.files.list(extra_query=wrong)
        for one in client.beta.files.list(limit=2):
            client.beta.files.delete(one.id)
        assert client.beta.files.list().data == []
        short = client.beta.files.upload(file=("a.txt", b"x", "text/plain"), expires_in_seconds=3600)
        assert short.expires_at is not None and (short.expires_at - short.created_at).total_seconds() == 3600
        with pytest.raises(anthropic.BadRequestError, match="expires_in_seconds"):
            client.beta.files.upload(file=("a.txt", b"x", "text/plain"), expires_in_seconds=60)


def test_fields_without_effect_are_named(keyed: Gateway, shared_gateway: Share) -> None:
    made = upload(keyed, TEXT, "key-of-gus-000", colour="red")
    assert made.ok and made.headers["x-ignored-params"] == "colour"
    listed = keyed.get("/v1/files?scope_id=x", headers=bearer("key-of-gus-000"))
    assert listed.ok and listed.headers["x-ignored-params"] == "scope_id"
    refused = upload(keyed, TEXT, "key-of-gus-000", **{"expires_after[anchor]": "last_active_at"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "expires_after[anchor]")
    strict = shared_gateway(**SHIPPED, STRICT_PARAMS="1")
    before = strict.get("/v1/files").json()["data"]
    assert upload(strict, TEXT, colour="red").status_code == 400
    assert strict.get("/v1/files").json()["data"] == before


def test_another_keys_file_does_not_exist_and_in_the_same_time(keyed: Gateway, simulator: Simulator) -> None:
    gateway = keyed
    foreign = upload(gateway, PDF, "key-of-ann-000").json()["id"]
    unknown = "file-" + "0" * 32
    ben = bearer("key-of-ben-000")
    times: dict[str, list[float]] = {foreign: [], unknown: []}

    def differ() -> bool:
        shortest = [min(spent) for spent in times.values()]
        return max(shortest) >= 1.5 * min(shortest)

    # Any request may take longer on a busy machine, and each of forty may. What always takes longer still does then.
    while len(times[unknown]) < 40 or (differ() and len(times[unknown]) < 1000):
        for file_id, spent in times.items():
            began = time.perf_counter()
            refused = gateway.get(f"/v1/files/{file_id}", headers=ben)
            spent.append(time.perf_counter() - began)
            assert refused.status_code == 404
    assert not differ(), {file_id: min(spent) for file_id, spent in times.items()}
    for dialect in DIALECTS.values():
        said = []
        for file_id in times:
            body = dialect.ask(gateway.model, by_id(dialect, PDF, file_id))
            refused = gateway.post(f"/v1/{dialect.path}", json=body, headers=ben)
            said.append((refused.status_code, refused.json()["error"]))
        assert said[0] == said[1] and said[0][0] == 404
    for more in ({}, {"anthropic-version": "2023-06-01"}):
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            bodies = []
            for file_id in times:
                url = f"{gateway.url}/v1/files/{file_id}{path}"
                refused = requests.request(method, url, headers=ben | more, timeout=60)
                assert refused.status_code == 404 and file_id not in refused.text
                bodies.append({name: value for name, value in refused.json().items() if name != "request_id"})
            assert bodies[0] == bodies[1]
        listed = requests.get(f"{gateway.url}/v1/files?ids={foreign}", headers=ben | more, timeout=60)
        assert listed.json()["data"] == []
    assert gateway.get("/v1/files", headers=ben).json()["data"] == []
    assert gateway.get(f"/v1/files/{foreign}", headers=bearer("key-of-ann-000")).ok


def test_a_key_has_a_limit_of_files_and_of_bytes(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(**SHIPPED, FILES_MAX_COUNT="2", FILES_MAX_TOTAL_BYTES="2500")
    sample = Sample("a.txt", "text/plain", b"x" * 1000)
    ids = [upload(gateway, sample, "first").json()["id"] for _ in range(2)]
    refused = upload(gateway, sample, "first")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "file_limit")
    assert refused.headers["x-should-retry"] == "false"
    assert gateway.delete(f"/v1/files/{ids[0]}", headers=bearer("first")).ok
    assert upload(gateway, Sample("b.txt", "text/plain", b"x" * 1600), "first").status_code == 429
    assert upload(gateway, sample, "first").ok and len(os.listdir(folder_of(gateway))) == 2


def test_what_cannot_be_stored_is_a_clear_error_and_leaves_nothing(shared_gateway: Share) -> None:
    gateway = shared_gateway(**SHIPPED, FILE_MAX_BYTES="100000")
    for sample, why in (
        (Sample("a.pdf", "", b""), "is empty"),
        (Sample("a.zip", "", archive({"a": b"b"})), "is a ZIP archive"),
        (Sample("a.png", "", b"\x89PNG\r\n\x1a\n"), "is not valid"),
    ):
        refused = upload(gateway, sample)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file") and why in refused.text
    for fields in ({"purpose": ""}, {"purpose": "fine-tune"}, {"expires_after[seconds]": "1"}):
        refused = upload(gateway, TEXT, **fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(fields)))
    for size in (100_001, 3_000_000):
        refused = upload(gateway, Sample("a.txt", "", b"x" * size))
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_too_large")
    for arguments in (
        {"json": {"file": "x"}},
        {"data": {"purpose": "user_data"}},
        {"files": {"document": ("a.txt", b"x")}},
        {"data": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"data": b"nothing", "headers": {"Content-Type": "multipart/form-data"}},
        {"data": b"", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"data": {str(number): "x" for number in range(30)}, "files": {"file": ("a.txt", b"x")}},
        {"data": {"purpose": "x" * 5000}, "files": {"file": ("a.txt", b"x")}},
    ):
        refused = gateway.post("/v1/files", **arguments)
        assert refused.status_code == 400, (arguments, refused.text)
    folder = folder_of(gateway)
    assert not folder.exists() or os.listdir(folder) == []


def test_a_body_that_is_cut_off_stores_nothing(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    before = len(gateway.get("/v1/files").json()["data"])
    with socket.create_connection((host, int(port))) as sock:
        head = (
            "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            "Content-Length: 100000\r\n\r\n--b\r\nContent-Disposition: form-data; name=file; filename=a.txt\r\n\r\n"
        )
        sock.sendall(head.encode() + b"x" * 50_000)
    wait_until("nothing is left", lambda: not list(folder_of(gateway).glob("*.part")))
    assert len(gateway.get("/v1/files").json()["data"]) == before


def test_a_full_disk_is_a_507_and_loses_nothing(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, server="small disk", **_settings()) as gateway:
        kept = upload(gateway, PDF).json()["id"]
        refused = upload(gateway, Sample("a.txt", "", b"x" * (5 << 20)))
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
        assert gateway.get(f"/v1/files/{kept}/content").content == PDF.data
        assert os.listdir(folder_of(gateway)) == [kept]


def test_a_full_disk_below_the_database_is_a_503_and_loses_nothing(running: Running, simulator: Simulator) -> None:
    settings = {**_settings(), "FILES_DIR": "database"}
    with running.gateway(simulator.url, server="small disk", **settings) as gateway:
        kept = upload(gateway, PDF).json()["id"]
        refused = upload(gateway, Sample("a.txt", "", b"x" * (8 << 20)))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_not_writable"), refused.text
        assert gateway.get(f"/v1/files/{kept}/content").content == PDF.data
        assert [one["id"] for one in gateway.get("/v1/files").json()["data"]] == [kept]
        said = text_of(gateway.chat(CHAT.ask(gateway.model, by_id(CHAT, PDF, kept))), CHAT)
        assert seen(said) == [PDF.arrived()]


@pytest.mark.parametrize("in_database", [False, True], ids=["folder", "database"])
def test_uploads_leave_a_part_of_the_disk_free(running: Running, tmp_path: Path, in_database: bool) -> None:
    free = [100 << 20]
    with closing(Store(running.new_database().url)) as store:
        limits = FileLimits(10 << 20, 10, 100 << 20, None)
        files = Files(store, None if in_database else Folder(tmp_path), limits, free_bytes=lambda: free[0])

        def pieces() -> Iterator[bytes]:
            yield b"x" * 300_000
            free[0] = (64 << 20) - 1
            yield b"x"

        with pytest.raises(StorageFull, match="uploads leave 64 MB of it free"):
            files.receive("me", "a.txt", pieces(), partial(AboutFile, "user_data"), "file")
        # It is not begun where the disk is full already.
        with pytest.raises(StorageFull):
            files.receive("me", "a.txt", pieces(), partial(AboutFile, "user_data"), "file")
        assert os.listdir(tmp_path) == [] and store.files.used("me") == (0, 0)
        free[0] = 64 << 20
        row = files.receive("me", "a.txt", iter([b"x"]), partial(AboutFile, "user_data"), "file")
        assert files.find("me", row.id) == row


def test_the_free_bytes_of_a_disk_are_those_below_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    free = free_bytes_at(tmp_path / "not" / "yet")
    assert 0 < free < math.inf and abs(free - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert free_bytes_at(Path("/proc/self")) == math.inf


def test_what_a_killed_worker_left_is_deleted_at_the_next_start(running: Running, simulator: Simulator) -> None:
    database = running.new_database()
    with running.gateway(simulator.url, database=database, **_settings()) as gateway:
        kept = upload(gateway, PDF).json()["id"]
        thread = threading.Thread(target=_upload_for_ever, args=(gateway.url,), daemon=True)
        thread.start()
        wait_until("an upload runs", lambda: list(folder_of(gateway).glob("*.part")))
        gateway.kill()
        assert len(os.listdir(folder_of(gateway))) == 2
    with running.gateway(simulator.url, database=database, **_settings()) as gateway:
        assert gateway.get(f"/v1/files/{kept}/content").content == PDF.data
        wait_until("it is swept", lambda: os.listdir(folder_of(gateway)) == [kept])


def test_a_missing_content_is_a_clear_404(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, **_settings()) as gateway:
        file_id = upload(gateway, PDF).json()["id"]
        (folder_of(gateway) / file_id).unlink()
        lost = gateway.get(f"/v1/files/{file_id}/content")
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "file_lost")
        response = gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, by_id(MESSAGES, PDF, file_id)))
        assert response.status_code == 404 and "is gone" in response.text
        assert gateway.delete(f"/v1/files/{file_id}").ok


def test_many_uploads_at_once_need_little_memory(running: Running, simulator: Simulator) -> None:
    """A short form; ``FILES_MEMORY_TEST=20x50`` is the long one."""
    count, megabytes = map(int, os.environ.get("FILES_MEMORY_TEST", "6x12").split("x"))
    settings = _settings() | {"FILES_MAX_TOTAL_BYTES": str(count * megabytes << 21)}
    with running.gateway(simulator.url, **settings) as gateway:
        assert upload(gateway, TEXT).ok
        (worker,) = gateway.process.children()
        before = peak_kb(worker)
        late: list[float] = []
        reader = threading.Thread(target=_read_tokens, args=(gateway, late))
        reader.start()
        threads = [threading.Thread(target=_upload_zeros, args=(gateway.url, megabytes)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader.join()
        sizes = [one["bytes"] for one in gateway.get("/v1/files").json()["data"]]
        assert sizes.count(megabytes << 20) == count
        grown_mb = (peak_kb(worker) - before) / 1024
        print(f"{count} uploads of {megabytes} MB: the worker's memory grew by {grown_mb:.1f} MB", end="; ")  # noqa: T201
        print(f"tokens came late by {late[len(late) // 2]:.0f} ms, p99 {late[len(late) * 99 // 100]:.0f} ms")  # noqa: T201
        assert grown_mb < 60


def test_the_sdks_of_both_vendors_work(keyed: Gateway) -> None:
    gateway = keyed
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="key-of-dan-000", max_retries=0) as client:
        made = client.files.create(file=("report.pdf", PDF.data), purpose="user_data")
        assert client.files.retrieve(made.id) == made
        assert [one.id for one in client.files.list()] == [made.id]
        assert client.files.content(made.id).read() == PDF.data
        assert client.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(made.id)
        expires = {"anchor": "created_at", "seconds": 3600}
        short: Any = client.files.create(file=("a.txt", b"x"), purpose="user_data", expires_after=expires)  # type: ignore[arg-type]
        assert short.expires_at - short.created_at == 3600
    with anthropic.Anthropic(base_url=gateway.url, api_key="key-of-eve-000", max_retries=0) as other:
        uploaded = other.beta.files.upload(file=("report.pdf", PDF.data, "application/pdf"))
        assert (uploaded.filename, uploaded.mime_type, uploaded.size_bytes) == (
            "report.pdf",
            PDF.media_type,
            len(PDF.data),
        )
        assert other.beta.files.retrieve_metadata(uploaded.id) == uploaded
        assert [one.id for one in other.beta.files.list()] == [uploaded.id]
        assert other.beta.files.download(uploaded.id).read() == PDF.data
        assert other.beta.files.delete(uploaded.id).id == uploaded.id
        with pytest.raises(anthropic.NotFoundError):
            other.beta.files.retrieve_metadata(uploaded.id)


def _settings() -> dict[str, Any]:
    return dict(SHIPPED)


def peak_kb(pid: int) -> int:
    """The most memory that a process has had."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def _read_tokens(gateway: Gateway, late: list[float]) -> None:
    """How late, in milliseconds, each of 200 tokens of a stream came."""
    text = "[[sim tokens=200 delay_s=0.02]] " + CANARY
    body = {"model": gateway.model, "stream": True, "messages": [{"role": "user", "content": text}]}
    with requests.post(f"{gateway.url}/v1/chat/completions", json=body, stream=True, timeout=120) as response:
        assert response.ok
        times = [time.perf_counter() for line in response.iter_lines(chunk_size=1) if line.startswith(b"data: {")]
    late += sorted(1000 * (after - before - 0.02) for before, after in itertools.pairwise(times))


def _form(megabytes: int) -> Any:
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="log.txt"\r\n\r\n'
    for _ in range(megabytes * 4):
        yield b"0123456789abcde\n" * (1 << 14)
    yield b"\r\n--b--\r\n"


def _upload_zeros(url: str, megabytes: int) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert requests.post(f"{url}/v1/files", data=_form(megabytes), headers=headers, timeout=120).ok


def _upload_for_ever(url: str) -> None:
    def slowly() -> Any:
        for piece in _form(1000):
            yield piece
            time.sleep(0.05)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with contextlib.suppress(requests.RequestException):
        requests.post(f"{url}/v1/files", data=slowly(), headers=headers, timeout=30)


def test_files_that_come_at_once_count_against_the_limit_together(running: Running) -> None:
    with closing(Store(running.new_database().url)) as store:
        files = Files(store, None, FileLimits(max_bytes=1000, max_count=10, max_total_bytes=1000, max_age_s=None))

        def receive(pieces: Iterator[bytes]) -> int:
            return files.receive("me", "a.txt", pieces, lambda: AboutFile("user_data"), "file").bytes

        def other_comes_meanwhile() -> Iterator[bytes]:
            yield b"x" * 600
            with pytest.raises(TooManyFiles):
                receive(iter([b"y" * 300, b"y" * 300]))
            assert receive(iter([b"y" * 100])) == 100

        assert receive(other_comes_meanwhile()) == 600
        # What has ended, well or not, is not counted twice.
        assert receive(iter([b"z" * 300])) == 300


def test_a_file_that_comes_slowly_is_not_taken_for_a_lost_one(running: Running) -> None:
    database = running.new_database()
    with closing(Store(database.url)) as store:
        files = Files(store, None, FileLimits(50 << 20, 10, 100 << 20, None))

        def slow() -> Iterator[bytes]:
            yield b"x" * 300_000
            # Three hours later, at more than 4096 bytes a second.
            database.run("UPDATE file_pieces SET put_at = put_at - 10800")
            files.clean()
            yield b"x"

        row = files.receive("me", "a.txt", slow(), lambda: AboutFile("user_data"), "file")
        with files.open(row) as file:
            assert file.read() == b"x" * 300_001


@pytest.mark.parametrize("in_database", [False, True], ids=["folder", "database"])
def test_a_revoked_key_takes_its_files_with_it(running: Running, tmp_path: Path, in_database: bool) -> None:
    database = running.new_database()
    with closing(Store(database.url)) as store:
        # Kept for ever: nothing else would delete them.
        files = Files(store, None if in_database else Folder(tmp_path), FileLimits(1000, 10, 1000, None))
        now = store.database.now()
        for name in ("ann", "ben"):
            store.keys.add(KeyRow(f"digest-of-{name}", name, now, None, None, None, None))
        rows = {
            name: files.receive(
                f"owner of digest-of-{name}", "a.txt", iter([b"x"]), lambda: AboutFile("user_data"), "file"
            )
            for name in ("ann", "ben")
        }
        assert store.keys.revoke("ann", now, lambda digest: f"owner of {digest}")
        with pytest.raises(UnknownFile):
            files.find(rows["ann"].owner, rows["ann"].id)
        files.clean()
        with pytest.raises(FileLost), files.open(rows["ann"]) as file:
            file.read()
        with files.open(files.find(rows["ben"].owner, rows["ben"].id)) as file:
            assert file.read() == b"x"


def test_the_files_of_a_key_that_expired_a_month_ago_are_deleted(running: Running, tmp_path: Path) -> None:
    with closing(Store(running.new_database().url)) as store:
        folder, limits = Folder(tmp_path), FileLimits(1000, 10, 1000, None)
        files = Files(store, folder, limits, owner_of=lambda digest: f"owner of {digest}")
        now, day = store.database.now(), 86_400
        rows = {}
        for name, expires_at in (("ann", now - 31 * day), ("ben", now - 29 * day), ("cat", None)):
            store.keys.add(KeyRow(name, name, now - 90 * day, expires_at, None, None, None))
            owner, about = f"owner of {name}", partial(AboutFile, "user_data")
            rows[name] = files.receive(owner, "a.txt", iter([b"x"]), about, "file")
        files.clean()
        with pytest.raises(UnknownFile):
            files.find("owner of ann", rows["ann"].id)
        assert sorted(os.listdir(tmp_path)) == sorted(rows[name].id for name in ("ben", "cat"))
        for name in ("ben", "cat"):
            assert files.find(f"owner of {name}", rows[name].id) == rows[name]


def test_a_file_that_is_deleted_while_a_chat_sends_it_arrives_whole_or_is_a_404(
    gateway: Gateway, simulator: Simulator
) -> None:
    for in_time in (True, False):
        sample = Sample("log.txt", "text/plain", os.urandom(100_000).hex().encode())
        file_id = upload(gateway, sample).json()["id"]
        if not in_time:
            gateway.delete(f"/v1/files/{file_id}")
        simulator.knobs(parse_answers=3)
        answers: list[requests.Response] = []
        body = CHAT.ask(gateway.model, by_id(CHAT, sample, file_id))
        asking = threading.Thread(target=_ask_into, args=(answers, gateway, body))
        asking.start()
        if in_time:
            # Its bytes have arrived, and Kimi reads them.
            wait_until("they arrived", partial(_has_arrived, simulator, sample))
            assert gateway.delete(f"/v1/files/{file_id}").ok
        asking.join()
        (answer,) = answers
        assert answer.status_code == (200 if in_time else 404), answer.text
        assert not in_time or sample.digest in text_of(answer, CHAT)


def _has_arrived(simulator: Simulator, sample: Sample) -> bool:
    return any(one["digest"] == sample.digest for one in simulator.state()["uploads"])


def _ask_into(answers: list[requests.Response], gateway: Gateway, body: dict[str, Any]) -> None:
    answers.append(gateway.chat(body))


@pytest.mark.parametrize("in_database", [False, True], ids=["folder", "database"])
def test_a_file_that_is_deleted_in_the_middle_of_being_read_is_never_shorter(
    running: Running, tmp_path: Path, in_database: bool
) -> None:
    with closing(Store(running.new_database().url)) as store:
        files = Files(store, None if in_database else Folder(tmp_path), FileLimits(1 << 20, 10, 1 << 20, None))
        data = b"x" * 900_000
        row = files.receive("me", "a.txt", iter([data]), lambda: AboutFile("user_data"), "file")
        with files.open(row) as file:
            read = file.read(300_000)
            files.delete("me", row.id)
            try:
                read += file.read()
            except FileLost:
                assert in_database
            else:
                assert read == data


def test_a_folder_that_is_removed_is_a_clear_404_and_is_made_anew(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, **_settings()) as gateway:
        lost = upload(gateway, PDF).json()["id"]
        shutil.rmtree(folder_of(gateway))
        missing = gateway.get(f"/v1/files/{lost}/content")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "file_lost")
        again = upload(gateway, TEXT).json()["id"]
        assert gateway.get(f"/v1/files/{again}/content").content == TEXT.data


def test_two_machines_share_files_in_the_database(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {**SHIPPED, "FILES_DIR": "database"}
    with (
        running.gateway(simulator.url, **settings) as first,
        running.gateway(simulator.url, database=first.database, **settings) as second,
    ):
        sample = Sample("log.txt", "text/plain", os.urandom(400_000).hex().encode())
        file_id = upload(first, sample).json()["id"]
        assert second.get(f"/v1/files/{file_id}/content").content == sample.data
        said = text_of(second.chat(CHAT.ask(second.model, by_id(CHAT, sample, file_id))), CHAT)
        assert seen(said) == [sample.arrived()]
        assert second.delete(f"/v1/files/{file_id}").ok
        assert first.get(f"/v1/files/{file_id}").status_code == 404
