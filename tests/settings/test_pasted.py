"""What people paste into one field when they add an account: every form, and the ways in which it goes wrong."""

import json

import pytest

from app.settings.credentials import CredentialError
from app.settings.pasted import MAX_CHARS, Form, read_pasted
from tests.running import mint

ACCESS = mint("alice")
REFRESH = mint("alice", 7_776_000, "refresh")
OTHER = mint("bob")

_COOKIES = f"theme=dark; kimi-auth={ACCESS}; _ga=GA1.1"

CURL_BASH = f"""curl 'https://www.kimi.ai/apiv2/kimi.gateway.chat.v1.ChatService/ListChats' \\
  -H 'accept: */*' \\
  -H 'accept-language: de,en;q=0.9' \\
  -H 'authorization: Bearer {ACCESS}' \\
  -b '{_COOKIES}' \\
  -H 'user-agent: Mozilla/5.0 (X11; Linux x86_64), like Gecko' \\
  --data-raw $'{{"text":"it\\'s authorization: Bearer {OTHER}"}}'"""
CURL_COOKIE = f"curl -X POST --header 'Cookie: {_COOKIES}' https://www.kimi.com/api/user"
CURL_CMD = f"""curl ^"https://www.kimi.com/api/user^" ^
  -H ^"accept: */*^" ^
  -H ^"Authorization: Bearer {ACCESS}^" ^
  --data-raw ^"^{{^\\^"text^\\^":^\\^"100^%^^^\\^"^}}^" """
CURL_OLD_CMD = f'curl "https://www.kimi.com/api/user" ^\n  -H "Authorization: Bearer {ACCESS}" ^\n  --compressed'
POWERSHELL = f"""$session = New-Object Microsoft.PowerShell.Commands.WebRequestSession
$session.Cookies.Add((New-Object System.Net.Cookie("theme", "dark", "/", "www.kimi.com")))
$session.Cookies.Add((New-Object System.Net.Cookie("kimi-auth", "{ACCESS}", "/", "www.kimi.com")))
Invoke-WebRequest -UseBasicParsing -Uri "https://www.kimi.com/api/user" `
-WebSession $session `
-Headers @{{
"method"="GET"
"referer"="https://www.kimi.com/"
}}"""
POWERSHELL_HEADER = f"""Invoke-WebRequest -Uri "https://www.kimi.com/api/user" -Headers @{{
"authorization"="Bearer {ACCESS}"
}}"""
FETCH = f"""fetch("https://www.kimi.com/api/user", {{
  "headers": {{
    "accept": "*/*",
    "authorization": "Bearer {ACCESS}",
    "cookie": "theme=dark"
  }},
  "body": "{{\\"authorization\\": \\"Bearer {OTHER}\\"}}",
  "method": "GET"
}});"""
STORAGE = json.dumps({"access_token": ACCESS, "refresh_token": REFRESH, "theme": "dark"})

# What is pasted, the form that it is, and which tokens are taken.
FORMS: dict[str, tuple[str, Form, tuple[str | None, str | None]]] = {
    "refresh token": (REFRESH, "token", (None, REFRESH)),
    "access token": (f"Bearer {ACCESS}", "token", (ACCESS, None)),
    "in quotes": (f' "{REFRESH}" \n', "token", (None, REFRESH)),
    "opaque": ("cpmt_0123456789abcdef", "token", (None, "cpmt_0123456789abcdef")),
    "broken into lines": (f"{REFRESH[:70]}\n{REFRESH[70:140]}\n  {REFRESH[140:]}", "token", (None, REFRESH)),
    "cookie": (f"kimi-auth={ACCESS}", "cookie", (ACCESS, None)),
    "cookie line": (f"Cookie: {_COOKIES}", "cookie", (ACCESS, None)),
    "local storage": (STORAGE, "json", (ACCESS, REFRESH)),
    "local storage, printed": (json.dumps(json.loads(STORAGE), indent=2), "json", (ACCESS, REFRESH)),
    "rows of the storage": (f"access_token\t{ACCESS}\nrefresh_token\t{REFRESH}\n", "token", (ACCESS, REFRESH)),
    "one row": (f'"refresh_token": "{REFRESH}",', "token", (None, REFRESH)),
    "curl for bash": (CURL_BASH, "curl", (ACCESS, None)),
    "curl with a cookie": (CURL_COOKIE, "curl", (ACCESS, None)),
    "curl for cmd": (CURL_CMD, "curl", (ACCESS, None)),
    "curl for cmd, older": (CURL_OLD_CMD, "curl", (ACCESS, None)),
    "curl, cut off": (CURL_BASH[: CURL_BASH.index("--data-raw") + 20], "curl", (ACCESS, None)),
    "powershell": (POWERSHELL, "powershell", (ACCESS, None)),
    "powershell with a header": (POWERSHELL_HEADER, "powershell", (ACCESS, None)),
    "fetch": (FETCH, "fetch", (ACCESS, None)),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_recognised(name: str) -> None:
    text, form, tokens = FORMS[name]
    (pasted,) = read_pasted(text)
    assert (pasted.credential.access_token, pasted.credential.refresh_token) == tokens
    assert pasted.form == form and pasted.credential.label == ""


def test_a_request_says_at_which_site_its_token_lives() -> None:
    request = CURL_BASH.replace(ACCESS, "a-token-that-says-nothing")
    (pasted,) = read_pasted(request)
    assert pasted.credential.site is not None and pasted.credential.site.name == "kimi.ai"
    (elsewhere,) = read_pasted(request.replace("www.kimi.ai", "127.0.0.1:8000"))
    assert elsewhere.credential.site is None
    # What the token says itself counts more.
    (own,) = read_pasted(CURL_BASH.replace(ACCESS, mint("alice", site="kimi.com")))
    assert own.credential.site is None and own.credential.home is not None and own.credential.home.name == "kimi.com"


def test_names_and_sites_can_be_given_as_in_kimi_tokens() -> None:
    (pasted,) = read_pasted(f"home={REFRESH}@kimi.ai")
    assert pasted.credential.label == "home" and pasted.credential.refresh_token == REFRESH
    assert pasted.credential.site is not None and pasted.credential.site.name == "kimi.ai"


@pytest.mark.parametrize(
    "text",
    [
        f"home={REFRESH},{OTHER}",
        f"home={REFRESH}\n\n{OTHER}\n",
        json.dumps([f"home={REFRESH}", OTHER]),
        f"home={STORAGE}\n{OTHER}",
    ],
)
def test_several_accounts_are_taken_at_once(text: str) -> None:
    assert [pasted.credential.label for pasted in read_pasted(text)] == ["home", ""]


WRONG = {
    "empty": "  \n",
    "official_api_key": "sk-0123456789abcdef",
    "not_a_token": "two words",
    "cut_token": REFRESH[:-9],
    "cookies_without_token": "theme=dark; _ga=GA1.1",
    "broken_json": "{access_token: 1",
    "json_without_token": json.dumps({"theme": "dark"}),
    "har": json.dumps({"log": {"version": "1.2", "entries": [{"request": {"Authorization": ACCESS}}]}}),
    "request_without_token": "curl 'https://www.kimi.com/' -H 'accept: */*'",
    "unknown_site": f"{REFRESH}@example.com",
    "label_twice": f"home={REFRESH},home={OTHER}",
    "too_long": "x" * (MAX_CHARS + 1),
}


@pytest.mark.parametrize("code", WRONG)
def test_what_is_no_token_is_refused_with_a_reason(code: str) -> None:
    with pytest.raises(CredentialError) as error:
        read_pasted(WRONG[code])
    assert error.value.code == code
    assert not any(secret in str(error.value) for secret in (ACCESS, REFRESH, OTHER, "sk-0123", "two words"))


@pytest.mark.parametrize(
    "text",
    [
        *("[", "[1, null]", "[{}]", "[[]]", "curl", "curl -H", "fetch(", "$session =", "{", "@", "=", "\x00"),
        *("[" * 300 + "]" * 300, '[{"a":' * 300 + "1" + "}]" * 300, '{"a":' * 5000),
    ],
)
def test_nonsense_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(CredentialError):
        read_pasted(text)
