"""The state of an account, as a value, and the sentence for each state, in English and Chinese. Pure functions.

The console, ``/readyz``, the doctor and the log all show these sentences, so that they say the same. A new state is a
new row of ``ROWS``.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from app.settings.credentials import Credential, read_expiry
from app.store import TokenRow
from app.store.leases import REJECTED, Cooldown
from app.upstreams.account import duration, when

Kind = Literal["serving", "busy", "cooling", "paused", "ending", "renewing", "needs_login", "sealed"]
Language = Literal["en", "zh"]
# good: nothing to do. wait: it becomes good by itself. bad: a person must do something. off: a person wants it so.
Tone = Literal["good", "wait", "bad", "off"]

# The kinds of an account that serves no request until a person has done something.
UNUSABLE: frozenset[Kind] = frozenset({"needs_login", "sealed"})
# The same, and those that a person wants so.
OUT_OF_USE: frozenset[Kind] = UNUSABLE | {"paused"}
# The kinds of an account that works now and will stop working.
ENDING: frozenset[Kind] = frozenset({"ending"})


@dataclass(frozen=True, slots=True)
class Standing:
    """How one account stands. ``cause``: tells the rows of one kind apart. ``model``: it concerns this model only.
    Times are Unix seconds: ``since`` when it began, ``until`` when it ends or changes, ``login_until`` when the login
    ends if it is not used. ``said``: why it failed, in our or Kimi's words.
    """

    kind: Kind
    account_id: str
    label: str
    cause: str = ""
    since: float | None = None
    until: float | None = None
    login_until: float | None = None
    model: str = ""
    said: str = ""

    @property
    def tone(self) -> Tone:
        return _row(self).tone

    @property
    def needs_owner(self) -> bool:
        """Whether a person has to do something about it, now or before it ends."""
        return self.tone == "bad" or self.kind in ENDING


@dataclass(frozen=True, slots=True)
class Words:
    """A row in one language. ``state``: what is so. ``advice``: what to do; empty if nothing has to be done. Both are
    templates of ``str.format`` with the names of ``values``."""

    state: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    tone: Tone
    en: Words
    zh: Words

    def words(self, language: Language) -> Words:
        return self.zh if language == "zh" else self.en


# Where there is no account at all.
NO_ACCOUNT: Mapping[Language, str] = {
    "en": "no Kimi account yet: open /console, run `flask --app wsgi accounts add`, or set KIMI_TOKENS and restart",
    "zh": "还没有 Kimi 账号：请打开 /console，或运行 `flask --app wsgi accounts add`，或者设置 KIMI_TOKENS 后重启",
}

SEALED_BY_ANOTHER = "another GATEWAY_SECRET has sealed it, or this gateway has none"

# What to do about a login that cannot be used any more.
NEW_LOGIN = (
    "Log in at Kimi again in a private window, add the refresh_token of that login at /console or with `flask --app "
    "wsgi accounts add`, and close the window without logging out."
)
NEW_LOGIN_ZH = (
    "请在浏览器的无痕窗口里重新登录 Kimi，在 /console 或用 `flask --app wsgi accounts add` 添加这次登录的 "
    "refresh_token，然后直接关闭窗口，不要退出登录。"
)

# By kind and cause; those of a model have the kind "cooling" and a cause that ends with "/model".
ROWS: Mapping[tuple[Kind, str], Row] = {
    ("serving", "renewable"): Row(
        "good",
        Words("Ready. Its token works until {until} and is renewed by itself."),
        Words("可用。token 有效到 {until}，会自动续期。"),
    ),
    ("serving", "login"): Row(
        "good",
        Words(
            "Ready. Its token works until {until} and is renewed by itself; the login ends on {login_until} if it "
            "is not used."
        ),
        Words("可用。token 有效到 {until}，会自动续期；如果一直不用，登录在 {login_until} 失效。"),
    ),
    ("serving", "first"): Row(
        "good",
        Words("Ready. It has no access token yet: the gateway gets one with the refresh token."),
        Words("就绪。还没有 access token，网关会用 refresh token 去取。"),
    ),
    ("serving", "timeless"): Row(
        "good",
        Words("Ready. Its token does not say when it expires, and nothing renews it."),
        Words("可用。token 没有写明何时过期，也无法自动续期。"),
    ),
    ("serving", "retrying"): Row(
        "wait",
        Words("Ready until {until}. The last renewal of its token failed ({said}); it is tried again by itself."),
        Words("在 {until} 之前可用。上一次续期失败（{said}），会自动重试。"),
    ),
    ("busy", ""): Row(
        "good",
        Words("Busy. All its places are taken now; further requests wait."),
        Words("已满负荷，新的请求要排队。"),
    ),
    ("cooling", ""): Row(
        "wait",
        Words("A failure stopped this account. It is used again from {until}, by itself."),
        Words("此账号刚刚出错，{until} 起会自动恢复使用。"),
    ),
    ("cooling", "by hand"): Row(
        "off",
        Words("You gave this account a rest. It is used again from {until}, by itself."),
        Words("你让此账号休息，{until} 起会自动恢复使用。"),
    ),
    ("cooling", "limited"): Row(
        "wait",
        Words("Kimi limited this account until {until}. After that it is used again by itself."),
        Words("Kimi 限制了此账号的使用，到 {until} 为止；之后会自动恢复使用。"),
    ),
    ("cooling", "forbidden"): Row(
        "wait",
        Words(
            "A bot check or a block of Kimi's stopped this account. It is tried again at {until}.",
            "If this goes on, open Kimi in a browser with this account and do what it asks.",
        ),
        Words(
            "此账号被 Kimi 的人机验证或封禁拦住了，{until} 会再试。",
            "如果一直这样，请用此账号在浏览器里打开 Kimi，按页面的要求处理。",
        ),
    ),
    ("cooling", "renewal"): Row(
        "wait",
        Words("Its token could not be renewed. That is tried again at {until}, by itself."),
        Words("token 没能续期，{until} 会自动再试。"),
    ),
    ("cooling", "/model"): Row(
        "wait",
        Words("A failure stopped {model} on this account until {until}; its other models go on."),
        Words("此账号的 {model} 刚刚出错，{until} 起恢复；其他模型照常。"),
    ),
    ("cooling", "limited/model"): Row(
        "wait",
        Words("Kimi limited {model} on this account until {until}; its other models go on."),
        Words("Kimi 限制了此账号的 {model}，到 {until} 为止；其他模型照常。"),
    ),
    ("cooling", "needs a plan/model"): Row(
        "wait",
        Words(
            "This account has no credits or plan for {model}. It is tried again at {until}; its other models go on.",
            "Buy credits or a plan at Kimi, or use another model.",
        ),
        Words(
            "此账号没有使用 {model} 的额度或会员，{until} 会再试；其他模型照常。",
            "请在 Kimi 购买额度或会员，或者换一个模型。",
        ),
    ),
    ("cooling", "not served/model"): Row(
        "wait",
        Words(
            "Kimi does not serve {model} to this account now. It is tried again at {until}; its other models go on."
        ),
        Words("Kimi 目前不向此账号提供 {model}，{until} 会再试；其他模型照常。"),
    ),
    ("paused", ""): Row(
        "off",
        Words("You paused this account on {since}."),
        Words("你在 {since} 暂停了此账号。"),
    ),
    ("ending", ""): Row(
        "wait",
        Words("Works for {left} more, until {until}; nothing renews its token.", NEW_LOGIN),
        Words("还能用 {left}，到 {until} 为止；token 无法自动续期。", NEW_LOGIN_ZH),
    ),
    ("ending", "refused"): Row(
        "bad",
        Words(
            "Kimi refuses to renew this login ({said}): it was used or ended elsewhere. Its token works until "
            "{until}.",
            NEW_LOGIN,
        ),
        Words("Kimi 拒绝给这次登录续期（{said}）：它在别处用过或已经退出。token 有效到 {until}。", NEW_LOGIN_ZH),
    ),
    ("ending", "ended"): Row(
        "bad",
        Words(
            "The login ended at {login_until}: its refresh token has expired. Its token works until {until}.",
            NEW_LOGIN,
        ),
        Words("登录已在 {login_until} 失效：refresh token 过期了。token 有效到 {until}。", NEW_LOGIN_ZH),
    ),
    ("renewing", ""): Row(
        "wait",
        Words("Its token has expired and could not be renewed ({said}). That is tried again by itself."),
        Words("token 已过期，续期没有成功（{said}），会自动重试。"),
    ),
    ("needs_login", "expired"): Row(
        "bad",
        Words("The Kimi token expired at {until}, and nothing renews it.", NEW_LOGIN),
        Words("token 已在 {until} 过期，无法自动续期。", NEW_LOGIN_ZH),
    ),
    ("needs_login", "refused"): Row(
        "bad",
        Words("Kimi refuses to renew this login ({said}): it was used or ended elsewhere.", NEW_LOGIN),
        Words("Kimi 拒绝给这次登录续期（{said}）：它在别处用过或已经退出。", NEW_LOGIN_ZH),
    ),
    ("needs_login", "rejected"): Row(
        "bad",
        Words(
            "Kimi has rejected the token. It is tried again in {left}, or at once after `flask --app wsgi accounts "
            "wake {label}`.",
            "If it stays so: " + NEW_LOGIN[0].lower() + NEW_LOGIN[1:],
        ),
        Words(
            "Kimi 不接受此账号的 token。{left}后会再试，也可以用 "
            "`flask --app wsgi accounts wake {label}` 让它立刻再试。",
            "如果一直这样：" + NEW_LOGIN_ZH,
        ),
    ),
    ("needs_login", "ended"): Row(
        "bad",
        Words("The login ended at {login_until}: its refresh token has expired.", NEW_LOGIN),
        Words("登录已在 {login_until} 失效：refresh token 过期了。", NEW_LOGIN_ZH),
    ),
    ("sealed", ""): Row(
        "bad",
        Words(
            "Its token cannot be read: {said}.",
            "Give every gateway on this database the same GATEWAY_SECRET, then restart.",
        ),
        Words("读不出它的 token：{said}。", "请给使用此数据库的所有网关设置同一个 GATEWAY_SECRET，然后重启。"),
    ),
}


def problem_of(c: Credential, row: TokenRow | None, unreadable: str | None = None) -> Standing | None:
    """Why no request may use an account, as far as its tokens say; None if one may. ``row``: its newest pair, if it
    has a refresh token. ``unreadable``: why that cannot be read."""
    if row is None:
        if is_over(c.expires_at):
            return Standing("needs_login", c.id, c.label, "expired", until=c.expires_at)
        return None
    if row.access_token is not None and not is_over(row.expires_at):
        return None
    if row.revoked:
        return Standing("needs_login", c.id, c.label, "refused", said=row.last_error or "")
    if unreadable is not None:
        return Standing("sealed", c.id, c.label, said=unreadable)
    return None


def standing_of(
    c: Credential, row: TokenRow | None, cooldown: Cooldown | None = None, unreadable: str | None = None
) -> Standing:
    """How an account stands. ``cooldown``: the one of the whole account that runs now. For the rest see
    ``problem_of``."""
    problem = problem_of(c, row, unreadable)
    if problem is not None:
        return problem
    if cooldown is not None and cooldown.cause == REJECTED:
        return Standing("needs_login", c.id, c.label, "rejected", until=cooldown.until)
    refresh_token = row.refresh_token if row is not None else c.refresh_token
    login_until = read_expiry(refresh_token) if refresh_token is not None else None
    access, until = (row.access_token, row.expires_at) if row is not None else (c.access_token, c.expires_at)
    works = access is not None and not is_over(until)
    if row is not None and row.revoked:
        return Standing("ending", c.id, c.label, "refused", until=until, said=row.last_error or "")
    if is_over(login_until):
        kind: Kind = "ending" if works else "needs_login"
        return Standing(kind, c.id, c.label, "ended", until=until, login_until=login_until)
    if cooldown is not None:
        return Standing("cooling", c.id, c.label, cooldown.cause, until=cooldown.until)
    if refresh_token is None:
        if until is None:
            return Standing("serving", c.id, c.label, "timeless")
        return Standing("ending", c.id, c.label, until=until)
    said = row.last_error if row is not None else None
    if not works:
        if said is not None:
            return Standing("renewing", c.id, c.label, said=said)
        return Standing("serving", c.id, c.label, "first")
    if said is not None:
        return Standing("serving", c.id, c.label, "retrying", until=until, said=said)
    cause = "renewable" if login_until is None else "login"
    return Standing("serving", c.id, c.label, cause, until=until, login_until=login_until)


def model_standing(c: Credential, model: str, cooldown: Cooldown) -> Standing:
    """A model that an account is not asked for now."""
    return Standing("cooling", c.id, c.label, cooldown.cause, until=cooldown.until, model=model)


def is_over(expires_at: float | None) -> bool:
    return expires_at is not None and expires_at <= time.time()


def key_of(standing: Standing) -> tuple[Kind, str]:
    """The row of a standing. A cause that has none gets the row of its kind without a cause."""
    ending = "/model" if standing.model else ""
    key = (standing.kind, standing.cause + ending)
    return key if key in ROWS else (standing.kind, ending)


def _row(standing: Standing) -> Row:
    return ROWS[key_of(standing)]


# Writes a time in Unix seconds for people.
WriteTime = Callable[[float], str]


def values(standing: Standing, language: Language, write: WriteTime = when) -> dict[str, str]:
    """The values of the templates of ``words``."""
    left_s = max(0.0, (standing.until or 0.0) - time.time())
    return {
        "label": standing.label,
        "model": standing.model,
        "said": standing.said,
        "since": _written(standing.since, write),
        "until": _written(standing.until, write),
        "login_until": _written(standing.login_until, write),
        "left": duration_zh(left_s) if language == "zh" else duration(left_s),
    }


def words(standing: Standing, language: Language) -> Words:
    return _row(standing).words(language)


def state(standing: Standing, language: Language = "en") -> str:
    """What is so, without what to do."""
    return words(standing, language).state.format(**values(standing, language))


def advice(standing: Standing, language: Language = "en") -> str:
    """What to do; empty if nothing has to be done."""
    return words(standing, language).advice.format(**values(standing, language))


def sentence(standing: Standing, language: Language = "en") -> str:
    """What is so, and what to do. Without the account's name."""
    gap = "" if language == "zh" else " "
    return gap.join(filter(None, (state(standing, language), advice(standing, language))))


def named_sentence(standing: Standing, language: Language = "en") -> str:
    """``label: sentence``"""
    return f"{standing.label}{'：' if language == 'zh' else ': '}{sentence(standing, language)}"


def duration_zh(seconds: float) -> str:
    if seconds < 7200:
        return f"{max(1, round(seconds / 60))} 分钟"
    return f"{seconds / 3600:.0f} 小时" if seconds < 172_800 else f"{seconds / 86_400:.0f} 天"


def _written(at: float | None, write: WriteTime) -> str:
    return "" if at is None else write(at)
