"""All settings: the environment variables and what each means, in one table.

Only this file reads the environment and ``.env``. gunicorn's master loads it, so it must not import anything that
gevent has to patch first.
"""

import functools
import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from app.settings import parsers
from app.settings.credentials import Credential, CredentialError, parse_credentials
from app.settings.model_aliases import ModelAlias, parse_aliases
from app.settings.parsers import ApiKey, Parser
from app.settings.sites import KIMI_COM, Site, site_at

Language = Literal["en", "zh"]

ContinueChats = Literal["0", "1", "all"]

# ``app.chat.CitationStyle``. gunicorn's master loads this file, and has no other use for that one.
Citations = Literal["annotations", "markdown", "both", "off"]


class ConfigError(Exception):
    """A setting that cannot be used. The text is one line: its name, what is wrong, the accepted form."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table."""

    name: str
    """The environment variable."""
    parser: Parser
    default: str
    about: str
    about_zh: str
    is_secret: bool
    """The value is never shown."""
    is_advanced: bool
    """The default suits everybody; tests and rare cases need another value."""


def _setting(
    name: str,
    parser: Parser | Callable[[str], Any],
    default: str,
    about: str,
    about_zh: str,
    *,
    secret: bool = False,
    advanced: bool = False,
) -> Any:
    if not isinstance(parser, Parser):
        parser = Parser(parser)
    setting = Setting(name, parser, default, about, about_zh, is_secret=secret, is_advanced=advanced)
    return field(repr=not secret, metadata={"setting": setting})


@dataclass(frozen=True, slots=True)
class Config:
    """The values of all settings, made by ``Config.from_env``."""

    credentials: tuple[Credential, ...] = _setting(
        "KIMI_TOKENS",
        lambda text: parse_credentials(text) if text else (),
        "",
        "Kimi tokens (best: refresh tokens), comma-separated. `name=token` gives an account a name. `token@kimi.ai` "
        "or `token@kimi.com` says at which site the account lives, if its token does not. Accounts can also be added "
        "while the gateway runs: `flask --app wsgi accounts add`.",
        "Kimi token（最好是 refresh token），用逗号分隔。`名字=token` 给账号起名；token 本身没有写明站点时，"
        "用 `token@kimi.ai` 或 `token@kimi.com` 指明。也可以在网关运行时添加账号：`flask --app wsgi accounts add`。",
        secret=True,
    )
    api_keys: tuple[ApiKey, ...] = _setting(
        "GATEWAY_API_KEYS",
        parsers.api_keys,
        "",
        "API keys that clients must send, comma-separated. `name=key` gives a key a name. If unset, and if no key "
        "was added with `flask --app wsgi keys add`, any key is accepted, but only from this machine.",
        "客户端必须携带的 API key，用逗号分隔。`名字=key` 给 key 起名。不设置、也没有用 `flask --app wsgi keys add` "
        "添加过 key 时，接受任何 key，但只限本机。",
        secret=True,
    )
    host: str = _setting(
        "HOST",
        parsers.host,
        "127.0.0.1",
        "Address that gunicorn listens on. An address that other machines can reach requires `GATEWAY_API_KEYS`.",
        "gunicorn 的监听地址。监听其他机器能访问的地址时，必须设置 `GATEWAY_API_KEYS`。",
    )
    port: int = _setting(
        "PORT", parsers.integer(0, 65535), "8000", "Port that gunicorn listens on.", "gunicorn 的监听端口。"
    )
    console: bool = _setting(
        "CONSOLE",
        parsers.switch(),
        "1",
        "`0` switches the console off: the pages under `/console` where the owner sees and changes accounts, keys "
        "and conversations. Nobody can enter it without a link from `flask --app wsgi console-link`.",
        "设为 `0` 关闭控制台，即 `/console` 下供主人查看和管理账号、key、对话的网页。"
        "没有 `flask --app wsgi console-link` 给出的链接，谁也进不去。",
        advanced=True,
    )
    console_url: str = _setting(
        "CONSOLE_URL",
        parsers.console_url,
        "",
        "The address of the console where it is not used on this machine only, such as "
        "`https://kimi.example.org/console`. If unset, only this machine reaches it.",
        "不只在本机使用控制台时，它的地址，例如 `https://kimi.example.org/console`。不设置时，只有本机能打开。",
    )
    workers: int = _setting(
        "WEB_CONCURRENCY",
        parsers.integer(1, 256),
        "2",
        "Number of gunicorn worker processes. One per core is enough.",
        "gunicorn 工作进程数。每个 CPU 核心一个就够了。",
    )
    database_url: str = _setting(
        "DATABASE_URL",
        parsers.database_url,
        "sqlite:///data/gateway.db",
        "Database for conversations and renewed tokens: a SQLite file, or "
        "`postgresql+psycopg://user:password@host/database`, which several gateways can share.",
        "存放对话记录和续期后的 token 的数据库：SQLite 文件，或 "
        "`postgresql+psycopg://user:password@host/database`（可供多个网关共用）。",
        secret=True,
    )
    kimi_base_url: str = _setting(
        "KIMI_BASE_URL",
        lambda text: parsers.http_url(text) if text else "",
        "",
        "The Kimi site of all accounts, apart from those whose entry in `KIMI_TOKENS` names another one. If unset, "
        "each account uses the site that issued its token: `https://www.kimi.com` or `https://www.kimi.ai`.",
        "所有账号使用的 Kimi 站点（在 `KIMI_TOKENS` 里指明了站点的账号除外）。不设置时，每个账号使用签发其 token "
        "的站点：`https://www.kimi.com` 或 `https://www.kimi.ai`。",
    )
    kimi_auth_url: str = _setting(
        "KIMI_AUTH_URL",
        lambda text: parsers.http_url(text) if text else "",
        "",
        "The site that renews the tokens of all accounts. If unset, it follows from the site of each account: "
        "`https://auth.kimi.ai` for kimi.ai, else `https://auth.kimi.com`.",
        "给所有账号的 token 续期的站点。不设置时由各账号的站点决定：kimi.ai 用 `https://auth.kimi.ai`，"
        "其他用 `https://auth.kimi.com`。",
        advanced=True,
    )
    kimi_proxy: str = _setting(
        "KIMI_PROXY",
        parsers.proxy_url,
        "",
        "Proxy for all requests to Kimi, `http://user:password@host:port`, `https://`, `socks5://` or `socks5h://` "
        "(the proxy resolves names). If unset, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` count; `direct`: no proxy, "
        "whatever they say. An account may have another one: `flask --app wsgi accounts change NAME --proxy URL`.",
        "访问 Kimi 时使用的代理：`http://user:password@host:port`、`https://`、`socks5://` 或 `socks5h://`"
        "（由代理解析域名）。不设置时按 `HTTPS_PROXY`、`HTTP_PROXY`、`NO_PROXY`；`direct`：不管它们，直接连接。"
        "账号可以另用一个：`flask --app wsgi accounts change NAME --proxy URL`。",
        secret=True,
    )
    gateway_secret: str | None = _setting(
        "GATEWAY_SECRET",
        parsers.secret,
        "",
        "A password of your own (at least 12 characters) that encrypts the tokens in the database.",
        "自己定的密码（至少 12 个字符），用来加密数据库里的 token。",
        secret=True,
    )
    kimi_protocol: str = _setting(
        "KIMI_PROTOCOL",
        parsers.choice("auto", "sse", "connect"),
        "auto",
        "Which of Kimi's two protocols are used: both, only the older one (`sse`) or only the newer one (`connect`). "
        "Each has its own models.",
        "使用 Kimi 两代协议中的哪些：两代都用、只用旧的（`sse`）或只用新的（`connect`）。每一代有自己的模型。",
    )
    model_aliases: tuple[ModelAlias, ...] = _setting(
        "MODEL_ALIASES",
        parse_aliases,
        "",
        "Other names for models, comma-separated, so that programs with fixed model names work: "
        "`gpt-4o=kimi-k2.6,claude-*=kimi-k2.6,*=k2`. A name with `*` counts where no model is called so; the one "
        "with the most other characters comes first. The header `x-kimi-model` says which model answered.",
        "模型的别名，用逗号分隔，让模型名写死的程序也能用：`gpt-4o=kimi-k2.6,claude-*=kimi-k2.6,*=k2`。"
        "带 `*` 的名字只在没有同名模型时生效，其他字符最多的优先。响应头 `x-kimi-model` 写明实际回答的模型。",
    )
    keep_chats: bool = _setting(
        "KIMI_KEEP_CHATS",
        parsers.switch(),
        "0",
        "`1` keeps the Kimi chats of stateless requests for ever. By default they are deleted: those that stay open "
        "(`CONTINUE_CHATS`) when they are not used any more, all others after the answer.",
        "设为 `1` 会一直保留无状态请求产生的 Kimi 会话。默认会删除：保持打开的（`CONTINUE_CHATS`）在不再使用之后，"
        "其他的在回答结束后。",
    )
    continue_chats: ContinueChats = _setting(
        "CONTINUE_CHATS",
        parsers.choice(*get_args(ContinueChats)),
        "1",
        "Whether a request that repeats what was said before continues in the Kimi chat that holds it, so that only "
        "what is new is sent (docs/conversations.md). `0`: never. `1`: unless the client says `store: false`. `all`: "
        "also then.",
        "请求重复了之前的对话时，是否在保存着这段对话的 Kimi 会话里继续，只发送新的内容"
        "（docs/conversations.zh-CN.md）。"
        "`0`：从不。`1`：客户端没有要求 `store: false` 时。`all`：始终。",
    )
    continue_idle_s: float = _setting(
        "CONTINUE_IDLE_S",
        parsers.seconds(0.1, 31_536_000),
        "3600",
        "Seconds without a request after which such a Kimi chat is deleted.",
        "这样的 Kimi 会话多少秒没有新请求后删除。",
    )
    continue_max: int = _setting(
        "CONTINUE_MAX",
        parsers.integer(1, 100_000),
        "50",
        "Such Kimi chats of one API key. If there are more, the one that was not used for longest is deleted.",
        "每个 API key 最多有多少个这样的 Kimi 会话。再多时，最久没有用过的先删除。",
    )
    heartbeat_s: float = _setting(
        "HEARTBEAT_S",
        parsers.seconds(0.1, 3600),
        "15",
        "Seconds of silence after which an SSE comment is sent to a waiting client.",
        "沉默多少秒后，给等待中的客户端发一行 SSE 注释（心跳）。",
    )
    commit_after_s: float = _setting(
        "COMMIT_AFTER_S",
        parsers.seconds(0.05, 3600),
        "10",
        "Seconds to wait for the start of an answer before the headers of a stream are sent. After that an error can "
        "only be an event in the stream. The wait for a free account does not count, for up to 45 seconds.",
        "流式请求最多等待多少秒，还没有回答也先把响应头发出去。此后出错只能作为流中的事件返回。"
        "等待空闲账号的时间不计入（最多 45 秒）。",
        advanced=True,
    )
    connect_timeout_s: float = _setting(
        "CONNECT_TIMEOUT_S",
        parsers.seconds(0.1, 600),
        "10",
        "Seconds to wait for a connection to Kimi.",
        "连接 Kimi 的时限，秒。",
        advanced=True,
    )
    first_event_timeout_s: float = _setting(
        "FIRST_EVENT_TIMEOUT_S",
        parsers.seconds(0.1, 86400),
        "120",
        "Seconds to wait for the first event of an answer from Kimi.",
        "等待 Kimi 第一个事件的时限，秒。",
        advanced=True,
    )
    idle_timeout_s: float = _setting(
        "IDLE_TIMEOUT_S",
        parsers.seconds(0.1, 86400),
        "120",
        "Seconds of complete silence from Kimi in the middle of an answer, after which the answer fails. With Kimi's "
        "newer protocol the rest is fetched over another connection before that (`RESUME_S`).",
        "回答中途 Kimi 完全没有动静，超过多少秒视为失败。使用新一代协议时，在此之前会换一个连接去取其余部分"
        "（`RESUME_S`）。",
    )
    resume_s: float = _setting(
        "RESUME_S",
        parsers.seconds(0, 3600),
        "60",
        "If the connection to Kimi breaks in the middle of an answer, the gateway tries for so many seconds to get "
        "the rest (only with Kimi's newer protocol). `0`: never.",
        "回答中途与 Kimi 的连接断开后，在多少秒之内设法取回其余部分（仅新一代协议）。`0`：不取。",
        advanced=True,
    )
    total_timeout_s: float = _setting(
        "TOTAL_TIMEOUT_S",
        parsers.seconds(0.1, 86400),
        "1800",
        "Seconds that a whole answer may take.",
        "一次回答的总时限，秒。",
    )
    max_continuations: int = _setting(
        "MAX_CONTINUATIONS",
        parsers.integer(0, 100),
        "3",
        "How often an answer is continued that Kimi cut at its length limit.",
        "回答被 Kimi 的长度上限截断时，最多续写几次。",
        advanced=True,
    )
    limits_thinking: bool = _setting(
        "MAX_TOKENS_INCLUDES_THINKING",
        parsers.switch(),
        "1",
        "`0`: `max_tokens` and its like limit the text of an answer only. By default they count thinking, too, as at "
        "OpenAI and Anthropic, so that a model that thinks for long may leave no text.",
        "设为 `0` 时，`max_tokens` 等上限只限制正文。默认与 OpenAI、Anthropic 一样把思考也算在内，"
        "思考很长的模型可能因此没有正文。",
        advanced=True,
    )
    account_max_streams: int = _setting(
        "ACCOUNT_MAX_STREAMS",
        parsers.integer(0, 1000),
        "2",
        "Answers that one Kimi account gives at the same time. `0`: no limit.",
        "一个 Kimi 账号同时进行的回答数。`0`：不限。",
    )
    account_min_interval_s: float = _setting(
        "ACCOUNT_MIN_INTERVAL_S",
        parsers.seconds(0, 3600),
        "0",
        "Least number of seconds between the starts of two turns of one account. A random extra is added.",
        "同一账号两轮之间至少间隔多少秒（会随机加长一些）。",
    )
    queue_wait_s: float = _setting(
        "QUEUE_WAIT_S",
        parsers.seconds(0, 3600),
        "30",
        "Seconds that a request waits for a free account before it fails with status 429.",
        "没有空闲账号时，请求最多排队多少秒，之后返回 429。",
    )
    queue_max: int = _setting(
        "QUEUE_MAX",
        parsers.integer(0, 100_000),
        "500",
        "Requests that may wait for a free account, in all workers together. If there are more, the API key with the "
        "most of them gets a 429.",
        "所有工作进程合计，最多允许多少个请求排队。再多时，排队最多的 API key 收到 429。",
        advanced=True,
    )
    failover_s: float = _setting(
        "FAILOVER_S",
        parsers.seconds(0, 3600),
        "60",
        "Seconds during which a failed request is tried again on other accounts.",
        "请求失败后，在多少秒之内还会换账号重试。",
    )
    retry_backoff_s: float = _setting(
        "RETRY_BACKOFF_S",
        parsers.seconds(0, 60),
        "1",
        "Seconds, approximately, before the single retry after a failure of Kimi that no account caused.",
        "Kimi 整体出错（与账号无关）时，大约隔多少秒重试一次。",
        advanced=True,
    )
    max_conversations: int = _setting(
        "MAX_CONVERSATIONS",
        parsers.integer(1, 100_000_000),
        "10000",
        "Conversations that one API key may have. Further ones are rejected with status 429.",
        "每个 API key 最多有多少个对话。再多返回 429。",
    )
    conversation_max_age_days: float = _setting(
        "CONVERSATION_MAX_AGE_DAYS",
        parsers.number(0, 36_500),
        "0",
        "Days without a turn after which a conversation and its Kimi chat are deleted. `0`: never.",
        "对话多少天没有新消息，就连同 Kimi 会话一起删除。`0`：永不。",
    )
    responses_max_age_days: float = _setting(
        "RESPONSES_MAX_AGE_DAYS",
        parsers.number(0, 36_500),
        "30",
        "As `CONVERSATION_MAX_AGE_DAYS`, for conversations that `/v1/responses` opened because the request named "
        "none. The shorter of the two holds. `0`: no limit of their own.",
        "同 `CONVERSATION_MAX_AGE_DAYS`，针对请求没有指定对话、由 `/v1/responses` 新建的对话；两者取较短的。"
        "`0`：不另设期限。",
    )
    uncontinued_responses_max_age_days: float = _setting(
        "UNCONTINUED_RESPONSES_MAX_AGE_DAYS",
        parsers.number(0, 36_500),
        "1",
        "As `RESPONSES_MAX_AGE_DAYS`, for those of them that were never continued; n8n opens one with each run. "
        "`0`: no limit of their own.",
        "同 `RESPONSES_MAX_AGE_DAYS`，针对其中从未继续过的对话（n8n 每次运行都会新建一个）。`0`：不另设期限。",
    )
    store_transcripts: bool = _setting(
        "STORE_TRANSCRIPTS",
        parsers.switch(),
        "0",
        "`1` stores the messages of conversations, encrypted with `GATEWAY_SECRET`, so that a conversation can "
        "continue after its Kimi chat was lost.",
        "设为 `1` 会保存对话内容（用 `GATEWAY_SECRET` 加密），Kimi 会话丢失后对话仍可继续。",
    )
    max_idempotent_answers: int = _setting(
        "MAX_IDEMPOTENT_ANSWERS",
        parsers.integer(1, 1_000_000),
        "1000",
        "Answers to requests with an `Idempotency-Key` that are kept for one API key. They are kept for a day, or "
        "until there are more; the oldest are deleted first.",
        "每个 API key 最多保留多少个带 `Idempotency-Key` 请求的回答。保留一天；超过这个数时先删最旧的。",
        advanced=True,
    )
    max_idempotent_bytes: int = _setting(
        "MAX_IDEMPOTENT_BYTES",
        parsers.integer(1024, 1 << 40),
        "33554432",
        "As `MAX_IDEMPOTENT_ANSWERS`, in bytes of all these answers together.",
        "同 `MAX_IDEMPOTENT_ANSWERS`，按这些回答的总字节数计算。",
        advanced=True,
    )
    citations: Citations = _setting(
        "CITATIONS",
        parsers.choice(*get_args(Citations)),
        "both",
        "How references to web pages are returned: as annotations, as links in the text (`markdown`), as both, or as "
        "Kimi's own markers (`off`).",
        "网页引用的形式：注解（`annotations`）、正文里的链接（`markdown`）、两者都有（`both`），"
        "或保留 Kimi 的原始标记（`off`）。",
    )
    tools: str = _setting(
        "TOOLS",
        parsers.choice("emulate", "off"),
        "emulate",
        "What happens to the functions that clients offer. `emulate`: Kimi is asked for calls in words, and they are "
        "read out of its answer (docs/tools.md). `off`: they have no effect.",
        "客户端提供的函数如何处理。`emulate`：用文字请 Kimi 调用，再从回答里读出来（docs/tools.zh-CN.md）。"
        "`off`：不起作用。",
    )
    conversation_wait_s: float = _setting(
        "CONVERSATION_WAIT_S",
        parsers.seconds(0, 600),
        "15",
        "Seconds that a turn waits for an earlier turn of its conversation before it fails with status 409.",
        "同一对话上一轮还没结束时，最多等多少秒，之后返回 409。",
        advanced=True,
    )
    lease_s: float = _setting(
        "LEASE_S",
        parsers.seconds(0.5, 600),
        "10",
        "Seconds after which the leases of a killed worker expire: its accounts, conversations and places in the "
        "queue become free.",
        "工作进程被强杀后，多少秒后它占用的账号、对话和排队位置被释放。",
        advanced=True,
    )
    max_body_bytes: int = _setting(
        "MAX_BODY_BYTES",
        parsers.integer(1024, 1 << 31),
        "16777216",
        "Size limit of a request body, in bytes.",
        "请求体的最大字节数。",
    )
    max_messages: int = _setting(
        "MAX_MESSAGES",
        parsers.integer(1, 1_000_000),
        "10000",
        "Messages of one request, and items of any other list in it. More are rejected with status 400.",
        "一个请求最多有多少条消息；请求里的其他列表也是如此。再多返回 400。",
        advanced=True,
    )
    max_json_values: int = _setting(
        "MAX_JSON_VALUES",
        parsers.integer(1000, 10_000_000),
        "100000",
        "Values in the JSON of one request: objects, lists, strings, numbers. More are rejected with status 400, "
        "because a worker parses them without a pause.",
        "一个请求的 JSON 里最多有多少个值（对象、数组、字符串、数字）。再多返回 400，因为解析时工作进程不能中断。",
        advanced=True,
    )
    max_text_chars: int = _setting(
        "MAX_TEXT_CHARS",
        parsers.integer(1000, 1 << 31),
        "4000000",
        "Characters of all texts of one request together. More are rejected with status 400 and the code "
        "`context_length_exceeded`. The default is one million tokens of English, which is the largest context of "
        "Kimi's models.",
        "一个请求里所有文本加起来最多有多少个字符。再多返回 400，code 为 `context_length_exceeded`；"
        "Kimi 最大的上下文是一百万 token，英文大约正好这么多字符。",
        advanced=True,
    )
    request_memory_bytes: int = _setting(
        "REQUEST_MEMORY_BYTES",
        parsers.integer(1 << 20, 1 << 40),
        "268435456",
        "Memory that the running requests of a worker may need, in bytes. A request needs about three times the size "
        "of its body until its answer is complete. What does not fit waits for `QUEUE_WAIT_S` seconds, and then "
        "fails with status 503. One API key gets at most half of it.",
        "一个工作进程里所有进行中的请求最多占用多少字节内存。一个请求在回答完成之前大约占用请求体的三倍。"
        "放不下的请求等待 `QUEUE_WAIT_S` 秒，之后返回 503。一个 API key 最多使用一半。",
        advanced=True,
    )
    answer_memory_bytes: int = _setting(
        "ANSWER_MEMORY_BYTES",
        parsers.integer(1 << 20, 1 << 40),
        "134217728",
        "Memory that the texts of the running answers of a worker may need, in bytes. A text is kept in two to "
        "four places until its answer is complete, so 2,000 streams may have some 30 KB each. None gets more than "
        "it leaves to the others. What does not fit fails with status 503.",
        "一个工作进程里所有进行中的回答的文本在完成之前最多占用多少字节内存。每段文本保存在两到四处，"
        "所以 2,000 个流各有约 30 KB。任何一个都不会多于它留给其他回答的部分。放不下的以 503 失败。",
        advanced=True,
    )
    request_log_days: float = _setting(
        "REQUEST_LOG_DAYS",
        parsers.number(0, 3650),
        "14",
        "Days for which the request log is kept: times, counts and codes of each request, never a text. The newest "
        "100,000 requests at most. `0`: no log. Sums per day are kept for 400 days in any case.",
        "请求日志保留多少天：每个请求的时间、数量和代码，不含任何文本；最多保留最新的 100,000 个。`0`：不记录。"
        "每日汇总始终保留 400 天。",
    )
    file_max_bytes: int = _setting(
        "FILE_MAX_BYTES",
        parsers.integer(1024, 1 << 31),
        "52428800",
        "Size limit of one image or document, in bytes. Larger ones are rejected with status 413. Kimi's own limit "
        "is believed to be 50 MB. What is sent inside a request is limited by `MAX_BODY_BYTES`, too.",
        "一张图片或一个文档的最大字节数，超过时返回 413。据说 Kimi 自己的上限是 50 MB。直接放在请求里的还受 "
        "`MAX_BODY_BYTES` 限制。",
    )
    max_attachments: int = _setting(
        "MAX_ATTACHMENTS",
        parsers.integer(1, 1000),
        "20",
        "Different images and documents of one request, those of its history included. More are rejected with status "
        "400.",
        "一个请求最多有多少个不同的图片和文档（包括历史消息里的）。再多返回 400。",
    )
    long_prompt_as_file: int = _setting(
        "LONG_PROMPT_AS_FILE",
        parsers.integer(0, 1 << 31),
        "0",
        "Bytes from which on a prompt without functions is sent to Kimi as a file, because it would be too long for "
        "a message; one client uses 450000. `0`: never.",
        "没有函数的提示词达到多少字节时作为文件发给 Kimi（否则作为消息会太长）；有客户端用 450000。`0`：从不。",
        advanced=True,
    )
    fetch_urls: bool = _setting(
        "FETCH_URLS",
        parsers.switch(),
        "0",
        "`1` fetches images and documents that a request names by an `http:` or `https:` address. Only public "
        "addresses and the ports 80 and 443. By default such a request is rejected with status 400.",
        "设为 `1` 时，请求里用 `http:` 或 `https:` 地址给出的图片和文档由网关去取；只取公网地址的 80 和 443 端口。"
        "默认这样的请求返回 400。",
    )
    fetch_hosts: tuple[str, ...] = _setting(
        "FETCH_HOSTS",
        parsers.hosts_with_ports,
        "",
        "Hosts, each as `host:port` and comma-separated, from which `FETCH_URLS=1` fetches although they are not "
        "public.",
        "`FETCH_URLS=1` 时，虽然不是公网地址也可以去取的主机，写成 `主机:端口`，用逗号分隔。",
        advanced=True,
    )
    files_dir: str = _setting(
        "FILES_DIR",
        parsers.folder,
        "",
        "Folder for the files of `/v1/files`, or `database`, for several machines. If unset: the folder `files` "
        "beside the SQLite file, or the PostgreSQL database.",
        "存放 `/v1/files` 文件的文件夹；多台机器时用 `database`。不设置时：SQLite 文件旁的 `files` 文件夹，"
        "或 PostgreSQL 数据库。",
    )
    files_max_age_days: float = _setting(
        "FILES_MAX_AGE_DAYS",
        parsers.number(0, 36_500),
        "30",
        "Days after which an uploaded file is deleted. `0`: never.",
        "上传的文件保留多少天。`0`：永远保留。",
    )
    files_max_count: int = _setting(
        "FILES_MAX_COUNT",
        parsers.integer(0, 10_000_000),
        "1000",
        "Files that one API key may have. Further ones are rejected with status 429. `0` switches `/v1/files` off.",
        "每个 API key 最多有多少个文件，再多返回 429。`0` 关闭 `/v1/files`。",
    )
    files_max_total_bytes: int = _setting(
        "FILES_MAX_TOTAL_BYTES",
        parsers.integer(0, 1 << 50),
        "1073741824",
        "As `FILES_MAX_COUNT`, in bytes of all files together.",
        "同 `FILES_MAX_COUNT`，按所有文件的总字节数计算。",
    )
    file_read_s: float = _setting(
        "FILE_READ_S",
        parsers.seconds(0.1, 3600),
        "60",
        "Seconds to wait until Kimi has read the images and documents of a request. After that a request with a "
        "document fails with status 504; one with images only is sent all the same.",
        "等待 Kimi 读完请求里的图片和文档的秒数。超过后，带文档的请求返回 504；只有图片的照常发送。",
        advanced=True,
    )
    metrics_key: str | None = _setting(
        "METRICS_KEY",
        parsers.secret,
        "",
        "What Prometheus must send as a bearer token to read `/metrics` (at least 12 characters). If unset, "
        "`/metrics` answers programs on this machine only.",
        "Prometheus 读取 `/metrics` 时必须携带的 bearer token（至少 12 个字符）。不设置时，`/metrics` 只对本机开放。",
        secret=True,
    )
    notify_url: str = _setting(
        "NOTIFY_URL",
        parsers.notify_url,
        "",
        "An address that gets a message (POST) when an account needs you, when none can answer for five minutes, "
        "when Kimi sends something unknown, and when each is over (docs/accounts.md).",
        "账号需要处理、五分钟没有账号可用、Kimi 发来不认识的数据时，以及这些情况结束时，网关会把消息 POST 到这个地址"
        "（docs/accounts.zh-CN.md）。",
        secret=True,
    )
    notify_form: str = _setting(
        "NOTIFY_FORM",
        parsers.choice("json", "text", "discord", "feishu", "dingtalk", "bark"),
        "json",
        "What `NOTIFY_URL` takes. `json`: an object with event, account, text and url, which Slack and Mattermost "
        "take as well. `text`: the sentence alone, for ntfy. `dingtalk`: also for WeCom.",
        "`NOTIFY_URL` 接受的格式。`json`：含 event、account、text、url 的对象，Slack 和 Mattermost 也能用。"
        "`text`：只有一句话，用于 ntfy。`dingtalk`：钉钉，也用于企业微信。`feishu`：飞书。",
    )
    notify_language: Language = _setting(
        "NOTIFY_LANGUAGE",
        parsers.choice(*get_args(Language)),
        "en",
        "The language of these messages.",
        "这些消息使用的语言。",
    )
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS",
        parsers.origins,
        "*",
        "Origins of the web pages that may call the gateway from a browser, comma-separated. Without "
        "`GATEWAY_API_KEYS` only the origins that are named here and those of this machine are served.",
        "哪些来源的网页可以在浏览器里直接调用网关，用逗号分隔。没有设置 `GATEWAY_API_KEYS` 时，"
        "只服务这里列出的来源和本机。",
    )
    strict_params: bool = _setting(
        "STRICT_PARAMS",
        parsers.switch(),
        "0",
        "`1` refuses parameters that have no effect here. By default they are named in the response header "
        "`x-ignored-params`.",
        "设为 `1` 会拒绝在这里不起作用的参数。默认只在响应头 `x-ignored-params` 中列出它们。",
    )
    log_level: str = _setting(
        "LOG_LEVEL", parsers.choice("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "Log level.", "日志级别。"
    )

    def site_of(self, credential: Credential) -> Site:
        """Where an account lives: what its entry says, else KIMI_BASE_URL, else what its token says."""
        site = credential.site or (site_at(self.kimi_base_url) if self.kimi_base_url else credential.home or KIMI_COM)
        return replace(site, auth_url=self.kimi_auth_url) if self.kimi_auth_url else site

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of all accounts, each once; where there is no account, the one that KIMI_BASE_URL names."""
        found = {site.name: site for site in map(self.site_of, self.credentials)}
        return tuple(found.values()) or (self.site_of(Credential("", "")),)

    @property
    def console_address(self) -> str:
        """Where the owner opens the console."""
        if self.console_url:
            return self.console_url
        is_here = self.host in ("0.0.0.0", "::") or is_loopback(self.host)
        host = "127.0.0.1" if is_here else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/console"

    @property
    def files_folder(self) -> Path | None:
        """Where uploaded files are kept; None: in the database."""
        if self.files_dir:
            return None if self.files_dir == parsers.IN_DATABASE else Path(self.files_dir)
        return None if self._database_folder is None else self._database_folder / "files"

    @property
    def disk_of_files(self) -> Path | None:
        """A place on the disk of uploaded files, perhaps not made yet; None: that of a database server."""
        return self.files_folder or self._database_folder

    @property
    def _database_folder(self) -> Path | None:
        file = self.database_url.removeprefix("sqlite:///")
        return None if file == self.database_url else Path(file).parent

    @property
    def secrets(self) -> list[str]:
        """Every text that must never be shown."""
        tokens = [token for credential in self.credentials for token in credential.secrets]
        own = [secret for secret in (self.gateway_secret, self.metrics_key) if secret]
        own += parsers.secrets_in_address(self.notify_url)
        passwords = [*parsers.passwords_in(self.database_url), *parsers.passwords_in(self.kimi_proxy)]
        return [*tokens, *(key.secret for key in self.api_keys), *own, *passwords]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Config":
        """Reads all settings. Raises ConfigError: for the first one that cannot be used."""
        config = cls(**{field: _read(env, setting) for field, setting in _settings()})
        config.check_bind([config.host])
        config.check_transcripts()
        return config

    @classmethod
    def examine(cls, env: Mapping[str, str]) -> "Examination":
        """Reads all settings as ``from_env`` does, and reports all errors instead of raising the first one."""
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for field_name, setting in _settings():
            try:
                values[field_name] = _read(env, setting)
            except ConfigError as e:
                wrong[setting.name] = str(e)
                values[field_name] = _read({}, setting)
        config = cls(**values)
        if "GATEWAY_API_KEYS" not in wrong:
            try:
                config.check_bind([config.host])
            except ConfigError as e:
                wrong["HOST"] = str(e)
        if "GATEWAY_SECRET" not in wrong:
            try:
                config.check_transcripts()
            except ConfigError as e:
                wrong["STORE_TRANSCRIPTS"] = str(e)
        # GATEWAY_INTERFACE is a variable of CGI.
        known = {"GATEWAY_INTERFACE", *(setting.name for _, setting in _settings())}
        unknown = sorted(name for name in env if name.startswith(("KIMI_", "GATEWAY_")) and name not in known)
        return Examination(config, wrong, tuple(unknown))

    def check_transcripts(self) -> None:
        """Raises ConfigError: if messages would be stored without encryption."""
        if self.store_transcripts and not self.gateway_secret:
            raise ConfigError(
                "STORE_TRANSCRIPTS=1 stores messages, which are encrypted with GATEWAY_SECRET: set it too"
            )

    def check_bind(self, hosts: list[str]) -> None:
        """Raises ConfigError: if other machines could reach one of ``hosts`` and no API key were required."""
        for host in hosts:
            if not self.api_keys and not is_loopback(host):
                raise ConfigError(
                    f"HOST={host} can be reached from other machines, but GATEWAY_API_KEYS is not set, "
                    "so anybody could use your Kimi accounts: set GATEWAY_API_KEYS, or HOST=127.0.0.1"
                )


@dataclass(frozen=True, slots=True)
class Examination:
    """What ``Config.examine`` found."""

    config: Config
    """With the default of each setting that cannot be used."""
    wrong: Mapping[str, str]
    """The error of each setting that cannot be used, by name."""
    unknown: tuple[str, ...]
    """Variables that are named like settings of ours and are none."""


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address, or the name localhost."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


# The variables that were set from ``.env``, with their values, and the process that did it.
_from_file: dict[str, str] = {}
_loaded_in: int | None = None


def load_env_file(home: Path = parsers.HOME) -> None:
    """Sets the environment variables of ``.env`` that are not set otherwise. Raises ConfigError: if it is unreadable.

    The file is searched for in ``home`` (the folder of the application) and in those above it. A process that was
    forked from one that has read the file keeps what that has read: it would otherwise end where the file has become
    wrong meanwhile.
    """
    global _loaded_in
    if _loaded_in not in (None, os.getpid()):
        return
    forget_env_file()
    _from_file.update({name: value for name, value in _read_env_file(home).items() if name not in os.environ})
    os.environ.update(_from_file)
    _loaded_in = os.getpid()


def environment_without_file() -> dict[str, str]:
    """The environment variables that were not set by ``load_env_file``, or were changed by others since."""
    return {name: value for name, value in os.environ.items() if _from_file.get(name) != value}


def forget_env_file() -> None:
    """Removes what ``load_env_file`` has set."""
    for name in set(os.environ) - set(environment_without_file()):
        del os.environ[name]
    _from_file.clear()


def is_env_file_gone(home: Path = parsers.HOME) -> bool:
    """Whether settings were read from a file that is not there any more."""
    return bool(_from_file) and _env_file(home) is None


def _env_file(home: Path) -> Path | None:
    # dotenv's own search starts in the working directory if the server is not a Python program (mod_wsgi, uWSGI).
    return next((file for folder in (home, *home.parents) if (file := folder / ".env").is_file()), None)


def _read_env_file(home: Path) -> dict[str, str]:
    # Not loaded above: the process that renews a token inherits the environment, and should start quickly.
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    file = _env_file(home)
    if file is None:
        return {}
    try:
        with file.open(encoding="utf-8") as lines:
            bad = [binding.original.line for binding in parse_stream(lines) if binding.error]
        if bad:
            raise ConfigError(
                f".env, line {bad[0]}: expected NAME=value; put a value with spaces, quotes or # into single quotes"
            )
        values = {name: value for name, value in dotenv_values(file).items() if value is not None}
    except OSError as e:
        raise ConfigError(f".env cannot be read: {e.strerror}") from None
    except ValueError:
        # A UnicodeDecodeError.
        raise ConfigError(".env is not UTF-8: save .env as UTF-8") from None
    if any("\0" in name + value for name, value in values.items()):
        # A zero byte, which no environment accepts, of UTF-16 without a byte order mark.
        raise ConfigError(".env is not UTF-8: save .env as UTF-8")
    return values


def describe_settings() -> list[Setting]:
    """All settings, in the order of the documentation."""
    return [setting for _, setting in _settings()]


def _settings() -> Iterator[tuple[str, Setting]]:
    """The field of Config and the row of the table, of each setting."""
    return ((f.name, f.metadata["setting"]) for f in fields(Config))


def _read(env: Mapping[str, str], setting: Setting) -> Any:
    text = env.get(setting.name, "").strip() or setting.default
    try:
        return setting.parser.parse(text)
    except CredentialError as e:
        raise ConfigError(f"{setting.name}: {e}") from None
    except ValueError as e:
        shown = "" if setting.is_secret or isinstance(e, parsers.HiddenValueError) else f"={text}"
        raise ConfigError(f"{setting.name}{shown}: {e}") from None
