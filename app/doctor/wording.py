"""The sentences of the doctor, in English and Chinese. Pure functions.

A finding names a sentence and its values; ``written`` makes a text of it. The states of accounts have their sentences
in ``accounts.standings``. Texts of errors and of wrong settings are English; in Chinese they stand in brackets behind
a sentence that says what kind of error it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from app.accounts.standings import NEW_LOGIN, NEW_LOGIN_ZH, Language, Standing, advice, duration_zh, state
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    AnswerEmpty,
    ChatForbidden,
    ChatUnknown,
    ConnectionLost,
    GatewayError,
    ModelUnavailable,
    Moderated,
    ProtocolUnavailable,
    QuotaSpent,
    RenewalFailed,
    RequestRefused,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.upstreams.account import duration
from app.upstreams.kimi.quota import Quota


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence: a key of ``SENTENCES``, and a value for each of its names."""

    key: str
    values: Mapping[str, "Value"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A duration in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class State:
    """What is so of an account, without what to do."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about the state of an account; an empty text if nothing has to be done."""

    standing: Standing


Sentence = Said | Advice
# What stands in a sentence. A list is written with commas.
Value = Union[str, int, float, "Said", Span, State, Advice, Quota, GatewayError, list[str]]


def say(key: str, **values: Value) -> Said:
    return Said(key, values)


def written(value: Value, language: Language) -> str:
    """The text of a value. Raises KeyError: if there is no such sentence, or a value is missing."""
    match value:
        case Said(key, values):
            filled = {name: v if isinstance(v, int | float) else written(v, language) for name, v in values.items()}
            return SENTENCES[key][1 if language == "zh" else 0].format(**filled)
        case Span(seconds):
            return duration_zh(seconds) if language == "zh" else duration(seconds)
        case State(standing):
            return state(standing, language)
        case Advice(standing):
            return advice(standing, language)
        case Quota():
            return _quota_zh(value) if language == "zh" else str(value)
        case GatewayError():
            return _error_zh(value) if language == "zh" else value.message
        case list():
            return ("、" if language == "zh" else ", ").join(value)
    return str(value)


# Class of an error → what happened. The first one that fits counts.
_ERRORS_ZH: tuple[tuple[type[GatewayError], str], ...] = (
    (AccountRejected, "Kimi 不接受此账号的 token"),
    (AccountForbidden, "此账号被人机验证或封禁拦住"),
    (AccountLimited, "Kimi 限制了此账号的使用"),
    (QuotaSpent, "此账号没有使用该模型的额度或会员"),
    (ModelUnavailable, "Kimi 目前不向此账号提供该模型"),
    (Moderated, "Kimi 的审查拒绝了请求"),
    (RequestRefused, "Kimi 拒绝了请求"),
    (ChatForbidden, "Kimi 禁用了这个会话"),
    (ChatUnknown, "Kimi 找不到这个会话"),
    (UpstreamOverloaded, "Kimi 过载"),
    (AnswerEmpty, "Kimi 的回答是空的"),
    (ConnectionLost, "连接在回答结束前断开"),
    (RenewalFailed, "token 没能续期"),
    (ProtocolUnavailable, "这个站点不支持该协议"),
    (UpstreamUnavailable, "Kimi 无法访问或出错"),
    (UpstreamTimeout, "Kimi 太久没有回应"),
    (UpstreamProtocolError, "读不懂 Kimi 的回答"),
    (UpstreamError, "Kimi 出错"),
    (GatewayError, "网关不能完成"),
)


def _error_zh(error: GatewayError) -> str:
    return f"{next(zh for kind, zh in _ERRORS_ZH if isinstance(error, kind))}（{error.message}）"


_WINDOWS_ZH = {"5 hours": "5 小时", "7 days": "7 天"}


def _quota_zh(quota: Quota) -> str:
    parts = []
    if quota.left is not None:
        renewal = f"（{quota.renews[:10]} 恢复）" if quota.renews else ""
        parts.append(f"额度剩余 {quota.left:.0%}{renewal}")
    parts += [f"{_WINDOWS_ZH.get(name, name)}限额剩余 {left:.0%}" for name, left in quota.windows.items()]
    return "Kimi 说：" + ("，".join(parts) or "没有提到额度")


# Key → English, Chinese. Templates of ``str.format``.
SENTENCES: Mapping[str, tuple[str, str]] = {
    # The check itself
    "database_fails": ("the database fails in the middle of this ({error})", "检查途中数据库出错（{error}）"),
    "see_database_log": ("see what its log says, and try again", "请查看数据库的日志，然后再试"),
    "doctor_failed": ("the doctor itself failed here ({error})", "诊断自身在这里出错（{error}）"),
    "report_this": ("please report this", "请报告这个问题"),
    "needs_store": ("not checked: it needs the store", "未检查：需要数据库"),
    "setting_is_wrong": ("not checked: {name} is wrong", "未检查：{name} 有误"),
    # Settings
    "wrong_setting": ("{problem}", "设置有误（{problem}）"),
    "correct_setting": ("correct it in .env or in the environment", "请在 .env 或环境变量里改正"),
    "unknown_setting": ("{name} is set, but there is no such setting", "设置了 {name}，但没有这个设置"),
    "is_it_misspelt": ("is it misspelt?", "是不是拼错了？"),
    "auth_of_other_site": (
        "accounts of {site} are used, but KIMI_AUTH_URL is on {other}",
        "使用的是 {site} 的账号，但 KIMI_AUTH_URL 属于 {other}",
    ),
    "mend_auth_url": (
        "unset KIMI_AUTH_URL, or set KIMI_AUTH_URL=https://auth.{site}",
        "请取消设置 KIMI_AUTH_URL，或设为 KIMI_AUTH_URL=https://auth.{site}",
    ),
    "settings_are_right": (
        "{number} account(s) in KIMI_TOKENS; listens on {host}:{port}",
        "KIMI_TOKENS 里有 {number} 个账号；监听 {host}:{port}",
    ),
    # Store
    "store_settings_wrong": ("not checked: its settings are wrong", "未检查：它的设置有误"),
    "store_unusable": ("{error}", "数据库打不开（{error}）"),
    "store_unwritable": ("{name} cannot be written ({error})", "{name} 无法写入（{error}）"),
    "store_is_right": (
        "{name}: opens, can be written, version {version}, {tokens}",
        "{name}：能打开，能写入，版本 {version}，{tokens}",
    ),
    "tokens_sealed": ("tokens encrypted with GATEWAY_SECRET", "token 已用 GATEWAY_SECRET 加密"),
    "tokens_readable": ("tokens not encrypted (GATEWAY_SECRET unset)", "token 没有加密（未设置 GATEWAY_SECRET）"),
    "file_mode": (
        "{path} has mode {mode}: other users of this machine may use it",
        "{path} 的权限是 {mode}：本机的其他用户也能使用它",
    ),
    "change_mode": ("chmod 600 {path}", "chmod 600 {path}"),
    "file_owner": (
        "{path} belongs to another user than the one who runs the doctor",
        "{path} 属于另一个用户，不是运行诊断的用户",
    ),
    "run_as_gateway": (
        "run the doctor as the user that the gateway runs as",
        "请用运行网关的那个用户来运行诊断",
    ),
    "store_secret": (
        "set the GATEWAY_SECRET that it was made with; if that is lost, move the database away and paste new "
        "refresh tokens",
        "请设置创建数据库时用的 GATEWAY_SECRET；如果已经丢失，请移走数据库，重新粘贴 refresh token",
    ),
    "store_server": (
        "see that its server runs and can be reached from here, and that user, password and name are right",
        "请确认数据库服务器在运行、能从这里访问，并且用户、密码和名称正确",
    ),
    "store_folder": (
        "see that its folder exists, has room, and belongs to the user that the gateway runs as",
        "请确认它的文件夹存在、有空间，并且属于运行网关的用户",
    ),
    # Keys
    "takes_keys": ("takes {number} API key(s)", "接受 {number} 个 API key"),
    "takes_none": (
        "takes no request: every key was revoked or has expired",
        "不接受任何请求：所有 key 都已吊销或过期",
    ),
    "add_key": ("flask --app wsgi keys add NAME", "flask --app wsgi keys add 名称"),
    "takes_any": (
        "takes any API key, from this machine only; behind a proxy set GATEWAY_API_KEYS",
        "接受任意 API key，但只限本机；在反向代理后面请设置 GATEWAY_API_KEYS",
    ),
    # Messages
    "messages_wrong": ("not checked: their settings are wrong", "未检查：它们的设置有误"),
    "messages_off": ("none are sent: NOTIFY_URL is not set", "不发送：没有设置 NOTIFY_URL"),
    "messages_none": ("none was sent yet", "还没有发送过"),
    "test_messages": ("flask --app wsgi notify-test", "flask --app wsgi notify-test"),
    "message_failed": ("the last one failed at {at}: {reason}", "最近一条在 {at} 发送失败：{reason}"),
    "correct_notify_url": (
        "correct NOTIFY_URL, then: flask --app wsgi notify-test",
        "请改正 NOTIFY_URL，然后运行：flask --app wsgi notify-test",
    ),
    "message_taken": ("the last one was taken at {at}", "最近一条已在 {at} 送达"),
    # Accounts
    "no_account": ("there is no Kimi account yet", "还没有 Kimi 账号"),
    "add_account": (
        "flask --app wsgi accounts add, or set KIMI_TOKENS and restart (README, 'Get a token')",
        "运行 flask --app wsgi accounts add，或者设置 KIMI_TOKENS 后重启（见 README 的“获取 token”）",
    ),
    "account_is": ("{name}: {state}", "{name}：{state}"),
    "account_of_level": ("{name}, {level}: {state}", "{name}，{level}：{state}"),
    # Sites and the clock
    "site_gives_no_answer": ("{url}: {why}", "{url}：{why}"),
    "proxy_refuses": (
        "{url}: the proxy {proxy} wants another user name or password",
        "{url}：代理 {proxy} 需要别的用户名或密码",
    ),
    "proxy_fails": ("the proxy {proxy} does not pass it on ({error})", "代理 {proxy} 没有转发（{error}）"),
    "check_proxy": (
        "check KIMI_PROXY, that of the account, and HTTPS_PROXY and NO_PROXY of the gateway's environment",
        "请检查 KIMI_PROXY、账号自己的代理，以及网关环境里的 HTTPS_PROXY 和 NO_PROXY",
    ),
    "answers_5xx": ("{url} answers {status}", "{url} 回应 {status}"),
    "try_later": (
        "Kimi has trouble, or a proxy in between; try again later",
        "Kimi 或中间的代理有故障，请稍后再试",
    ),
    "call_unknown": (
        "{url} can be reached, but does not know the call that was tried (status {status})",
        "能访问 {url}，但它不认识所试的调用（状态 {status}）",
    ),
    "check_setting": ("check {setting}", "请检查 {setting}"),
    "page_instead": (
        "{url} answers with {got} instead of data (status {status}): a bot wall, or not Kimi's API",
        "{url} 返回的是{got}而不是数据（状态 {status}）：遇到人机验证，或者不是 Kimi 的 API",
    ),
    "a_page": ("a web page", "网页"),
    "a_text": ("text, or nothing,", "文本或空内容"),
    "try_another_network": (
        "check {setting}; open the site in a browser on this machine's network; addresses of data centres are "
        "often blocked, so try another network",
        "请检查 {setting}；在本机的网络里用浏览器打开该网站；机房的地址常被拦截，可以换一个网络",
    ),
    "site_answers": ("{url} answers ({status}{ms:.0f} ms)", "{url} 有回应（{status}{ms:.0f} 毫秒）"),
    "site_answers_via": (
        "{url} answers through the proxy {proxy} ({status}{ms:.0f} ms)",
        "{url} 通过代理 {proxy} 有回应（{status}{ms:.0f} 毫秒）",
    ),
    "status": ("status {status}, ", "状态 {status}，"),
    "redirects_nowhere": ("{url} redirects, but not to an address", "{url} 重定向，但目标不是地址"),
    "redirects_to_itself": (
        "{url} redirects to another of its own pages",
        "{url} 重定向到它自己的另一个页面",
    ),
    "redirects_away": ("{url} redirects to another site, {host}", "{url} 重定向到另一个站点 {host}"),
    "use_other_site": (
        "if your account lives there, set {setting}={site}, or write token@site in KIMI_TOKENS; tokens of one Kimi "
        "site are worth nothing at the other",
        "如果你的账号在那个站点，请设置 {setting}={site}，或在 KIMI_TOKENS 里写 token@site；"
        "一个 Kimi 站点的 token 在另一个站点无效",
    ),
    "no_such_name": ("the name {name} cannot be resolved", "无法解析域名 {name}"),
    "check_dns": ("check {setting} and this machine's DNS", "请检查 {setting} 和本机的 DNS"),
    "certificate": ("its certificate is not accepted ({error})", "它的证书无法验证（{error}）"),
    "check_certificate": (
        "check this machine's clock; if something in between intercepts TLS, such as a company's proxy, "
        "set REQUESTS_CA_BUNDLE to the file of its certificate",
        "请检查本机的时钟；如果中间有设备拦截 TLS（例如公司代理），请把 REQUESTS_CA_BUNDLE 设为它的证书文件",
    ),
    "tls_fails": ("TLS fails", "TLS 失败"),
    "check_https": (
        "check that {setting} is an https address; a firewall may be in between",
        "请确认 {setting} 是 https 地址；中间可能有防火墙",
    ),
    "refused": ("the connection is refused", "连接被拒绝"),
    "check_port": (
        "nothing listens there: check {setting}, also its port",
        "那里没有程序在监听：请检查 {setting}，包括端口",
    ),
    "no_answer": ("no answer within {seconds:.0f} s", "{seconds:.0f} 秒内没有回应"),
    "check_firewall": (
        "a firewall may drop the packets; where a proxy is needed, set KIMI_PROXY or HTTPS_PROXY",
        "防火墙可能丢弃了数据包；需要代理时请设置 KIMI_PROXY 或 HTTPS_PROXY",
    ),
    "connection_fails": ("the connection fails ({error})", "连接失败（{error}）"),
    "check_network": ("check {setting} and this machine's network", "请检查 {setting} 和本机的网络"),
    "no_time": ("not checked: no answer said what time it is", "未检查：没有任何回应带有时间"),
    "clock_behind": (
        "this machine's clock is {seconds:.0f} s behind Kimi's",
        "本机的时钟比 Kimi 慢 {seconds:.0f} 秒",
    ),
    "clock_ahead": (
        "this machine's clock is {seconds:.0f} s ahead of Kimi's",
        "本机的时钟比 Kimi 快 {seconds:.0f} 秒",
    ),
    "set_clock": (
        "set it (NTP): whether a token has expired is judged by it",
        "请校准时钟（NTP）：token 是否过期要靠它判断",
    ),
    "clock_is_right": ("within {seconds:.0f} s of Kimi's", "与 Kimi 相差不到 {seconds:.0f} 秒"),
    # Renewal
    "renewal_needs_store": ("{label}: not tried: it needs the store", "{label}：未尝试：需要数据库"),
    "renewal_needs_settings": (
        "{label}: not tried: the settings must be right first",
        "{label}：未尝试：要先改正设置",
    ),
    "renewal_refused_before": (
        "{label}: not tried: Kimi has refused this token already",
        "{label}：未尝试：Kimi 已经拒绝过这个 token",
    ),
    "not_due": ("{label}: not due (--refresh does it all the same)", "{label}：还不需要续期（--refresh 会强制续期）"),
    "not_due_until": (
        "{label}: not due until {at} (--refresh does it all the same)",
        "{label}：{at} 之前不需要续期（--refresh 会强制续期）",
    ),
    "renewal_failed": ("{error}", "{error}"),
    "see_auth": ("see the lines on auth and on site", "请看 auth 和 site 两行"),
    "renewed": ("{label}: renewed; {token}", "{label}：已续期；{token}"),
    "token_timeless": (
        "an access token that does not say when it expires",
        "access token 没有写明何时过期",
    ),
    "token_expired": ("the access token expired at {at}", "access token 已在 {at} 过期"),
    "token_works": (
        "the access token works until {at} ({left} more)",
        "access token 有效到 {at}（还有 {left}）",
    ),
    # Turns
    "not_tried": ("not tried: {why}", "未尝试：{why}"),
    "turn_not_tried": ("{name}: not tried: {why}", "{name}：未尝试：{why}"),
    "base_url_wrong": ("KIMI_BASE_URL is wrong", "KIMI_BASE_URL 有误"),
    "site_unreachable": ("the site cannot be reached", "无法访问站点"),
    "no_working_token": ("no account has a token that works now", "现在没有账号的 token 可用"),
    "it_needs_the_store": ("it needs the store", "需要数据库"),
    "protocol_at": ("{protocol} at {site}", "{protocol}（{site}）"),
    "models": ("{name}: {ids}", "{name}：{ids}"),
    "models_of_kimi": (
        "{name}: {ids}; Kimi's own list names {number}: {offered}",
        "{name}：{ids}；Kimi 自己的列表有 {number} 个：{offered}",
    ),
    "none": ("none", "无"),
    "models_without_list": ("{name}: {ids}; Kimi's own list: {error}", "{name}：{ids}；Kimi 自己的列表：{error}"),
    "models_served_anyway": (
        "the models that the gateway knows itself are served all the same",
        "网关自己知道的模型照常提供",
    ),
    "quota_fails": ("{label}: Kimi does not say what is left ({error})", "{label}：Kimi 没有告知剩余额度（{error}）"),
    "quota_not_told": (
        "{label}: Kimi did not say what is left some minutes ago",
        "{label}：几分钟前 Kimi 没有告知剩余额度",
    ),
    "quota_spent": (
        "{label}: {quota}; agents (K3, K2.8) need credits, plain chat does not",
        "{label}：{quota}；智能体（K3、K2.8）需要额度，普通聊天不需要",
    ),
    "wait_for_credits": (
        "wait until they are renewed, or use another account",
        "请等额度恢复，或者使用别的账号",
    ),
    "quota": ("{label}: {quota}", "{label}：{quota}"),
    "turn_failed": ("{name}, {model}: {error}", "{name}，{model}：{error}"),
    "turn_failed_renewed": (
        "{name}, {model}: {error} after its token was rejected and renewed",
        "{name}，{model}：token 被拒绝并续期之后，{error}",
    ),
    "turn_empty": (
        "{name}, {model}: Kimi ended the answer without any text",
        "{name}，{model}：Kimi 结束了回答，但没有任何文字",
    ),
    "turn_empty_renewed": (
        "{name}, {model}: Kimi ended the answer without any text after its token was rejected and renewed",
        "{name}，{model}：token 被拒绝并续期之后，Kimi 结束了回答，但没有任何文字",
    ),
    "turn_answered": (
        "{name}, {model}: answered; first token after {first_s:.1f} s, complete after {total_s:.1f} s",
        "{name}，{model}：已回答；{first_s:.1f} 秒后出现第一个字，共 {total_s:.1f} 秒",
    ),
    "turn_answered_renewed": (
        "{name}, {model}: answered after its token was rejected and renewed; first token after {first_s:.1f} s, "
        "complete after {total_s:.1f} s",
        "{name}，{model}：token 被拒绝并续期之后已回答；{first_s:.1f} 秒后出现第一个字，共 {total_s:.1f} 秒",
    ),
    "chat_remains": ("{name}: its chat could not be deleted: {error}", "{name}：无法删除它的会话：{error}"),
    "chat_remains_advice": (
        "the gateway tries again when it runs; see whether the chat is in your list at the Kimi site",
        "网关运行时会再试；请看看 Kimi 网站的列表里是否有这个会话",
    ),
    "new_login": (NEW_LOGIN, NEW_LOGIN_ZH),
    "answer_bot_check": (
        "open the site in a browser with this account and do what it asks; against a bot wall, try another network",
        "请用此账号在浏览器里打开网站，按页面的要求处理；如果是人机验证，可以换一个网络",
    ),
    "use_less": (
        "wait some minutes and let fewer programs use this account, or add another account",
        "请等几分钟，让更少的程序使用此账号，或者再添加一个账号",
    ),
    "not_here": (
        "nothing is wrong on this side: try again later",
        "本机没有问题：请稍后再试",
    ),
    "slow_network": (
        "try again; if it stays so, the network loses packets or Kimi is overloaded",
        "请再试；如果一直这样，可能是网络丢包或 Kimi 过载",
    ),
    "new_protocol": (
        "a bot wall, or Kimi has changed its protocol: update the gateway, or open an issue with --json and --record",
        "遇到人机验证，或者 Kimi 改了协议：请更新网关，或附上 --json 和 --record 的输出提交 issue",
    ),
    "may_be_limited": (
        "the account may be limited: try later, or with another account",
        "账号可能受到限制：请稍后再试，或者换一个账号",
    ),
    "see_site": (
        "see the line on the site; if that is ok, update the gateway or open an issue with --json",
        "请看 site 那一行；如果它正常，请更新网关，或附上 --json 的输出提交 issue",
    ),
    "token_of_other_site": (
        "{site} has issued this token, and tokens of one site are worth nothing at the other: unset KIMI_BASE_URL, "
        "or write token@{site} in KIMI_TOKENS",
        "这个 token 由 {site} 签发，一个站点的 token 在另一个站点无效：请取消设置 KIMI_BASE_URL，"
        "或在 KIMI_TOKENS 里写 token@{site}",
    ),
    # Functions
    "trials_follow": (
        "{name}, {model}: {number} short turns follow; each counts against the account",
        "{name}，{model}：接下来有 {number} 次简短的提问，每次都计入账号的用量",
    ),
    "trial": ("{name}, {model}: {about}: {result}", "{name}，{model}：{about}：{result}"),
    "trials_done": (
        "{name}, {model}: {right} of {tried} right{odd}",
        "{name}，{model}：{tried} 次中有 {right} 次正确{odd}",
    ),
    "see_tools_page": (
        "docs/tools.md says which model to take and what can go wrong",
        "docs/tools.zh-CN.md 说明了该用哪个模型、可能出什么问题",
    ),
    "right": ("right", "正确"),
    "unusable_call": ("a call that cannot be used ({flaws})", "调用无法使用（{flaws}）"),
    "words_instead": ("no call, but words", "没有调用，只有文字"),
    "other_calls": (
        "{number} call(s), not those that were asked for",
        "{number} 个调用，但不是要求的那些",
    ),
    "other_arguments": ("the right function, with other arguments", "函数正确，但参数不同"),
    "unwanted_call": ("a call that nobody asked for", "没有要求却调用了函数"),
    "other_words": ("words, but not the right ones", "有文字，但不是正确的内容"),
    "about_one_call": ("one call", "一个调用"),
    "about_two_calls": ("two calls in one message", "一条消息里两个调用"),
    "about_hard_text": ("a text with quotes and backslashes", "带引号和反斜杠的文本"),
    "about_no_need": ("no call where none is needed", "不需要时不调用"),
    "about_demanded": ("a call that is demanded", "强制要求的调用"),
    "about_from_result": ("an answer from a result", "根据结果回答"),
    "about_after_result": ("a call after a result", "得到结果后再调用"),
    "about_like_kimis": ("functions that are called like Kimi's own", "与 Kimi 自带函数同名的函数"),
    "about_trap": ("no call that only stands in a file", "只写在文件里的调用不算"),
    "about_many": ("one of 40 functions", "40 个函数中的一个"),
    "about_chinese": ("a question in Chinese", "中文问题"),
    "about_long": ("a long system text", "很长的系统提示"),
    # What was not understood
    "refused_form": (
        "{upstream}: Kimi refused the form '{form}' {times} times, last at {at}; the next form of the same model was "
        "taken",
        "{upstream}：Kimi 拒绝了请求形式“{form}”{times} 次，最近一次在 {at}；已改用同一模型的下一种形式",
    ),
    "form_is_remembered": (
        "nothing: the gateway remembers it, and tries it again",
        "不需要做什么：网关会记住，以后再试",
    ),
    "unknown_kind": (
        "{upstream} sent something unknown, '{kind}', {times} times, last at {at}",
        "{upstream} 发来了不认识的数据“{kind}”{times} 次，最近一次在 {at}",
    ),
    "protocol_changed": (
        "Kimi may have changed its protocol: update the gateway, or open an issue with --json and --record",
        "Kimi 可能改了协议：请更新网关，或附上 --json 和 --record 的输出提交 issue",
    ),
    "all_is_known": (
        "Kimi has sent nothing that this gateway does not know",
        "Kimi 没有发来网关不认识的数据",
    ),
    # The recording
    "record_no_turn": ("not written: no turn was tried", "没有写入：没有尝试任何提问"),
    "record_leak": (
        "not written: it would contain something private",
        "没有写入：内容里会有隐私数据",
    ),
    "report_without_record": ("please report this, without it", "请报告这个问题，但不要附上记录"),
    "record_unwritable": ("not written ({error})", "没有写入（{error}）"),
    "name_a_file": ("name a file that can be written", "请指定一个可以写入的文件"),
    "record_written": (
        "written to {name}: texts and ids are replaced, tokens are removed",
        "已写入 {name}：文本和 id 已替换，token 已去除",
    ),
    # The end
    "in_all": ("{problems} problem(s), {warnings} warning(s)", "{problems} 个问题，{warnings} 个警告"),
    # The test of one account
    "no_token_that_works": ("not tried: there is no token that works", "未尝试：没有可用的 token"),
    "token_works_now": ("the access token works", "access token 可用"),
    "token_works_for": ("the access token works for {left}", "access token 还能用 {left}"),
    "protocol_left_out": (
        "not asked: KIMI_PROTOCOL leaves that protocol out",
        "未询问：KIMI_PROTOCOL 排除了这个协议",
    ),
    "number_of_models": ("{number} models", "{number} 个模型"),
    "left_unknown": ("Kimi does not say what is left", "Kimi 没有告知剩余额度"),
    "left_not_told": ("Kimi did not say what is left some minutes ago", "几分钟前 Kimi 没有告知剩余额度"),
    "no_protocol": ("no protocol is switched on", "没有启用任何协议"),
    "ended_without_text": ("Kimi ended the answer without any text", "Kimi 结束了回答，但没有任何文字"),
    "answered_after": (
        "answered; first token after {first_s:.1f} s",
        "已回答；{first_s:.1f} 秒后出现第一个字",
    ),
    "its_chat_remains": ("its chat could not be deleted: {error}", "无法删除它的会话：{error}"),
    "its_chat_is_deleted": ("its chat is deleted", "它的会话已删除"),
}
