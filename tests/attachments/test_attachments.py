"""Images and documents inside requests: what is sent is what arrives at Kimi, and what cannot be used is a clear
error."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.attachments.samples import (
    CHAT,
    DIALECTS,
    GIF,
    MESSAGES,
    OTHER_PNG,
    PDF,
    PNG,
    RESPONSES,
    TEXT,
    WORD,
    Dialect,
    Sample,
    archive,
    mark,
    png,
    seen,
)
from tests.running import CANARY, EACH_GENERATION, SHIPPED, Gateway, Share, Simulator

EACH_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=[*DIALECTS])
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def text_of(response: Any, dialect: Dialect) -> str:
    """What Kimi said."""
    assert response.status_code == 200, response.text
    body = response.json()
    match dialect.path:
        case "chat/completions":
            return str(body["choices"][0]["message"]["content"])
        case "responses":
            return str(body["output"][-1]["content"][0]["text"])
        case _:
            return str(body["content"][-1]["text"])


def streamed_text(response: Any) -> str:
    """All text of a stream, of any of the APIs."""
    assert response.status_code == 200, response.text
    said = ""
    for line in response.content.decode().splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            assert "error" not in event or event["error"] is None, event
            delta = event["choices"][0]["delta"] if event.get("choices") else event.get("delta")
            if isinstance(delta, dict):
                said += delta.get("content") or delta.get("text") or ""
            elif isinstance(delta, str) and event["type"] == "response.output_text.delta":
                said += delta
    return said


@EACH_GENERATION
@EACH_DIALECT
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_kimi_gets_the_bytes_that_were_sent(
    gateway: Gateway, simulator: Simulator, dialect: Dialect, stream: bool
) -> None:
    samples = (PNG, PDF, TEXT, WORD, GIF)
    parts = [part for sample in samples for part in (dialect.part(sample), dialect.text(f"({sample.name})"))]
    response = gateway.post(
        f"/v1/{dialect.path}", json=dialect.ask(gateway.model, *parts, stream=stream), stream=stream
    )
    said = streamed_text(response) if stream else text_of(response, dialect)
    assert seen(said) == [sample.unnamed for sample in samples]
    (prompt,) = simulator.prompts()
    assert prompt == "\n".join([line for s in samples for line in (mark(s), f"({s.name})")] + [CANARY])


@EACH_GENERATION
def test_attachments_of_all_messages_are_sent_in_order_and_each_once(gateway: Gateway, simulator: Simulator) -> None:
    messages = [
        {"role": "system", "content": [CHAT.part(TEXT), CHAT.text("Read it.")]},
        {"role": "user", "content": [CHAT.part(PNG), CHAT.text("What is it?")]},
        {"role": "assistant", "content": "A chart."},
        {"role": "user", "content": [CHAT.text(f"And these? {CANARY}"), CHAT.part(OTHER_PNG), CHAT.part(PNG)]},
    ]
    said = text_of(gateway.chat({"model": gateway.model, "messages": messages}), CHAT)
    assert seen(said) == [TEXT.unnamed, PNG.unnamed, OTHER_PNG.unnamed]
    (turn,) = simulator.turns()
    # Where Kimi takes instructions apart, their marks are there.
    prompt = turn.body.get("options", {}).get("system_prompt", "") + turn.text
    order = [prompt.index(text) for text in (mark(TEXT), "Read it.", mark(PNG), "What is it?", "A chart.")]
    assert order == sorted(order) and prompt.count(mark(PNG)) == 2


@EACH_GENERATION
@EACH_DIALECT
def test_a_result_of_a_call_may_hold_images(gateway: Gateway, simulator: Simulator, dialect: Dialect) -> None:
    said = dialect.part(PNG)
    match dialect.path:
        case "chat/completions":
            call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            items: list[dict[str, Any]] = [
                {"role": "user", "content": CANARY},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": [said]},
            ]
        case "responses":
            items = [
                {"role": "user", "content": CANARY},
                {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": [said]},
            ]
        case _:
            items = [
                {"role": "user", "content": CANARY},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [said]}]},
            ]
    response = gateway.post(f"/v1/{dialect.path}", json=dialect.body(gateway.model, *items))
    assert response.ok and "attachment" not in response.headers.get("x-kimi-notice", ""), response.text
    assert [one["digest"] for one in simulator.state()["uploads"]] == [PNG.digest]
    assert mark(PNG) in simulator.prompts()[0]


def test_other_forms_of_the_same_content_are_read(gateway: Gateway, simulator: Simulator) -> None:
    lines = "\n".join(PDF.base64[at : at + 76] for at in range(0, len(PDF.base64), 76))
    forms: list[tuple[Dialect, dict[str, Any], Sample]] = [
        (CHAT, {"type": "image_url", "image_url": PNG.url}, PNG),
        (CHAT, {"type": "file", "file": {"file_data": PDF.base64, "filename": "report.pdf"}}, PDF),
        (CHAT, {"type": "file", "file": {"file_data": lines, "filename": "report.pdf"}}, PDF),
        (CHAT, {"type": "image_url", "image_url": {"url": "data:;base64," + PNG.base64}}, PNG),
        (RESPONSES, {"type": "input_file", "file_url": PDF.url, "filename": "report.pdf"}, PDF),
        (MESSAGES, {"type": "image", "source": {"type": "url", "url": PNG.url}}, PNG),
    ]
    for dialect, part, sample in forms:
        response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, part))
        assert sample.digest in text_of(response, dialect), part
    text = {"type": "document", "source": {"type": "text", "data": "plain"}, "title": "a.md"}
    assert "a.md (text/markdown, 5 bytes" in text_of(
        gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, text)), MESSAGES
    )
    percent = {"type": "image_url", "image_url": {"url": "data:text/plain,hello%20you"}}
    assert "(text/plain, 9 bytes" in text_of(gateway.chat(CHAT.ask(gateway.model, percent)), CHAT)


def test_a_file_is_known_by_its_content_and_gets_a_fitting_name(gateway: Gateway, simulator: Simulator) -> None:
    names = {
        "photo.jpg": (PNG, "photo.jpg.png"),
        "../../etc/passwd": (TEXT, "passwd.txt"),
        'a"b\r\nX: y.pdf': (PDF, "abX y.pdf"),
        "C:\\reports\\q3.docx": (WORD, "q3.docx"),
        "报告.pdf": (PDF, "报告.pdf"),
        "x" * 300 + ".pdf": (PDF, "x" * 96 + ".pdf"),
        "script.py": (Sample("", "text/plain", b"print(1)\n"), "script.py"),
        "archive.zip": (WORD, "archive.zip.docx"),
        "": (PDF, f"document-{PDF.digest[:8]}.pdf"),
        "...": (PDF, f"document-{PDF.digest[:8]}.pdf"),
    }
    for sent, (sample, expected) in names.items():
        part = {"type": "file", "file": {"file_data": f"data:image/jpeg;base64,{sample.base64}", "filename": sent}}
        said = text_of(gateway.chat(CHAT.ask(gateway.model, part)), CHAT)
        assert seen(said) == [sample.arrived(expected)], sent


ISO = b"\0\0\0\x18ftyp%b\0\0\0\0%bmif1"


def claiming(data: bytes, size: int) -> bytes:
    """An archive whose directory says that the first file unpacks to so many bytes."""
    at = data.index(b"PK\1\2") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


USELESS: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "empty": (b"", "is empty"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG image"),
    "heic": (ISO % (b"heic", b"heic"), "is a HEIC image"),
    "mp4": (ISO.replace(b"mif1", b"mp41") % (b"isom", b"mp42"), "is video (MP4)"),
    "mp3": (b"ID3\x04\0\0", "is audio (MP3)"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "is audio (WAV)"),
    "webm": (b"\x1aE\xdf\xa3\x01", "is video (Matroska, WebM)"),
    "program": (b"\x7fELF\x02\x01", "is a program"),
    "zip": (archive({"a.txt": b"hello"}), "is a ZIP archive, which Kimi does not take"),
    "cut zip": (archive({"a.txt": b"hello"})[:40], "begins like a ZIP archive and is cut off"),
    "broken zip": (WORD.data.replace(b"PK\1\2", bytes(4)), "begins like a ZIP archive and is not valid"),
    "rtf": (rb"{\rtf1 hello}", "is an RTF document"),
    "gzip": (b"\x1f\x8b\x08\0", "is a gzip archive"),
    "noise": (bytes(range(256)) * 4, "is of a type that Kimi does not take"),
    "cut png": (b"\x89PNG\r\n\x1a\n", "begins like image/png and is not valid"),
    "png of no size": (png(1, 1)[:16] + b"\0" * 8 + png(1, 1)[24:], "begins like image/png and is not valid"),
    "png bomb": (
        png(1, 1)[:16] + struct.pack(">II", 100_000, 100_000) + png(1, 1)[24:],
        "has 100000 x 100000 pixels",
    ),
    "gif bomb": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0;", "has 65535 x 65535 pixels"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "begins like image/jpeg and is not valid"),
    "zip bomb": (claiming(WORD.data, 1 << 30), "would unpack to more than 1073741824 bytes"),
    # Made by its test: it takes half a second.
    "many files": (
        lambda: archive({str(n): b"" for n in range(10_001)}),
        "is a ZIP archive with more than 10000 files",
    ),
}


@pytest.mark.parametrize("name", USELESS)
def test_what_kimi_cannot_take_is_a_400_that_names_its_place_and_what_it_is(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    data, why = USELESS[name]
    if not isinstance(data, bytes):
        data = data()
    part = {"type": "file", "file": {"file_data": base64.b64encode(data).decode() or "data:,", "filename": "a.pdf"}}
    response = gateway.chat(CHAT.ask(gateway.model, CHAT.part(PNG), part))
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == "messages[0].content[1]", error
    assert error["code"] == "invalid_attachment" and f"messages[0].content[1] {why}" in error["message"], error
    assert simulator.state()["total_chats"] == 0


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("data:image/png;base64,@@@@", "is not valid base64"),
        ("data:image/png;base64,QUJD=QUJD", "is not valid base64"),
        ("data:image/png;base64,QUJ", "is not valid base64"),
        ("data:image/png;base64,AAA\u00e9", "is not valid base64"),
        ("data:image/png;base64", "is not a valid data: URL"),
        ("data:image/png;base64,", "is empty"),
        ("", "has neither content nor an address"),
        ("chart.png", "is neither a data: URL nor an http(s): URL"),
        ("file:///etc/passwd", "is neither a data: URL nor an http(s): URL"),
        ("https://x.example/a.png", "is an address on the web, and this gateway fetches none"),
    ],
)
@EACH_DIALECT
def test_a_bad_source_is_a_400_that_names_its_place(gateway: Gateway, dialect: Dialect, url: str, why: str) -> None:
    match dialect.path:
        case "chat/completions":
            part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
        case "responses":
            part = {"type": "input_image", "image_url": url}
        case _:
            part = {"type": "image", "source": {"type": "url", "url": url}}
    response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, part))
    place = f"{'input' if dialect.path == 'responses' else 'messages'}[0].content[0]"
    assert response.status_code == 400
    assert f"{place} {why}" in response.json()["error"]["message"]


def test_forms_that_are_not_what_they_should_be_are_a_400(gateway: Gateway) -> None:
    for value in (None, 7, [], {}, {"url": None}, {"url": 7}, {"url": {"x": 1}}, [PNG.url]):
        response = gateway.chat(CHAT.ask(gateway.model, {"type": "image_url", "image_url": value}))
        assert (response.status_code, response.json()["error"]["param"]) == (400, "messages[0].content[0]"), value
    for source in ({}, {"type": "base64"}, {"type": "base64", "data": 7}, {"type": "hologram", "data": "x"}):
        response = gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, {"type": "image", "source": source}))
        assert response.status_code == 400 and "messages[0].content[0]" in response.json()["error"]["message"]
    response = gateway.chat(CHAT.ask(gateway.model, {"type": "file", "file": {"file_id": "file-1"}}))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")


def test_too_many_and_too_large_are_refused(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(**SHIPPED, FILE_MAX_BYTES="20000")
    pictures = [CHAT.part(Sample("", "image/png", png(shade=n), is_image=True)) for n in range(200)]
    response = gateway.chat(CHAT.ask(gateway.model, *pictures))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "too_many_attachments")
    assert error["param"] == "messages[0].content[20]" and "MAX_ATTACHMENTS" in error["message"]
    # The same one any number of times is one.
    assert gateway.chat(CHAT.ask(gateway.model, *pictures[:1] * 50)).ok
    for dialect in DIALECTS.values():
        for size, status in ((20_000, 200), (20_001, 413)):
            sample = Sample("log.txt", "text/plain", b"x" * size)
            response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, dialect.part(sample)))
            assert response.status_code == status, response.text
        assert "has more than 20000 bytes (FILE_MAX_BYTES)" in response.json()["error"]["message"]


def part_with_url(dialect: Dialect, url: str) -> dict[str, Any]:
    """A document by its ``data:`` URL, in an API that takes its content elsewhere, too."""
    if dialect.path == "responses":
        return {"type": "input_file", "file_url": url}
    return {"type": "document", "source": {"type": "url", "url": url}}


def test_attachments_do_not_count_as_text(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(**SHIPPED, MAX_TEXT_CHARS="50000")
    sample = Sample("log.txt", "text/plain", b"line\n" * 30_000)
    for dialect in DIALECTS.values():
        response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, dialect.part(sample)))
        assert sample.digest in text_of(response, dialect)
        if dialect.path != "chat/completions":
            by_url = part_with_url(dialect, sample.url)
            response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, by_url))
            assert sample.digest in text_of(response, dialect)
        long = dialect.ask(gateway.model, dialect.part(sample), dialect.text("x" * 50_001))
        response = gateway.post(f"/v1/{dialect.path}", json=long)
        assert response.status_code == 400 and "MAX_TEXT_CHARS" in response.json()["error"]["message"]


def test_tokens_are_counted_without_sending_anything(gateway: Gateway, simulator: Simulator) -> None:
    body = {"model": gateway.model, "messages": [{"role": "user", "content": [MESSAGES.part(PNG)]}]}
    response = gateway.post("/v1/messages/count_tokens", json=body)
    assert response.ok and response.json()["input_tokens"] > 0
    assert simulator.state()["files"] == 0


def test_a_document_of_blocks_is_read_as_text_with_its_images(gateway: Gateway, simulator: Simulator) -> None:
    image = MESSAGES.part(PNG)
    blocks = [{"type": "text", "text": "First."}, image, {"type": "text", "text": "Second."}]
    document = {
        "type": "document",
        "title": "Two [pages]",
        "context": "From the archive.",
        "source": {"type": "content", "content": blocks},
    }
    response = gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, document))
    assert seen(text_of(response, MESSAGES)) == [PNG.unnamed]
    lines = ["[document: Two pages]", "From the archive.", "First.", mark(PNG), "Second.", "[end of the document]"]
    assert simulator.prompts() == ["\n".join([*lines, CANARY])]
    # The text alone, and in the result of a call.
    short = {"type": "document", "source": {"type": "content", "content": "All of it."}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [document, short]}]}
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]}
    asked = MESSAGES.body(gateway.model, {"role": "user", "content": CANARY}, use, result)
    assert gateway.post("/v1/messages", json=asked).ok
    prompt = simulator.prompts()[-1]
    for line in (*lines, "All of it."):
        assert line in prompt
    # A block that cannot be used is named by its place.
    for bad, place in (({"type": "image", "source": {}}, "[0]"), ({"type": "audio"}, "[0]"), ("x", "[0]")):
        broken = {"type": "document", "source": {"type": "content", "content": [bad]}}
        response = gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, broken))
        assert response.status_code == 400, response.text
        assert f"messages[0].content[0].source.content{place}" in response.json()["error"]["message"]


def test_a_search_result_is_read_as_text(gateway: Gateway, simulator: Simulator) -> None:
    texts = [{"type": "text", "text": "Oslo is the capital."}, {"type": "text", "text": "It has a fjord."}]
    found = {"type": "search_result", "title": "Norway", "source": "https://x.example/no", "content": texts}
    response = gateway.post("/v1/messages", json=MESSAGES.ask(gateway.model, found))
    assert response.ok and "x-ignored-params" not in response.headers
    lines = ["[search result: Norway, https://x.example/no]", "Oslo is the capital.", "It has a fjord."]
    assert simulator.prompts() == ["\n".join([*lines, "[end of the search result]", CANARY])]


IGNORED: dict[str, tuple[Dialect, dict[str, Any], str]] = {
    "citations of a document": (MESSAGES, {**MESSAGES.part(PDF), "citations": {"enabled": True}}, "citations"),
    "citations of a search result": (
        MESSAGES,
        {"type": "search_result", "title": "a", "source": "b", "content": [], "citations": {"enabled": True}},
        "citations",
    ),
    "transformations": (
        MESSAGES,
        {**MESSAGES.part(PNG), "transformations": {"resize": "none"}, "cache_control": {"type": "ephemeral"}},
        "transformations",
    ),
    "detail of an image": (
        CHAT,
        {"type": "image_url", "image_url": {"url": PNG.url, "detail": "low"}},
        "image_url.detail",
    ),
    "detail of an input image": (RESPONSES, {**RESPONSES.part(PNG), "detail": "low"}, "detail"),
    "detail of an input file": (RESPONSES, {**RESPONSES.part(PDF), "detail": "low"}, "detail"),
    "a second source": (
        CHAT,
        {"type": "file", "file": {"file_data": PDF.url, "file_id": "file-1", "filename": "a.pdf"}},
        "file.file_id",
    ),
    "a second source of an input file": (RESPONSES, {**RESPONSES.part(PDF), "file_id": "file-1"}, "file_id"),
}


@pytest.mark.parametrize("what", IGNORED)
def test_what_has_no_effect_beside_a_file_is_named(gateway: Gateway, what: str) -> None:
    dialect, part, field = IGNORED[what]
    begin = "input" if dialect is RESPONSES else "messages"
    response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, part))
    assert (response.status_code, response.headers.get("x-ignored-params")) == (200, f"{begin}[0].content[0].{field}")


@EACH_DIALECT
@pytest.mark.parametrize("detail", ["auto", "high", "original"])
def test_what_is_met_beside_a_file_is_not_named_and_not_refused(
    shared_gateway: Share, dialect: Dialect, detail: str
) -> None:
    """Each file is sent as it is: nobody gets less than these ask for."""
    gateway = shared_gateway(**SHIPPED, STRICT_PARAMS="1")
    part = dialect.part(PNG)
    if dialect is CHAT:
        part["image_url"]["detail"] = detail
    elif dialect is RESPONSES:
        part["detail"] = detail
    part |= {"cache_control": {"type": "ephemeral"}}
    response = gateway.post(f"/v1/{dialect.path}", json=dialect.ask(gateway.model, part))
    assert response.ok and "x-ignored-params" not in response.headers, response.text
