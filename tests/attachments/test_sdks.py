"""The vendors' own examples for images and documents, with their SDKs."""

import anthropic
import openai

from tests.attachments.samples import PDF, PNG, TEXT
from tests.running import CANARY, Gateway, Simulator


def test_openais_examples(gateway: Gateway, simulator: Simulator) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sdk", max_retries=0) as client:
        said = client.chat.completions.create(
            model=gateway.model,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": f"What is in this image? {CANARY}"},
                        {"type": "image_url", "image_url": {"url": PNG.url, "detail": "high"}},
                        {"type": "file", "file": {"filename": "report.pdf", "file_data": PDF.url}},
                    ],
                }
            ],
        )
        content = said.choices[0].message.content or ""
        assert PNG.digest in content and PDF.digest in content
        uploaded = client.files.create(file=("report.pdf", PDF.data), purpose="user_data")
        with client.responses.stream(
            model=gateway.model,
            store=False,
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_file", "file_id": uploaded.id},
                        {"type": "input_image", "image_url": PNG.url, "detail": "auto"},
                        {"type": "input_text", "text": f"What is in this file? {CANARY}"},
                    ],
                }
            ],
        ) as stream:
            text = stream.get_final_response().output_text
        assert PDF.digest in text and PNG.digest in text


def test_anthropics_examples(gateway: Gateway, simulator: Simulator) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key="sdk", max_retries=0) as client:
        said = client.messages.create(
            model=gateway.model,
            max_tokens=9999,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PNG.base64},
                        },
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": TEXT.data.decode()},
                            "title": "notes.txt",
                        },
                        {"type": "text", "text": f"Describe this image. {CANARY}"},
                    ],
                }
            ],
        )
        assert said.content[0].type == "text"
        assert PNG.digest in said.content[0].text and TEXT.digest in said.content[0].text
        uploaded = client.beta.files.upload(file=("report.pdf", PDF.data, "application/pdf"))
        beta = client.beta.messages.create(
            model=gateway.model,
            max_tokens=9999,
            betas=["files-api-2025-04-14"],
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "document", "source": {"type": "file", "file_id": uploaded.id}},
                        {"type": "text", "text": f"Summarise it. {CANARY}"},
                    ],
                }
            ],
        )
        assert beta.content[0].type == "text" and PDF.digest in beta.content[0].text
