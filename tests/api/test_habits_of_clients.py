"""What programs send that is not quite what an API says, and what becomes of it: one table for each kind."""

import gzip
import itertools
import json
import socket
import zlib
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
import requests

from app.web.json_bytes import TooLarge, decompressed, with_whole_pairs
from tests.running import CANARY, Gateway, Share, Simulator
from tests.running.each_case import check_rows

JSON = {"Content-Type": "application/json"}


def body(gateway: Gateway, **more: Any) -> dict[str, Any]:
    return {"model": gateway.model, "messages": [{"role": "user", "content": f"hi {CANARY}"}], **more}


def error_of(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


# Is this request from this machine?

FOREIGN: dict[str, dict[str, str]] = {
    "rfc 7239": {"Forwarded": "for=203.0.113.9"},
    "apache, caddy, haproxy": {"X-Forwarded-For": "203.0.113.9"},
    "a proxy for this machine": {"X-Forwarded-For": "127.0.0.1"},
    "the scheme only": {"X-Forwarded-Proto": "https"},
    "the host only": {"X-Forwarded-Host": "chat.example.com"},
    "nginx, as copied from the web": {"X-Real-IP": "203.0.113.9"},
    "a cache": {"Via": "1.1 varnish"},
    "cloudflare": {"CF-Connecting-IP": "203.0.113.9"},
    "akamai": {"True-Client-IP": "203.0.113.9"},
    "envoy": {"X-Envoy-External-Address": "203.0.113.9"},
    "azure": {"X-Azure-ClientIP": "203.0.113.9"},
    "tailscale": {"Tailscale-User-Login": "someone"},
    "a cdn": {"CDN-Loop": "cloudflare"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=list(FOREIGN))
def test_what_a_proxy_writes_makes_a_request_foreign(gateway: Gateway, headers: dict[str, str]) -> None:
    refused = gateway.get("/v1/models", headers=headers)
    message = error_of(refused)["message"]
    assert refused.status_code == 401 and "GATEWAY_API_KEYS" in message
    assert next(iter(headers)).lower() in message.lower()


def test_a_bare_proxy_is_known_by_its_version_of_http(gateway: Gateway) -> None:
    """What nginx's ``proxy_pass`` sends without any further line."""
    answer = raw(gateway, b"GET /v1/models HTTP/1.0\r\nHost: 127.0.0.1:8000\r\nConnection: close\r\n\r\n")
    assert b" 401 " in answer.split(b"\r\n")[0] and b"HTTP/1.0" in answer


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP-Referer": "https://cherry-ai.com", "X-Title": "Cherry Studio"},
        {"X-Request-Id": "a", "X-Session-Id": "b", "X-Stainless-Lang": "js"},
        {"Origin": "http://localhost:3000", "Referer": "http://localhost:3000/"},
        {"Host": "[::1]:8000"},
        {"Accept-Encoding": "gzip", "Priority": "u=1"},
    ],
)
def test_what_programs_write_does_not(gateway: Gateway, headers: dict[str, str]) -> None:
    assert gateway.get("/v1/models", headers=headers).ok


@pytest.mark.parametrize("origin", ["chrome-extension://abcdefghij", "moz-extension://0a-1b", "https://chat.example"])
def test_the_origin_of_an_extension_is_named_with_the_setting_that_lets_it_in(gateway: Gateway, origin: str) -> None:
    message = error_of(gateway.get("/v1/models", headers={"Origin": origin}))["message"]
    assert origin in message and "CORS_ORIGINS" in message


def raw(gateway: Gateway, request: bytes) -> bytes:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


# Which of several keys

KEYS: dict[str, tuple[dict[str, str], int]] = {
    "a proxy's bearer": ({"Authorization": "Bearer theirs", "x-api-key": "key-one"}, 200),
    "azure's name": ({"Authorization": "Bearer theirs", "api-key": "key-one"}, 200),
    "two foreign ones": ({"Authorization": "Bearer theirs", "x-api-key": "theirs-too"}, 401),
    "the bearer is ours": ({"Authorization": "Bearer key-one", "x-api-key": "theirs"}, 200),
    "three": ({"Authorization": "Bearer a", "x-api-key": "b", "api-key": "key-one"}, 200),
}


def test_a_right_key_counts_beside_a_wrong_one(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(GATEWAY_API_KEYS="key-one, key-two")
    for name, (headers, status) in KEYS.items():
        assert gateway.get("/v1/models", headers=headers).status_code == status, name


# Models for Anthropic's clients


def test_anthropics_clients_get_the_models_in_their_shape(gateway: Gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0)
    listed = [model.id for model in client.models.list(limit=3)]
    assert listed == [model["id"] for model in gateway.get("/v1/models").json()["data"]] and len(listed) > 3
    assert client.models.retrieve(gateway.model).display_name
    before = client.models.list(before_id=listed[3], limit=2)
    assert [model.id for model in before.data] == listed[1:3] and before.has_more
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.models.retrieve("nobody")
    assert unknown.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]  # its type is object
    for arguments in ({"limit": "0"}, {"limit": "x"}, {"after_id": "nobody"}):
        headers = {"anthropic-version": "2023-06-01"}
        wrong = requests.get(f"{gateway.url}/v1/models", params=arguments, headers=headers, timeout=60)
        assert (wrong.status_code, error_of(wrong)["type"]) == (400, "invalid_request_error")


# Placeholders of optional ids

PLACEHOLDERS = ["none", "None", "null", "undefined", "NaN", "nil"]


@pytest.mark.parametrize("word", PLACEHOLDERS)
def test_a_placeholder_is_no_conversation(gateway: Gateway, simulator: Simulator, word: str) -> None:
    answers = [
        gateway.post("/v1/chat/completions", json=body(gateway, conversation_id=word)),
        gateway.post(f"/v1/chat/completions/{word}", json=body(gateway)),
        gateway.post(f"/v1/conversations/{word}/chat/completions", json=body(gateway)),
        gateway.post("/v1/completions", json={"model": gateway.model, "prompt": "hi", "conversation_id": word}),
        gateway.post("/v1/responses", json={"model": gateway.model, "input": "hi", "conversation": word}),
    ]
    for answer in answers:
        assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_conversation_id")
        assert "choose an id yourself" in error_of(answer)["message"]
    repeated = gateway.post("/v1/chat/completions", json=body(gateway), headers={"Idempotency-Key": word})
    assert (repeated.status_code, error_of(repeated)["code"]) == (400, "invalid_idempotency_key")
    assert not simulator.turns()


def test_a_response_that_follows_nothing_may_say_so(gateway: Gateway, simulator: Simulator) -> None:
    for empty in ("", None):
        answer = {"model": gateway.model, "input": "hi", "store": False, "previous_response_id": empty}
        assert gateway.post("/v1/responses", json=answer).ok
    for word in PLACEHOLDERS:
        wrong = gateway.post(
            "/v1/responses", json={"model": gateway.model, "input": "hi", "previous_response_id": word}
        )
        assert (wrong.status_code, error_of(wrong)["code"]) == (404, "previous_response_not_found")
        assert "leave it out" in error_of(wrong)["message"]


def test_the_id_of_a_reply_is_no_conversation(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.post("/v1/responses", json={"model": gateway.model, "input": "hi"}).json()["id"]
    ids = [
        gateway.post("/v1/chat/completions", json=body(gateway)).json()["id"],
        gateway.post("/v1/completions", json={"model": gateway.model, "prompt": "hi"}).json()["id"],
        gateway.post("/v1/messages", json=body(gateway, max_tokens=9)).json()["id"],
        response,
    ]
    asked = len(simulator.turns())
    for reply in ids:
        for answer in (
            gateway.post(f"/v1/chat/completions/{reply}", json=body(gateway)),
            gateway.post("/v1/chat/completions", json=body(gateway, conversation_id=reply)),
            gateway.get(f"/v1/chat/completions/{reply}"),
        ):
            assert (answer.status_code, error_of(answer)["code"]) == (404, "conversation_not_found")
            assert "the id of a reply" in error_of(answer)["message"]
    assert "its conversation is" in error_of(gateway.get(f"/v1/chat/completions/{response}"))["message"]
    assert len(simulator.turns()) == asked


# The rest of an endpoint in a base URL

DOUBLED = [
    "/v1/chat/completions/chat/completions",
    "/v1/chat/completions/v1/chat/completions",
    "/chat/completions/chat/completions",
    "/v1/chat/completions/completions",
    "/v1/chat/completions/chat",
    "/v1/chat/completions/models",
    "/v1/chat/completions/responses",
    "/v1/completions/chat/completions",
    "/v1/responses/chat/completions",
    "/v1/responses/responses",
    "/v1/models/chat/completions",
    "/v1/messages/v1/messages",
    "/v1/messages/messages",
]


@pytest.mark.parametrize("path", DOUBLED)
def test_an_endpoint_behind_an_endpoint_says_which_base_url_to_set(
    gateway: Gateway, simulator: Simulator, path: str
) -> None:
    for answer in (gateway.post(path, json=body(gateway)), gateway.get(path)):
        assert answer.status_code == 404
        assert f"set it to {gateway.url}/v1" in error_of(answer)["message"]
    assert not simulator.turns()


# Bytes that are no JSON

COMPRESSED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without its head": ("deflate", lambda data: zlib.compress(data)[2:-4]),
    "twice": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "identity": ("identity", lambda data: data),
}


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSED.values(), ids=list(COMPRESSED))
def test_a_compressed_body_is_read(
    gateway: Gateway, simulator: Simulator, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    for filler in ("", "x" * 200_000):
        data = compress(json.dumps(body(gateway, filler=filler)).encode())
        answer = gateway.post("/v1/chat/completions", data=data, headers={**JSON, "Content-Encoding": encoding})
        assert answer.ok, answer.text


WRONG_BYTES: dict[str, tuple[dict[str, str], Callable[[bytes], bytes], str]] = {
    "brotli": ({"Content-Encoding": "br"}, bytes, "'br'"),
    "zstd": ({"Content-Encoding": "zstd"}, bytes, "'zstd'"),
    "gzip that is none": ({"Content-Encoding": "gzip"}, bytes, "cannot be decompressed"),
    "gzip that is cut off": ({"Content-Encoding": "gzip"}, lambda d: gzip.compress(d)[:-12], "cut off"),
    "gzip without a word": ({}, gzip.compress, "compressed (gzip)"),
    "gbk": ({}, lambda d: d.replace(b"hi", "你好".encode("gbk")), "0xc4) is not UTF-8"),
    "latin-1": ({}, lambda d: d.replace(b"hi", b"h\xe9"), "0xe9) is not UTF-8"),
    "utf-16 without a mark": ({}, lambda d: d.decode().encode("utf-16-le"), "UTF-16"),
    "a charset that is none": ({"Content-Type": "application/json; charset=klingon"}, bytes, "'klingon'"),
    "a charset that does not hold": (
        {"Content-Type": "application/json; charset=ascii"},
        lambda d: d.replace(b"hi", "é".encode()),
        "not in ascii",
    ),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, lambda _d: b"model=k2", "a form"),
    "a form of parts": (
        {"Content-Type": "multipart/form-data; boundary=x"},
        lambda _d: b"--x",
        "multipart/form-data",
    ),
    "nothing": ({}, lambda _d: b"", "empty"),
    "quotes of a shell": ({}, lambda d: b"'" + d + b"'", "single quote"),
    "cut off": ({}, lambda d: d[:-5], "line 1 column"),
}


@pytest.mark.parametrize(("headers", "spoil", "says"), WRONG_BYTES.values(), ids=list(WRONG_BYTES))
def test_bytes_that_are_no_json_are_told_why(
    gateway: Gateway, simulator: Simulator, headers: dict[str, str], spoil: Callable[[bytes], bytes], says: str
) -> None:
    data = spoil(json.dumps(body(gateway)).encode())
    for path in ("/v1/chat/completions", "/v1/messages"):
        answer = gateway.post(path, data=data, headers={**JSON, **headers})
        assert answer.status_code == 400 and says in error_of(answer)["message"], answer.text
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("charset", "encoding"), [("gbk", "gbk"), ("UTF-16", "utf-16"), ("utf-8", "utf-8-sig"), ("iso-8859-1", "latin-1")]
)
def test_a_body_in_the_charset_that_it_names_is_read(
    gateway: Gateway, simulator: Simulator, charset: str, encoding: str
) -> None:
    text = "é" if encoding == "latin-1" else "你好"
    message = {"role": "user", "content": text}
    data = json.dumps({"model": gateway.model, "messages": [message]}, ensure_ascii=False).encode(encoding)
    headers = {"Content-Type": f"application/json; charset={charset}"}
    assert gateway.post("/v1/chat/completions", data=data, headers=headers).ok
    assert simulator.prompts()[-1].startswith(text)


def test_a_body_that_grows_too_large_is_a_413(gateway: Gateway, simulator: Simulator) -> None:
    data = gzip.compress(b" " * 17_000_000)
    answer = gateway.post("/v1/chat/completions", data=data, headers={**JSON, "Content-Encoding": "gzip"})
    assert answer.status_code == 413 and "MAX_BODY_BYTES" in error_of(answer)["message"]
    with pytest.raises(TooLarge):
        decompressed(data, "gzip", 1_000_000, lambda _size: None)


# Fields with several forms

FORMS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "content": ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", ("string", "list")),
    "stop": ({"stop": 7}, "stop", ("string", "list")),
    "thinking": ({"thinking": "yes"}, "thinking", ("boolean", "object")),
    "function_call": ({"function_call": 7}, "function_call", ("'auto' or 'none'", "object")),
    "response_format": ({"response_format": 7}, "response_format", ("object",)),
}


@pytest.mark.parametrize(("wrong", "param", "names"), FORMS.values(), ids=list(FORMS))
def test_an_error_names_every_form_that_a_field_may_have(
    gateway: Gateway, wrong: dict[str, Any], param: str, names: tuple[str, ...]
) -> None:
    error = error_of(gateway.post("/v1/chat/completions", json=body(gateway) | wrong))
    assert error["param"] == param
    assert all(name in error["message"] for name in names), error["message"]
    # Names of classes of ours begin so.
    assert " _" not in error["message"]


# Half a surrogate pair

HALVES = {
    "a high one": rb"x \ud83d",
    "a low one": rb"x \uDE00",
    "two high ones": rb"x \ud83d\ud83d",
    "behind a backslash": rb"x \\\ud83d",
    "as bytes": b"x \xed\xa0\xbd",
}


BODIES_WITH_A_HALF = {
    "chat": ("/v1/chat/completions", b'{"model":"MODEL","messages":[{"role":"user","content":"HALF"}]}'),
    "completions": ("/v1/completions", b'{"model":"MODEL","prompt":"HALF"}'),
    "responses": ("/v1/responses", b'{"model":"MODEL","store":false,"input":"HALF"}'),
    "messages": ("/v1/messages", b'{"model":"MODEL","max_tokens":9,"messages":[{"role":"user","content":"HALF"}]}'),
    "count_tokens": (
        "/v1/messages/count_tokens",
        b'{"model":"MODEL","messages":[{"role":"user","content":"HALF"}]}',
    ),
    "another field": (
        "/v1/chat/completions",
        b'{"model":"MODEL","user":"HALF","messages":[{"role":"user","content":"x"}]}',
    ),
}


def test_half_a_surrogate_pair_is_a_replacement_character(gateway: Gateway, simulator: Simulator) -> None:
    def check(half: str, name: str) -> None:
        path, data = BODIES_WITH_A_HALF[name]
        data = data.replace(b"MODEL", gateway.model.encode()).replace(b"HALF", HALVES[half])
        prompts = len(simulator.prompts())
        answer = gateway.post(path, data=data, headers=JSON)
        assert answer.ok, answer.text
        if name not in ("count_tokens", "another field"):
            (prompt,) = simulator.prompts()[prompts:]
            assert prompt.startswith("x ") and "\ufffd" in prompt

    check_rows(itertools.product(HALVES, BODIES_WITH_A_HALF), check)


def test_whole_pairs_and_other_escapes_stay_as_they_are() -> None:
    whole = rb'{"a":"\ud83d\ude00 \\ud83d \u00e9 \" \n \\\\"}' + "😀가".encode()
    assert with_whole_pairs(whole) == whole
    assert with_whole_pairs(rb'"\\\ud83d"') == rb'"\\\ufffd"'
    assert with_whole_pairs(b'"\xed\xa0\xbd\xed\xb8\x80"') == '"😀"'.encode()


# Numbers and words that other servers take

WORDS: dict[str, dict[str, Any]] = {
    "an effort that is empty": {"reasoning_effort": ""},
    "an effort that is auto": {"reasoning_effort": "auto"},
    "an effort in capitals": {"reasoning_effort": "High"},
    "openrouter's effort": {"reasoning": {"effort": "auto"}},
    "no limit": {"max_tokens": -1},
    "a limit as a fraction": {"max_tokens": 1024.0},
    "the newer name": {"max_completion_tokens": 1024.0},
    "a seed as a fraction": {"seed": 7.0},
    "n as a fraction": {"n": 1.0},
}


@pytest.mark.parametrize("more", WORDS.values(), ids=list(WORDS))
def test_words_and_numbers_of_other_servers_are_understood(
    gateway: Gateway, simulator: Simulator, more: dict[str, Any]
) -> None:
    assert gateway.post("/v1/chat/completions", json=body(gateway, **more)).ok


def test_the_same_holds_in_the_other_apis(gateway: Gateway, simulator: Simulator) -> None:
    more: dict[str, Any]
    responses = {"model": gateway.model, "input": "hi", "store": False}
    for more in ({"max_output_tokens": -1}, {"max_output_tokens": 9.0}, {"reasoning": {"effort": "auto"}}):
        assert gateway.post("/v1/responses", json=responses | more).ok, more
    for more in ({"max_tokens": 9.0}, {"max_tokens": 9, "output_config": {"effort": "auto"}}):
        assert gateway.post("/v1/messages", json=body(gateway) | more).ok, more
    prompt = {"model": gateway.model, "prompt": "hi"}
    assert gateway.post("/v1/completions", json=prompt | {"max_tokens": -1}).ok


@pytest.mark.parametrize("more", [{"max_tokens": 0}, {"max_tokens": -2}, {"max_tokens": 1.5}, {"max_tokens": True}])
def test_other_limits_stay_errors(gateway: Gateway, more: dict[str, Any]) -> None:
    error = error_of(gateway.post("/v1/chat/completions", json=body(gateway) | more))
    assert error["param"] == "max_tokens"


# What programs replay as history

ITEMS: dict[str, tuple[dict[str, Any], str | None]] = {
    "codex's thoughts": ({"type": "agent_reasoning", "text": "hm hm"}, None),
    "codex's words": ({"type": "agent_message", "text": "It was Paris"}, "It was Paris"),
    "parts": ({"type": "agent_message", "content": [{"type": "x", "text": "It was Paris"}]}, "It was Paris"),
    "a call of a server": ({"type": "mcp_call", "id": "a", "name": "b", "arguments": "{}"}, None),
    "a file search": ({"type": "file_search_call", "id": "a", "queries": []}, None),
    "a note of a user": ({"type": "note", "role": "user", "content": "Be kind"}, "Be kind"),
}


@pytest.mark.parametrize(("item", "read"), ITEMS.values(), ids=list(ITEMS))
def test_the_text_of_an_unknown_item_is_read_and_the_rest_is_named(
    gateway: Gateway, shared_gateway: Share, simulator: Simulator, item: dict[str, Any], read: str | None
) -> None:
    asked = {"role": "user", "content": "And now?"}
    body = {"model": gateway.model, "store": False, "input": [asked, item, asked]}
    answer = gateway.post("/v1/responses", json=body)
    assert answer.ok and answer.headers.get("x-ignored-params") == (None if read else "input[1]")
    assert read is None or read in simulator.prompts()[-1]
    strict = shared_gateway(STRICT_PARAMS="1").post("/v1/responses", json=body)
    assert strict.ok if read else (strict.status_code == 400 and "input[1]" in error_of(strict)["message"])


# The role of a message, a part of it, the status, and what is read of it.
PARTS: dict[str, tuple[str, dict[str, Any], int, str | None]] = {
    "thoughts": ("assistant", {"type": "thinking", "thinking": "hm hm"}, 200, None),
    "thoughts as text": ("assistant", {"type": "reasoning", "text": "hm hm"}, 200, None),
    "a call": ("assistant", {"type": "tool-call", "toolName": "a", "args": {}}, 200, None),
    "words": ("assistant", {"type": "markdown", "text": "It was Paris"}, 200, "It was Paris"),
    "words of a user": ("user", {"type": "quote", "text": "It was Paris"}, 200, "It was Paris"),
    "words of a system": ("system", {"type": "memory", "text": "It was Paris"}, 200, "It was Paris"),
    "a place": ("user", {"type": "location", "latitude": 1}, 400, None),
    "a sound": ("user", {"type": "input_audio", "input_audio": {}}, 400, None),
}


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
@pytest.mark.parametrize(("role", "part", "status", "read"), PARTS.values(), ids=list(PARTS))
def test_an_unknown_part_is_refused_only_where_something_would_be_lost(
    gateway: Gateway,
    shared_gateway: Share,
    simulator: Simulator,
    path: str,
    role: str,
    part: dict[str, Any],
    status: int,
    read: str | None,
) -> None:
    field = "input" if path == "responses" else "messages"
    text = {"type": "text", "text": "so"}
    asked = {"role": "user", "content": "And now?"}
    said = [asked, {"role": role, "content": [text, part]}, asked]
    body: dict[str, Any] = {"model": gateway.model, field: said}
    if path == "responses":
        body["store"] = False
    place = f"{field}[1].content[1]"
    answer = gateway.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    strict = shared_gateway(STRICT_PARAMS="1").post(f"/v1/{path}", json=body)
    if status == 200:
        assert answer.headers.get("x-ignored-params") == (None if read else place)
        assert (read or "so") in simulator.prompts()[-1] and "hm hm" not in simulator.prompts()[-1]
        assert strict.ok if read else (strict.status_code == 400 and place in error_of(strict)["message"])
    else:
        assert place in error_of(answer)["message"] and strict.status_code == 400


BLOCKS: dict[str, tuple[str, dict[str, Any], int, str | None]] = {
    "a search": ("assistant", {"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}, 200, None),
    "its results": ("assistant", {"type": "web_search_tool_result", "tool_use_id": "a", "content": []}, 200, None),
    "a call of a server": ("assistant", {"type": "mcp_tool_use", "id": "a", "name": "b", "input": {}}, 200, None),
    "thoughts of another": ("assistant", {"type": "reasoning", "text": "hm hm"}, 200, None),
    "words": ("assistant", {"type": "summary", "text": "It was Paris"}, 200, "It was Paris"),
    "a sound": ("user", {"type": "audio", "source": {}}, 400, None),
    "words of a user": ("user", {"type": "quote", "text": "It was Paris"}, 200, "It was Paris"),
}


@pytest.mark.parametrize(("role", "block", "status", "read"), BLOCKS.values(), ids=list(BLOCKS))
def test_an_unknown_block_is_refused_only_where_something_would_be_lost(
    gateway: Gateway, simulator: Simulator, role: str, block: dict[str, Any], status: int, read: str | None
) -> None:
    text = {"type": "text", "text": "so"}
    said = [
        {"role": "user", "content": "a"},
        {"role": role, "content": [text, block]},
        {"role": "user", "content": "b"},
    ]
    answer = gateway.post("/v1/messages", json={"model": gateway.model, "max_tokens": 99, "messages": said})
    assert answer.status_code == status, answer.text
    if status == 200:
        named = answer.headers.get("x-ignored-params")
        assert named == (None if read else "messages[1].content[1]")
        assert read is None or read in simulator.prompts()[-1]
    else:
        assert "messages[1].content[1]" in error_of(answer)["message"]


# A final message of the assistant

CONTINUES = "Continue it from its last character"


def test_kimi_is_asked_to_continue_a_final_message_of_the_assistant(gateway: Gateway, simulator: Simulator) -> None:
    question, begun = {"role": "user", "content": "Name a city"}, {"role": "assistant", "content": "The city of"}
    tool = {"name": "f", "description": "", "parameters": {"type": "object"}}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("chat/completions", {"messages": [question, begun]}),
        ("chat/completions", {"messages": [question, begun | {"partial": True}], "stream": True}),
        ("chat/completions", {"messages": [question, begun], "tools": [{"type": "function", "function": tool}]}),
        ("messages", {"messages": [question, begun], "max_tokens": 99}),
        ("messages", {"messages": [question, {**begun, "content": [{"type": "text", "text": "The city of"}]}]}),
        ("responses", {"input": [question, begun], "store": False}),
    ]
    for path, more in requests:
        if path == "messages":
            more = {"max_tokens": 99, **more}
        answer = gateway.post(f"/v1/{path}", json={"model": gateway.model, **more})
        assert answer.ok and "x-ignored-params" not in answer.headers, answer.text
        prompt = simulator.prompts()[-1]
        assert CONTINUES in prompt and "The city of" in prompt, path


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": []},
        {"role": "user", "content": "and now?"},
    ],
)
def test_an_empty_one_is_a_place_for_the_answer(gateway: Gateway, simulator: Simulator, last: dict[str, Any]) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert gateway.post("/v1/chat/completions", json={"model": gateway.model, "messages": [*said, last]}).ok
    assert CONTINUES not in simulator.prompts()[-1]


def test_in_a_conversation_it_is_a_400_that_says_so(gateway: Gateway, simulator: Simulator, name: str) -> None:
    assert gateway.say("one", name).ok
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "The city of"}]
    error = error_of(gateway.chat({"model": gateway.model, "messages": said}, name))
    assert error["param"] == "messages" and "ask for it in a message" in error["message"]
