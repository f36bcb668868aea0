"""Long images and documents inside requests: they arrive, and need little memory."""

import base64
import json
import os
import tempfile
from functools import partial
from typing import Any

import pytest
import requests

from app.chat import DecodedSource
from app.web.long_contents import LongContents
from tests.attachments.samples import CHAT, DIALECTS, MESSAGES, PDF, PNG, RESPONSES, Dialect, Sample
from tests.attachments.test_attachments import EACH_DIALECT, text_of
from tests.attachments.test_digests import attached
from tests.attachments.test_files import peak_kb
from tests.running import CANARY, SHIPPED, Gateway, Running, Share, Simulator
from tests.running.each_case import check_each

_MOST = 50 << 20


def long(sample: Sample, size: int = 400_000) -> Sample:
    return Sample(sample.name, sample.media_type, sample.data + os.urandom(size), sample.is_image)


def read(body: Any, *, escaped: bool = False, indent: int | None = None) -> tuple[Any, list[DecodedSource]]:
    """The body as it is read, and what was decoded in it."""
    text = json.dumps(body, ensure_ascii=False, indent=indent)
    # As PHP writes it.
    data = (text.replace("/", "\\/") if escaped else text).encode()
    contents = LongContents(data, _MOST)
    value = json.loads(contents.rest)
    if not contents.put_back(value):
        return json.loads(data), []
    return value, [*decoded(value)]


def decoded(value: Any) -> Any:
    if isinstance(value, DecodedSource):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from decoded(part)


def data_of(source: DecodedSource) -> bytes:
    with source.content.open() as file:
        data = file.read()
    assert len(data) == source.size
    return data


@EACH_DIALECT
@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped slashes"])
def test_long_contents_are_decoded_and_all_else_stays(dialect: Dialect, escaped: bool) -> None:
    samples = [long(PNG), long(PDF, 600_001), long(PDF, 262_144 - len(PDF.data)), PNG]
    body = dialect.ask("k2", *map(dialect.part, samples), user="x" * 300_000)
    value, found = read(body, escaped=escaped, indent=2)
    assert [data_of(source) for source in found] == [sample.data for sample in samples[:3]]
    value_text, body_text = json.dumps(value), json.dumps(body)
    assert len(value_text) < len(body_text) - 1_500_000 and value["user"] == body["user"]


_BASE64 = base64.b64encode(bytes(300_000)).decode()
_URL = f"data:image/png;base64,{_BASE64}"
_TEXTS: dict[str, Any] = {
    "the text of a message": CHAT.ask("k2", {"type": "text", "text": _URL}),
    "a content that is text": CHAT.body("k2", {"role": "user", "content": _BASE64}),
    "a document as text": MESSAGES.ask("k2", {"type": "document", "source": {"type": "text", "data": _BASE64}}),
    "the input of a call": MESSAGES.body(
        "k2",
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"data": _URL}}]},
    ),
    "a part of an unknown type": CHAT.ask("k2", {"type": "hologram", "url": _URL}),
    "a content of blocks in an unknown type": RESPONSES.body(
        "k2", {"type": "hologram", "content": [{"type": "input_image", "image_url": _URL}]}
    ),
    "metadata": {"metadata": {"url": _URL}},
    "a list": {"messages": [[{"type": "image_url", "image_url": _URL}]]},
    "no object": [{"url": _URL}],
    "a URL that is only base64": CHAT.ask("k2", {"type": "image_url", "image_url": {"url": _BASE64}}),
    "base64 that is a URL": MESSAGES.ask("k2", {"type": "image", "source": {"type": "base64", "data": _URL}}),
    "broken base64": CHAT.ask("k2", {"type": "image_url", "image_url": {"url": f"{_URL}Q"}}),
    "padding in the middle": CHAT.ask("k2", {"type": "image_url", "image_url": {"url": f"{_URL}QQ==QQ=="}}),
    "a quoted body": {"input": json.dumps({"image_url": _URL}), "x": f'"image_url":"{_URL}'},
}


@pytest.mark.parametrize("what", _TEXTS)
def test_what_is_no_content_stays_as_it_is(what: str) -> None:
    body = _TEXTS[what]
    assert read(body) == (body, [])
    both = {**(body if isinstance(body, dict) else {"x": body})}
    parts = [RESPONSES.part(long(PNG))] if what != "no object" else []
    both["input"] = [{"role": "user", "content": parts}, both.get("input")]
    value, _ = read(both)
    assert json.dumps({**value, "input": value["input"][1]}) == json.dumps({**both, "input": both["input"][1]})


def test_a_body_that_is_cut_off_is_no_json() -> None:
    whole = json.dumps(CHAT.ask("k2", CHAT.part(long(PNG)))).encode()
    for cut in (
        whole[:-3],
        whole[:400_000],
        whole[:300],
        b'"' + b"A" * 600_000,
        b"A" * 600_000 + b'"',
        b"A" * 600_000,
    ):
        with pytest.raises(ValueError, match=r"."):
            json.loads(LongContents(cut, _MOST).rest)


def test_a_content_stays_in_memory_where_the_disk_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/nowhere")
    body = CHAT.ask("k2", CHAT.part(long(PNG)))
    assert read(body) == (body, [])


@EACH_DIALECT
def test_kimi_gets_long_contents(shared_gateway: Share, simulator: Simulator, dialect: Dialect) -> None:
    gateway = shared_gateway(**SHIPPED)
    for sample in (long(PNG), long(PDF, 3_000_000)):
        response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, dialect.part(sample)))
        assert sample.digest in text_of(response, dialect)
        assert attached(simulator) == [sample.digest]


def test_one_that_cannot_be_used_is_named_by_its_place(shared_gateway: Share) -> None:
    gateway = shared_gateway(**SHIPPED, FILE_MAX_BYTES="400000")
    for sample, status, why in (
        (Sample("a.bin", "", bytes(range(256)) * 1200), 400, "is of a type that Kimi does not take"),
        (Sample("a.txt", "", b"x" * 400_001), 413, "has more than 400000 bytes"),
    ):
        for dialect in DIALECTS.values():
            response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, dialect.part(sample)))
            place = f"{'input' if dialect is RESPONSES else 'messages'}[0].content[0]"
            assert response.status_code == status, response.text
            assert place in response.json()["error"]["message"] and why in response.json()["error"]["message"]


def test_a_large_document_in_a_body_needs_little_more_memory_than_the_body(
    running: Running, simulator: Simulator
) -> None:
    """A short form; ``FILES_MEMORY_TEST=20x50`` is the long one."""
    megabytes = int(os.environ.get("FILES_MEMORY_TEST", "6x12").split("x")[1])
    sample = Sample("log.txt", "text/plain", b"0123456789abcde\n" * (megabytes << 16))
    settings: dict[str, Any] = {**SHIPPED, "MAX_BODY_BYTES": str(200 << 20)}
    with running.gateway(simulator.url, **settings) as gateway:
        _ask(gateway, long(PNG))
        (worker,) = gateway.process.children()
        for dialect in DIALECTS.values():
            before = peak_kb(worker)
            body = json.dumps(dialect.ask(gateway.model, dialect.part(sample))).encode()
            response = gateway.post(f"/v1/{dialect.path}", data=body, headers={"Content-Type": "application/json"})
            assert sample.digest in text_of(response, dialect)
            grown, size = (peak_kb(worker) - before) / 1024, len(body) / (1 << 20)
            print(f"{dialect.path}: a body of {size:.0f} MB, the worker's memory grew by {grown:.0f} MB")  # noqa: T201
            assert grown < 1.4 * size + 10


def _ask(gateway: Gateway, sample: Sample) -> requests.Response:
    return gateway.chat(CHAT.ask(gateway.model, CHAT.part(sample), CHAT.text(CANARY)))


UNITS = {"ascii": "a", "two bytes": "é", "three": "字", "four": "🦊", "newline": "\n", "quote": '"', "slash": "\\"}


@pytest.mark.parametrize("unit", [*UNITS, "all"])
@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
def test_long_texts_are_counted_from_below(unit: str, escaped: bool) -> None:
    shifts = (0, 1, 3, 5)
    check_each(((f"shift {shift}", shift) for shift in shifts), partial(_is_counted_from_below, unit, escaped))


def _is_counted_from_below(unit: str, escaped: bool, shift: int) -> None:
    piece = UNITS.get(unit) or "".join(UNITS.values())
    # So short that its escapes stay.
    text = "b" * shift + piece * (1_800_000 // len(json.dumps(piece)[1:-1]))
    data = json.dumps({"messages": [{"content": text}]}, ensure_ascii=escaped).encode()
    least, parts = LongContents(data, _MOST).least_chars(), len(data) // 65_536 + 1
    if '"' in text:
        # A string is found by a long part without a quote.
        assert text.count('"') * 0.99 - (text.count('"') if unit == "all" else 0) <= least <= len(text)
    else:
        assert len(text) - 12 * parts <= least <= len(text)


@EACH_DIALECT
def test_what_may_be_a_content_is_no_long_text(dialect: Dialect) -> None:
    body = dialect.ask("k2", dialect.part(long(PDF)), dialect.text("a" * 300_000))
    data = json.dumps(body).encode()
    for most in (_MOST, 1000):
        assert 299_000 <= LongContents(data, most).least_chars() <= 300_000


def test_what_stands_between_strings_is_no_text() -> None:
    numbers = ", ".join(["1234567"] * 90_000)
    data = f'{{"a": "b", "c": [{numbers}], "d": "e",{" " * 300_000}"f": 1}}'
    assert LongContents(data.encode(), _MOST).least_chars() == 0


ESCAPED = {
    "three bytes": "中文字",
    "halves": "🦊🐼",
    "all": "a\n\t\\é中🦊/\x7f\u2028",
    "backslashes": "\\\\中",
}


@pytest.mark.parametrize("unit", ESCAPED)
@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5])
def test_a_long_text_of_escapes_stays_what_it_is(unit: str, shift: int) -> None:
    text = "b" * shift + ESCAPED[unit] * (6_000_000 // len(json.dumps(ESCAPED[unit])))
    body = {"a": "x", "messages": [{"content": text}], "b": text[:100]}
    # Some programs escape some characters only.
    data = json.dumps(body).replace("\\u5b57", "字").encode()
    contents = LongContents(data, _MOST)
    assert len(contents.rest) < 0.95 * len(data)
    assert json.loads(contents.rest) == body
    assert contents.put_back(json.loads(contents.rest))


def test_a_long_text_that_is_not_valid_stays_as_it_is() -> None:
    for wrong in (b"\\x", b"\\u12", b"\\ud83e", b"\n", b"\xff"):
        data = b'{"a": "' + b"\\u4e2d" * 500_000 + wrong + b'"}'
        assert LongContents(data, _MOST).rest == data


def test_escapes_between_strings_stay_wrong() -> None:
    data = b'{"a": "b"' + b"\\u0020" * 500_000 + b'\\u002c "c": 1}'
    assert LongContents(data, _MOST).rest == data
