"""Sends one message to ``NOTIFY_URL``, in the form that its receiver takes. Knows no event.

The address is a secret: whoever has it can write to the owner. It is in no error.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import requests

from app.accounts.standings import Language
from app.notifications.conditions import Message

# For the connection, and for each part of the answer. Seconds.
_TIMEOUT_S = 10.0
# How much of an answer is read, where it says whether the message was taken.
_MOST_BYTES = 4096

_TITLE = "Kimi Gateway"


# Why a message was not taken, by code. ``{detail}``: a status, a code of the receiver, or the kind of an exception.
_REASONS: Mapping[str, Mapping[Language, str]] = {
    "certificate": {"en": "the receiver's certificate is not accepted", "zh": "接收方的证书无法验证"},
    "timeout": {"en": "no answer within {detail} s", "zh": "{detail} 秒内没有回应"},
    "unreachable": {"en": "the receiver cannot be reached ({detail})", "zh": "无法连接接收方（{detail}）"},
    "redirect": {
        "en": "the receiver answered {detail}, a redirect, which is not followed",
        "zh": "接收方回应 {detail}（重定向），网关不会跟随",
    },
    "status": {"en": "the receiver answered {detail}", "zh": "接收方回应 {detail}"},
    "not_taken": {"en": "the receiver did not take the message ({detail})", "zh": "接收方没有接受消息（{detail}）"},
}


class NotDelivered(Exception):
    """The message was not taken. ``code``: one of _REASONS. The text says why, without the address."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(reason(code, detail, "en"))
        self.code = code
        self.detail = detail


def reason(code: str, detail: str, language: Language) -> str:
    """Why a message was not taken, in words."""
    return _REASONS[code][language].format(detail=detail)


@dataclass(frozen=True, slots=True)
class Form:
    """``body``: what is sent, as JSON unless it is a text. ``code``: the field of an answer with status 200 that says
    whether the message was taken, and ``taken`` its value then; empty where the status says it."""

    body: Callable[[Message], object]
    code: str = ""
    taken: int = 0


def _with_url(message: Message) -> str:
    return f"{message.text} {message.url}"


# Wire formats, as their documentations say in 2026-11: docs.ntfy.sh/publish (the body is the message), Discord's
# "Execute Webhook", Feishu's and DingTalk's custom robots (WeCom's takes the same as DingTalk's), Bark's API V2.
# Slack and Mattermost read ``text`` of ``json``.
FORMS: Mapping[str, Form] = {
    "json": Form(asdict),
    "text": Form(_with_url),
    "discord": Form(lambda message: {"content": _with_url(message)}),
    "feishu": Form(lambda message: {"msg_type": "text", "content": {"text": _with_url(message)}}, "code"),
    "dingtalk": Form(
        lambda message: {"msgtype": "text", "text": {"content": f"{_TITLE}: {_with_url(message)}"}}, "errcode"
    ),
    "bark": Form(lambda message: {"title": _TITLE, "body": message.text, "url": message.url}, "code", 200),
}


def deliver(url: str, form: str, message: Message) -> None:
    """Sends the message, once. ``form``: one of FORMS. Follows no redirect. Raises NotDelivered."""
    kind = FORMS[form]
    body = kind.body(message)
    is_text = isinstance(body, str)
    data = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    try:
        with requests.post(
            url,
            data=data.encode(),
            headers={
                "Content-Type": f"{'text/plain' if is_text else 'application/json'}; charset=utf-8",
                "User-Agent": "kimi-gateway",
            },
            timeout=_TIMEOUT_S,
            allow_redirects=False,
            stream=True,
        ) as response:
            _check(response, kind)
    except requests.exceptions.SSLError:
        raise NotDelivered("certificate") from None
    except requests.exceptions.Timeout:
        raise NotDelivered("timeout", f"{_TIMEOUT_S:.0f}") from None
    except requests.exceptions.RequestException as e:
        # The text of such an exception contains the address.
        raise NotDelivered("unreachable", type(e).__name__) from None


def _check(response: requests.Response, form: Form) -> None:
    """Raises NotDelivered."""
    if 300 <= response.status_code < 400:
        raise NotDelivered("redirect", str(response.status_code))
    if not 200 <= response.status_code < 300:
        raise NotDelivered("status", str(response.status_code))
    if not form.code:
        return
    deadline, content = time.monotonic() + _TIMEOUT_S, b""
    for piece in response.iter_content(_MOST_BYTES):
        content += piece
        if len(content) >= _MOST_BYTES or time.monotonic() > deadline:
            break
    code = None
    with contextlib.suppress(ValueError, AttributeError):
        code = json.loads(content[:_MOST_BYTES]).get(form.code)
    if isinstance(code, int) and code != form.taken:
        raise NotDelivered("not_taken", f"{form.code} {code}")
