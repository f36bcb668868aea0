"""A plain relay from OpenAI's API to Kimi's, for the comparison with the gateway.

It is written like many projects today: FastAPI, one httpx client per call, events split at blank lines, a pydantic
model per chunk. It does the same work for an answer and no more: it creates a chat, streams the answer and deletes
the chat. It has one account and no conversations, heartbeats or limits.

    PORT=8010 UPSTREAM=http://127.0.0.1:8901 TOKEN=... python -m bench.relays.relay
"""

import json
import os
import time
import uuid
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

UPSTREAM = os.environ.get("UPSTREAM", "")
HEADERS = {"Authorization": f"Bearer {os.environ.get('TOKEN', '')}"}
TIMEOUT_S = 120.0
CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/Chat"
DELETE_CHAT = "/apiv2/kimi.chat.v1.ChatService/DeleteChat"


class Message(BaseModel):
    role: str
    content: str


class ChatRequest(BaseModel):
    model: str
    messages: list[Message]
    stream: bool = True


class Delta(BaseModel):
    role: str | None = None
    content: str | None = None


class Choice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: str | None = None


class Chunk(BaseModel):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[Choice]


app = FastAPI()


@app.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest) -> StreamingResponse:
    prompt = "\n".join(message.content for message in body.messages)
    texts = connect_texts(prompt) if body.model.startswith("kimi-") else sse_texts(prompt)
    return StreamingResponse(chunks(body.model, texts), media_type="text/event-stream")


async def chunks(model: str, texts: AsyncIterator[str]) -> AsyncIterator[str]:
    answer_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def chunk(delta: Delta, finish_reason: str | None = None) -> str:
        choices = [Choice(delta=delta, finish_reason=finish_reason)]
        whole = Chunk(id=answer_id, created=created, model=model, choices=choices)
        return f"data: {whole.model_dump_json(exclude_unset=True)}\n\n"

    yield chunk(Delta(role="assistant", content=""))
    async for text in texts:
        yield chunk(Delta(content=text))
    yield chunk(Delta(), "stop")
    yield "data: [DONE]\n\n"


async def sse_texts(prompt: str) -> AsyncIterator[str]:
    """Generation 1: REST, and JSON in server-sent events."""
    async with httpx.AsyncClient(base_url=UPSTREAM, headers=HEADERS, timeout=TIMEOUT_S) as client:
        created = await client.post("/api/chat", json={"name": "relay", "is_example": False})
    chat_id = created.json()["id"]
    body = {"model": "k2", "use_search": False, "messages": [{"role": "user", "content": prompt}], "refs": []}
    async with (
        httpx.AsyncClient(base_url=UPSTREAM, headers=HEADERS, timeout=TIMEOUT_S) as client,
        client.stream("POST", f"/api/chat/{chat_id}/completion/stream", json=body) as reply,
    ):
        buffer = ""
        async for text in reply.aiter_text():
            buffer += text
            while "\n\n" in buffer:
                event, buffer = buffer.split("\n\n", 1)
                frame = json.loads(event.removeprefix("data: "))
                if frame["event"] == "cmpl":
                    yield frame["text"]
    async with httpx.AsyncClient(base_url=UPSTREAM, headers=HEADERS, timeout=TIMEOUT_S) as client:
        await client.delete(f"/api/chat/{chat_id}")


async def connect_texts(prompt: str) -> AsyncIterator[str]:
    """Generation 2: Connect, JSON in envelopes of a flag byte and four bytes of length."""
    message = {"role": "user", "blocks": [{"text": {"content": prompt}}], "scenario": "SCENARIO_K2D5"}
    body = {"scenario": "SCENARIO_K2D5", "tools": [], "message": message, "options": {"thinking": False}}
    payload = json.dumps(body).encode()
    headers = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
    chat_id = ""
    async with (
        httpx.AsyncClient(base_url=UPSTREAM, headers=HEADERS, timeout=TIMEOUT_S) as client,
        client.stream(
            "POST", CHAT, content=b"\0" + len(payload).to_bytes(4, "big") + payload, headers=headers
        ) as reply,
    ):
        buffer = b""
        async for data in reply.aiter_bytes():
            buffer += data
            while len(buffer) >= 5 and len(buffer) >= 5 + int.from_bytes(buffer[1:5], "big"):
                end = 5 + int.from_bytes(buffer[1:5], "big")
                frame = json.loads(buffer[5:end] or b"{}")
                buffer = buffer[end:]
                chat_id = frame.get("chat", {}).get("id") or chat_id
                if frame.get("mask", "").startswith("block.text"):
                    yield frame["block"]["text"]["content"]
    async with httpx.AsyncClient(base_url=UPSTREAM, headers=HEADERS, timeout=TIMEOUT_S) as client:
        await client.post(DELETE_CHAT, json={"chat_id": chat_id})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), backlog=4096, log_level="warning")
