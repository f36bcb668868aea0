"""Which clients there are, and what each has to prove.

A row per client; its exercise is the folder of that name. A client that does not prove all that its row says has
failed, so an exercise cannot leave something out in silence.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Fact = Literal["text", "stream", "thinking", "usage", "error", "broken", "tools", "images", "documents", "chat"]
"""
text: the answer, exactly. stream: the same in several pieces, while they came. thinking: reasoning, apart from the
text. usage: token counts. error: a failure as the class or message that the client has for it, asked for once.
broken: a failure in mid-stream is one, and not an end. tools: functions are called and their results are used, over
two questions of one conversation, for each way in ``told.WAYS``. images, documents: one arrives at Kimi byte for
byte, by each form that the client has for it: inside the request, by an address, by an id, in the result of a call.
chat: in a window, a second question is asked, an answer is made again, and one is stopped, which ends it at Kimi too.
"""

FACTS: tuple[Fact, ...] = get_args(Fact)
_LIBRARY: frozenset[Fact] = frozenset(FACTS) - {"images", "documents", "chat"}
_FILES: frozenset[Fact] = frozenset({"images", "documents"})
_LAYER: frozenset[Fact] = frozenset({"text", "stream", "thinking", "usage", "error", "images"})
_WINDOW: frozenset[Fact] = frozenset({"text", "stream", "thinking", "error", "images", "chat"})
_AGENT: frozenset[Fact] = frozenset({"text", "tools"})


@dataclass(frozen=True)
class Client:
    """``title``: what people call it. ``heavy``: needs gigabytes. ``slow``: the run that is over in ten minutes has
    no time for it. ``keeps_chats``: it uses conversations.
    ``settings``: those of the gateway that docs/clients.md advises, as name and value.
    ``picture``: the name in docs/ of the picture that its exercise leaves in its home as picture.png.
    ``fetches``: the gateway fetches addresses, from the site of the runner.
    ``database``: the program gets an empty PostgreSQL database, at DATABASE_URL.
    ``needs``: the environment variables without which it is not run: the address of a program that already runs, or
    the folder of its source.
    ``users``: whose Kimi accounts the gateway has, with commas."""

    name: str
    title: str
    proves: frozenset[Fact]
    heavy: bool = False
    slow: bool = False
    keeps_chats: bool = False
    picture: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
    users: str = "alice,bob,carol"
    fetches: bool = False
    database: bool = False


# In the order of the table. The heaviest are started first.
CLIENTS = (
    Client("openai_python", "openai-python", _LIBRARY | _FILES, keeps_chats=True, fetches=True),
    Client("openai_node", "openai-node", _LIBRARY | _FILES, keeps_chats=True, fetches=True),
    Client("anthropic_python", "anthropic (Python)", _LIBRARY | _FILES, keeps_chats=True, fetches=True),
    Client("ai_sdk", "AI SDK", _LIBRARY | _FILES, keeps_chats=True, fetches=True),
    Client("langchain", "LangChain", (_LIBRARY | _FILES) - {"thinking"}, keeps_chats=True, fetches=True),
    Client("pydantic_ai", "pydantic-ai", _LIBRARY | _FILES, keeps_chats=True, fetches=True),
    Client("litellm", "LiteLLM", _LIBRARY, slow=True),
    Client("llama_index", "LlamaIndex", (_LIBRARY | _FILES) - {"thinking"}, slow=True, fetches=True),
    Client("llm", "llm", frozenset({"text", "stream", "usage", "error"})),
    Client("agents_sdk", "OpenAI Agents SDK", _AGENT, slow=True, keeps_chats=True),
    Client("aider", "aider", frozenset({"text", "error"})),
    Client(
        "codex",
        "Codex",
        frozenset({"text", "usage", "error", "tools"}),
        settings=(("CONTINUE_CHATS", "all"),),
    ),
    Client("claude_code", "Claude Code", frozenset({"text", "usage", "error", "tools"})),
    Client("opencode", "opencode", _AGENT),
    Client("cline", "Cline", frozenset({"text", "usage", "error", "tools"})),
    Client("chromium", "openai-node in Chromium", frozenset({"text", "stream", "error", "broken"})),
    Client(
        "open_webui",
        "Open WebUI in Chromium",
        _WINDOW | {"tools"},
        heavy=True,
        picture="open-webui.png",
        users="alice",
    ),
    Client(
        "nextchat",
        "NextChat in Chromium",
        _WINDOW,
        picture="nextchat.png",
        settings=(("MODEL_ALIASES", "k2-vl=k2"),),
        needs=("NEXTCHAT_URL",),
        users="alice",
    ),
    Client(
        "n8n",
        "n8n in Chromium",
        (_WINDOW - {"thinking"}) | {"tools"},
        heavy=True,
        keeps_chats=True,
        picture="n8n.png",
        users="alice",
        fetches=True,
        database=True,
    ),
    Client(
        "lobechat",
        "LobeChat in Chromium",
        _WINDOW - {"images"},
        heavy=True,
        picture="lobechat.png",
        needs=("LOBECHAT_URL",),
        users="alice",
    ),
    Client("continue_dev", "Continue (its provider layer)", _LAYER, slow=True, users="alice"),
    Client(
        "librechat",
        "LibreChat (its provider layer)",
        _LAYER - {"usage"},
        slow=True,
        keeps_chats=True,
        users="alice",
    ),
    Client("sillytavern", "SillyTavern in Chromium", _WINDOW - {"images"}, slow=True, users="alice"),
    Client("cherry", "Cherry Studio (its provider layer)", _LAYER, keeps_chats=True, users="alice"),
    Client(
        "chatbox",
        "Chatbox (its provider layer)",
        _LAYER - {"usage"},
        needs=("CHATBOX_SOURCE",),
        users="alice",
    ),
)
# By the seconds that they take, so that the longest is not the last one left.
FIRST = (
    "continue_dev",
    "sillytavern",
    "librechat",
    "cherry",
    "aider",
    "cline",
    "litellm",
    "llama_index",
    "langchain",
    "opencode",
    "codex",
    "claude_code",
)
