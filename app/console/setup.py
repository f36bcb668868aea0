"""The page Set up: what to write into which client, with the real address of this gateway."""

from dataclasses import dataclass

from flask import Blueprint
from werkzeug.wrappers import Response as BaseResponse

from app.console.page import base_url, console, page, store

blueprint = Blueprint("setup", __name__)

PLACEHOLDER = "your-key"


@dataclass(frozen=True, slots=True)
class Client:
    """How one client is set up. ``id``: of its hint in ``words``. ``code``: to be copied as it is. ``is_tested``:
    ``make clients`` has shown that it works (docs/clients-tested.md)."""

    id: str
    name: str
    code: str
    is_tested: bool = True


def clients(base: str, key: str) -> list[Client]:
    """``base``: the address of the gateway without /v1. ``key``: an API key, or PLACEHOLDER."""
    return [
        Client("curl", "curl", _CURL.format(base=base, key=key)),
        Client("openai", "OpenAI SDK (Python)", _OPENAI.format(base=base, key=key)),
        Client("open_webui", "Open WebUI", _OPEN_WEBUI.format(base=base, key=key)),
        Client("codex", "Codex", _CODEX.format(base=base)),
        Client("claude_code", "Claude Code", _CLAUDE_CODE.format(base=base, key=key)),
        Client("cline", "Cline", _CLINE.format(base=base, key=key)),
        Client("nextchat", "NextChat", f"{base}", is_tested=False),
        Client("lobechat", "LobeChat", f"{base}/v1", is_tested=False),
        Client("others", "Cherry Studio, Chatbox, …", f"{base}/v1", is_tested=False),
    ]


@blueprint.get("/setup")
def show() -> BaseResponse:
    has_keys = bool(console().services.config.api_keys or store().keys.all())
    base = base_url()
    return page("setup.html", base=base, clients=clients(base, PLACEHOLDER), has_keys=has_keys)


_CURL = """\
curl -N {base}/v1/chat/completions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "k2", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'"""

_OPENAI = """\
from openai import OpenAI

client = OpenAI(base_url="{base}/v1", api_key="{key}")
answer = client.chat.completions.create(model="k2", messages=[{{"role": "user", "content": "Hello!"}}])
print(answer.choices[0].message.content)"""

_OPEN_WEBUI = """\
OPENAI_API_BASE_URL={base}/v1
OPENAI_API_KEY={key}
ENABLE_TITLE_GENERATION=false
ENABLE_TAGS_GENERATION=false
ENABLE_FOLLOW_UP_GENERATION=false"""

_CODEX = """\
model = "k2"
model_provider = "kimi"

[model_providers.kimi]
name = "kimi"
base_url = "{base}/v1"
env_key = "KIMI_GATEWAY_KEY"
wire_api = "responses"
stream_max_retries = 1
request_max_retries = 1"""

_CLAUDE_CODE = """\
export ANTHROPIC_BASE_URL={base}
export ANTHROPIC_API_KEY={key}
export ANTHROPIC_MODEL=k2
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
claude"""

_CLINE = """\
cline auth -p openai-compatible -k {key} -m k2-nosearch -b {base}/v1
cline -P openai-compatible "your task\""""
