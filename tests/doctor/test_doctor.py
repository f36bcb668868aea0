"""`flask --app wsgi doctor`, run as a person would: what it says of a healthy Kimi, and of every broken one."""

import base64
import json
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from app.doctor.redaction import Redactor, redact_text
from app.simulator.tokens import user_id
from tests.running import (
    CANARY,
    EACH_GENERATION,
    Profile,
    Running,
    Simulator,
    ask,
    mint,
    read_stream,
    secrets_in,
    wait_until,
)
from tests.running.commands import SECRET, Surgery, run_keys
from tests.running.databases import SqliteDatabase
from tests.running.decoding import Decoded, decode_of
from tests.running.each_case import check_each
from tests.running.tables import Tables
from tests.running.wire import ALL_CASES, CONNECT_CASES, WireCase, check


def refresh(user: str) -> str:
    return mint(user, 7_776_000, "refresh")


@pytest.fixture
def surgery(running: Running, simulator: Simulator, tmp_path: Path) -> Surgery:
    running.copy_tables_to(tmp_path / "doctor.db")
    return Surgery(simulator.url, tmp_path)


def test_a_healthy_gateway_has_no_problem(surgery: Surgery, simulator: Simulator) -> None:
    token = refresh("alice")
    keys: dict[str, Any] = {"GATEWAY_API_KEYS": "key-one-of-enough-length", "HOST": "0.0.0.0"}
    visit = surgery.visit(for_real=True, KIMI_TOKENS=f"home={token}", **keys)
    assert visit.code == 0 and visit.lines[-1] == "0 problem(s), 0 warning(s)"
    assert "1 account(s) in KIMI_TOKENS; listens on 0.0.0.0:8000" in visit.of("settings", "ok")
    assert "opens, can be written, version" in visit.of("store", "ok")
    assert "takes 1 API key(s)" in visit.of("keys", "ok")
    account = visit.of("account", "ok")
    assert f"home (…{token[-4:]}): Ready. It has no access token yet" in account
    assert f"{simulator.url} answers (" in visit.of("site", "ok") and "answers" in visit.of("auth", "ok")
    assert "home: renewed; the access token works until 20" in visit.of("refresh", "ok")
    assert "k2, k2-nosearch" in visit.of("models", "ok")
    assert re.search(r"kimi_rest, k2: answered; first token after \d+\.\d s, complete", visit.of("turn", "ok"))
    assert "nothing that this gateway does not know" in visit.of("unknown", "ok")
    state = simulator.state()
    assert (state["turns"], state["deleted_chats"], state["refreshes"]) == (1, 1, 1)


def english_in(line: str) -> list[str]:
    """Four English words in a row, outside of brackets, quotes and commands."""
    plain = re.sub(r"（[^（）]*）|`[^`]*`|flask --app wsgi [\w-]+", "", line)
    return re.findall(r"(?:\b[A-Za-z']+\b[ ,;:]+){3}\b[A-Za-z']+", plain)


def test_its_lines_are_chinese_where_that_is_asked_for(surgery: Surgery, simulator: Simulator) -> None:
    """What fails, too. The marks and the names of the checks are the same in both languages."""
    keys: dict[str, Any] = {"GATEWAY_API_KEYS": "key-one-of-enough-length", "NO_SUCH_SETTING_OF_KIMI": "1"}
    visits = [
        surgery.visit("--language", "zh", KIMI_TOKENS=f"home={refresh('alice')},old={mint('bob', -60)}", **keys)
    ]
    simulator.knobs(fail="stream_pushing")
    visits.append(surgery.visit("--language", "zh", KIMI_PROTOCOL="auto"))
    visits.append(
        surgery.visit("--language", "zh", KIMI_BASE_URL="http://127.0.0.1:1", DATABASE_URL="sqlite:////no/x.db")
    )
    assert "已续期；access token 有效到" in visits[0].of("refresh", "ok")
    assert "无法自动续期" in visits[0].of("account", "problem") and "连接被拒绝" in visits[2].of("site", "problem")
    for visit in visits:
        assert re.fullmatch(r"\d+ 个问题，\d+ 个警告", visit.lines[-1])
        for line in visit.lines[:-1]:
            assert re.search("[\u3000-\u9fff\uff00-\uffef]", line) and not english_in(line), line
    document = json.loads(surgery.visit("--json", "--language", "zh").output)
    assert not re.search("[\u4e00-\u9fff]", json.dumps(document, ensure_ascii=False))


@pytest.mark.parametrize("protocol", ["sse", "connect"])
def test_it_tries_how_well_kimi_calls_functions(surgery: Surgery, simulator: Simulator, protocol: str) -> None:
    visit = surgery.visit("--tools", KIMI_PROTOCOL=protocol)
    told = [line for line in visit.lines if line[9:].startswith("tools ")]
    assert "12 short turns follow" in told[0] and len(told) == 1 + 12 + 1
    # The simulated Kimi makes one call at a time, with arguments of its own choice.
    wrong = [line.split(": ", 1)[1] for line in told[1:-1] if not line.endswith(": right")]
    assert [text.split(":")[0] for text in wrong] == [
        "two calls in one message",
        "a text with quotes and backslashes",
    ]
    assert "10 of 12 right" in told[-1] and visit.code == 0
    state = simulator.state()
    assert (state["turns"], state["deleted_chats"]) == (13, 13)
    # What stands in a log or a report says nothing of what was asked.
    assert "Ulm" not in visit.output and "echo no" not in visit.output


@pytest.mark.parametrize(
    ("behaviour", "right", "wrong"),
    [("refuse", 3, "no call, but words"), ("broken", 1, "cannot be used"), ("k2", 8, "tools:form-k2")],
)
def test_it_says_how_functions_are_not_called(
    surgery: Surgery, simulator: Simulator, behaviour: str, right: int, wrong: str
) -> None:
    # Where one is not asked for, the last two call all the same.
    simulator.knobs(tools=behaviour)
    visit = surgery.visit("--tools")
    assert wrong in visit.output, visit.output
    assert f"{right} of 12 right" in visit.output, visit.output


def test_a_limited_account_is_not_asked_on(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(fail="stream_pushing")
    visit = surgery.visit("--tools")
    assert "0 of 1 right" in visit.output and simulator.state()["turns"] <= 3


def test_a_token_is_renewed_only_where_it_is_due_or_asked_for(surgery: Surgery, simulator: Simulator) -> None:
    token = refresh("alice")
    surgery.visit(KIMI_TOKENS=token)
    assert "not due until 20" in surgery.visit(KIMI_TOKENS=token).of("refresh", "ok")
    assert simulator.state()["refreshes"] == 1
    assert "renewed" in surgery.visit("--refresh", KIMI_TOKENS=token).of("refresh", "ok")
    state = simulator.state()
    assert (state["refreshes"], state["stale_refreshes"]) == (2, 0)


def test_a_gateway_goes_on_with_what_the_doctor_renewed(
    running: Running, surgery: Surgery, simulator: Simulator
) -> None:
    token = refresh("alice")
    with running.gateway(simulator.url, KIMI_TOKENS=token) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
        url = gateway.database.url
        assert surgery.visit("--refresh", KIMI_TOKENS=token, DATABASE_URL=url).code == 0
        assert ask(gateway, True).finish_reason == "stop"
    assert simulator.state()["stale_refreshes"] == 0


# Settings and store


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"KIMI_TOKENS": "two words here"}, "KIMI_TOKENS: entry 1 is not a token"),
        ({"HEARTBEAT_S": "often"}, "HEARTBEAT_S=often: expected a number of seconds"),
        ({"HOST": "0.0.0.0"}, "GATEWAY_API_KEYS is not set"),
        ({"KIMI_BASE_URL": "kimi.com"}, "KIMI_BASE_URL=kimi.com: expected an address"),
        ({"KIMI_AUTH_URL": "kimi.com"}, "KIMI_AUTH_URL=kimi.com: expected an address"),
        ({"GATEWAY_SECRET": "short"}, "GATEWAY_SECRET: expected at least 12 characters"),
    ],
)
def test_a_wrong_setting_is_named_and_the_rest_is_checked(
    surgery: Surgery, settings: dict[str, Any], says: str
) -> None:
    visit = surgery.visit(**settings)
    assert visit.code == 1 and visit.problems == ["settings"]
    assert says in visit.of("settings", "problem") and "-> correct it in .env" in visit.output
    # What depends on it is not guessed at.
    (name,) = settings
    depends = {"KIMI_TOKENS": "account", "KIMI_BASE_URL": "site", "KIMI_AUTH_URL": "auth", "GATEWAY_SECRET": "store"}
    if name in depends:
        assert "not checked: " in visit.of(depends[name], "skipped")
    visit.of("turn", "skipped" if name in ("KIMI_TOKENS", "KIMI_BASE_URL") else "ok")


def test_all_wrong_settings_are_named_at_once(surgery: Surgery) -> None:
    visit = surgery.visit(
        for_real=True, PORT="http", LEASE_S="-1", KIMI_BASEURL="x", KIMI_AUTH_URL="https://auth.kimi.ai"
    )
    assert visit.problems[:2] == ["settings", "settings"]
    assert "KIMI_BASEURL is set, but there is no such setting -> is it misspelt?" in visit.of("settings", "warning")


def test_a_database_that_cannot_be_opened_is_named(surgery: Surgery) -> None:
    (surgery.folder / "file").write_text("a file where a folder is wanted")
    visit = surgery.visit(DATABASE_URL=f"sqlite:///{surgery.folder}/file/x.db")
    assert visit.code == 1 and visit.problems == ["store"]
    assert "cannot be opened" in visit.of("store") and "-> see that its folder exists" in visit.of("store")
    # What does not need it is checked all the same.
    assert "answered" in visit.of("turn", "ok")
    visit = surgery.visit(DATABASE_URL=f"sqlite:///{surgery.folder}/file/x.db", KIMI_TOKENS=refresh("alice"))
    assert "it needs the store" in visit.of("refresh", "skipped")
    assert "no account has a token that works now" in visit.of("turn", "skipped")


def test_a_file_that_is_no_database_is_named(surgery: Surgery) -> None:
    path = surgery.folder / "notes.txt"
    path.write_text("these are my notes, not a database\n" * 100)
    visit = surgery.visit(DATABASE_URL=f"sqlite:///{path}")
    assert visit.problems == ["store"] and "file is not a database" in visit.of("store")


def test_a_database_that_cannot_be_written_is_named(surgery: Surgery) -> None:
    surgery.visit()
    with closing(sqlite3.connect(surgery.folder / "doctor.db", isolation_level=None)) as db:
        # Root may write any file, so it is made unwritable in SQLite's own way: by somebody who does not let go.
        db.execute("BEGIN IMMEDIATE")
        visit = surgery.visit()
    assert visit.problems == ["store"] and "database is locked" in visit.of("store")


def test_a_database_that_others_may_read_is_a_warning(surgery: Surgery) -> None:
    path = surgery.folder / "doctor.db"
    path.touch()
    path.chmod(0o644)
    visit = surgery.visit()
    assert visit.code == 0
    assert "has mode 0644" in visit.of("store", "warning") and f"-> chmod 600 {path}" in visit.of("store", "warning")


def test_a_wrong_secret_is_named(surgery: Surgery) -> None:
    token = refresh("alice")
    assert "encrypted with GATEWAY_SECRET" in surgery.visit(KIMI_TOKENS=token, GATEWAY_SECRET=SECRET).of(
        "store", "ok"
    )
    for wrong, says in (("", "but GATEWAY_SECRET is not set"), ("another long password", "another GATEWAY_SECRET")):
        visit = surgery.visit(KIMI_TOKENS=token, GATEWAY_SECRET=wrong)
        assert visit.problems == ["store"] and says in visit.of("store")
        assert "-> set the GATEWAY_SECRET that it was made with" in visit.of("store")


def test_keys_that_were_added_count(surgery: Surgery) -> None:
    database = SqliteDatabase(surgery.folder / "doctor.db")
    assert "takes any API key, from this machine only" in surgery.visit().of("keys", "ok")
    for arguments in (["add", "z"], ["add", "y"], ["add", "x", "--expires", "1s"], ["revoke", "y"]):
        assert run_keys(database, *arguments)[0] == 0
    wait_until("x has expired", lambda: "expired" in run_keys(database, "list")[1])
    assert "takes 1 API key(s)" in surgery.visit().of("keys", "ok")
    assert "takes 2 API key(s)" in surgery.visit(GATEWAY_API_KEYS="key-one-of-enough-length").of("keys", "ok")
    run_keys(database, "revoke", "z")
    visit = surgery.visit()
    assert visit.code == 1 and visit.problems == ["keys"]
    assert "takes no request: every key was revoked or has expired -> flask" in visit.of("keys")


def test_who_is_let_in_is_not_guessed_at(surgery: Surgery) -> None:
    visit = surgery.visit(GATEWAY_API_KEYS="two words")
    assert "not checked: GATEWAY_API_KEYS is wrong" in visit.of("keys", "skipped")
    visit = surgery.visit(DATABASE_URL=f"sqlite:///{surgery.folder}/no.db/x.db", GATEWAY_SECRET="short")
    assert "not checked: it needs the store" in visit.of("keys", "skipped")


# Accounts


def test_an_expired_access_token_is_named(surgery: Surgery, simulator: Simulator) -> None:
    visit = surgery.visit(KIMI_TOKENS=f"home={mint('alice', -60)}")
    assert visit.code == 1 and visit.problems == ["account"]
    assert "The Kimi token expired at 20" in visit.of("account") and "-> Log in at Kimi again" in visit.of("account")
    assert "no account has a token that works now" in visit.of("turn", "skipped")
    assert simulator.state()["turns"] == 0


def test_an_access_token_alone_is_a_warning(surgery: Surgery) -> None:
    visit = surgery.visit(KIMI_TOKENS=f"home={mint('alice', 900)}")
    assert visit.code == 0
    assert "nothing renews its token. -> Log in at Kimi again" in visit.of("account", "warning")


def test_a_dead_refresh_token_is_named(surgery: Surgery, simulator: Simulator) -> None:
    token = refresh("alice")
    simulator.knobs(fail="token_invalid", fail_at="refresh")
    visit = surgery.visit(KIMI_TOKENS=f"home={token}")
    assert visit.code == 1 and visit.problems == ["refresh"]
    refreshed = visit.of("refresh")
    assert "home: Kimi refuses to renew this login" in refreshed and "Log in at Kimi again" in refreshed
    visit = surgery.visit(KIMI_TOKENS=f"home={token}")
    assert visit.problems == ["account"]
    assert f"home (…{token[-4:]}): Kimi refuses to renew this login" in visit.of("account")
    assert "not tried: Kimi has refused this token already" in visit.of("refresh", "skipped")


def test_an_expired_refresh_token_is_named(surgery: Surgery) -> None:
    visit = surgery.visit(KIMI_TOKENS=mint("alice", -60, "refresh"))
    assert "account" in visit.problems and "its refresh token has expired" in visit.of("account")


def test_a_revoked_access_token_is_named(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(fail="token_invalid", fail_at="create")
    visit = surgery.visit()
    assert visit.problems == ["turn"] and "Kimi does not accept the token any more" in visit.of("turn")


def test_a_rejected_token_that_can_be_renewed_is_renewed(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(fail="token_invalid", fail_at="turn", fail_times=1)
    visit = surgery.visit(KIMI_TOKENS=refresh("alice"))
    assert visit.code == 0 and "answered after its token was rejected and renewed" in visit.of("turn", "ok")
    state = simulator.state()
    assert state["total_chats"] == state["deleted_chats"] == 2


# Sites


def test_an_unreachable_site_is_named(surgery: Surgery) -> None:
    visit = surgery.visit(KIMI_BASE_URL="http://127.0.0.1:9")
    assert visit.problems == ["site"] and "the connection is refused" in visit.of("site")
    assert "-> nothing listens there: check KIMI_BASE_URL" in visit.of("site")
    assert "the site cannot be reached" in visit.of("turn", "skipped")


def test_a_name_that_does_not_exist_is_named(surgery: Surgery) -> None:
    visit = surgery.visit(KIMI_BASE_URL="https://www.kimi.invalid")
    assert visit.problems == ["site"] and "the name www.kimi.invalid cannot be resolved" in visit.of("site")


def test_a_site_without_tls_is_named(surgery: Surgery) -> None:
    with host_with_a_clock(0) as url:
        visit = surgery.visit(KIMI_BASE_URL=url.replace("http:", "https:"))
    assert visit.problems == ["site"] and "TLS fails" in visit.of("site")


def test_an_unreachable_auth_host_is_named(surgery: Surgery) -> None:
    visit = surgery.visit(KIMI_TOKENS=refresh("alice"), KIMI_AUTH_URL="http://127.0.0.1:9")
    assert visit.problems == ["auth"] and "-> nothing listens there: check KIMI_AUTH_URL" in visit.of("auth")
    # The site's older service takes its place, for now.
    assert "renewed" in visit.of("refresh", "ok") and "answered" in visit.of("turn", "ok")
    assert "the connection is refused" in surgery.visit(KIMI_AUTH_URL="http://127.0.0.1:9").of("auth", "warning")


@pytest.mark.parametrize(
    ("status", "headers", "body", "says", "advice"),
    [
        (
            307,
            {"Location": "https://www.kimi.ai/api/user"},
            b"",
            "redirects to another site, www.kimi.ai",
            "set KIMI_BASE_URL=https://www.kimi.ai",
        ),
        (
            302,
            {"Location": "//www.kimi.ai:444/login"},
            b"",
            "redirects to another site, www.kimi.ai",
            "set KIMI_BASE_URL=http://www.kimi.ai:444, or",
        ),
        (302, {"Location": "/login"}, b"", "redirects to another of its own pages", "check KIMI_BASE_URL"),
        (
            403,
            {"Content-Type": "text/html"},
            b"<html><title>Just a moment...</title></html>",
            "answers with a web page instead of data (status 403): a bot wall",
            "try another network",
        ),
        (200, {"Content-Type": "text/html"}, b"<html></html>", "(status 200): a bot wall", "try another network"),
        (403, {"Content-Type": "text/plain"}, b"error code: 1020", "(status 403): a bot wall", "try another network"),
        (403, {}, b"", "(status 403): a bot wall", "try another network"),
        (502, {"Content-Type": "text/html"}, b"<html></html>", "answers 502", "try again later"),
    ],
)
def test_a_site_that_answers_something_else_is_named(
    surgery: Surgery,
    simulator: Simulator,
    status: int,
    headers: dict[str, str],
    body: bytes,
    says: str,
    advice: str,
) -> None:
    simulator.script(body, match="/api/", status=status, headers=headers, framing="length", times=50)
    visit = surgery.visit()
    assert visit.code == 1 and {"site", "turn"} <= set(visit.problems)
    assert says in visit.of("site") and advice in visit.of("site")


@pytest.mark.parametrize("location", ["https://[", "//www.kimi.ai:port/login"])
def test_a_redirect_to_no_address_hides_no_other_finding(
    surgery: Surgery, simulator: Simulator, location: str
) -> None:
    simulator.script(b"", match="/api/", status=302, headers={"Location": location}, framing="length", times=50)
    visit = surgery.visit("--record", str(surgery.folder / "wire.json"))
    assert visit.code == 1 and visit.problems == ["site", "turn"]
    for line in (visit.of("site"), visit.of("auth")):
        assert "redirects, but not to an address -> check KIMI_" in line
    assert "redirects" in visit.of("turn") and visit.of("clock")
    assert "written to wire.json" in visit.of("record", "ok")


def test_a_date_that_no_calendar_has_hides_no_other_finding(surgery: Surgery, simulator: Simulator) -> None:
    headers = {"Date": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Content-Type": "application/json"}
    simulator.script(b"{}", match="/api/user", status=401, headers=headers, framing="length")
    visit = surgery.visit()
    assert visit.code == 0 and visit.of("site", "ok") and visit.of("auth", "ok") and visit.of("turn", "ok")


@contextmanager
def host_with_a_clock(ahead_s: float) -> Iterator[str]:
    """A host that refuses every call in JSON and says what time it believes it is."""

    def reply() -> bytes:
        date = formatdate(time.time() + ahead_s, usegmt=True)
        head = f"HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                # The whole request, or the greeting of TLS, which is not understood here.
                received = connection.recv(65536)
                while received and received[0] != 0x16 and b"\r\n\r\n" not in received:
                    received += connection.recv(65536)
                connection.sendall(reply())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("ahead_s", "mark", "says"),
    [
        (95, "warning", r"this machine's clock is (8\d|9[0-6]) s behind Kimi's -> set it \(NTP\)"),
        (-3600, "warning", r"this machine's clock is 3(599|60\d|61\d) s ahead of Kimi's"),
        (0, "ok", r"within \d s of Kimi's"),
    ],
)
def test_a_clock_that_is_wrong_is_named(surgery: Surgery, ahead_s: float, mark: str, says: str) -> None:
    with host_with_a_clock(ahead_s) as url:
        visit = surgery.visit(KIMI_AUTH_URL=url)
    assert visit.code == 0 and re.search(says, visit.of("clock", mark))


# Turns


@pytest.mark.parametrize(
    ("knobs", "says", "advice"),
    [
        ({"fail": "overloaded"}, "Kimi is overloaded", "nothing is wrong on this side: try again later"),
        ({"fail": "http_429"}, "Kimi limits this account", "wait some minutes"),
        ({"fail": "stream_pushing"}, "another answer of this account", "wait some minutes"),
        ({"fail": "account_abnormal", "fail_at": "create"}, "flagged this account", "open the site in a browser"),
        ({"fail": "forbidden_html", "fail_at": "create"}, "perhaps a bot wall", "try another network"),
        ({"fail": "html_200"}, "perhaps a bot wall", "a bot wall, or Kimi has changed its protocol"),
        ({"fail": "redirect", "fail_at": "create"}, "redirects to kimi.invalid", "see the line on the site"),
        ({"fail": "empty"}, "without any text", "the account may be limited"),
        ({"fail": "empty_close"}, "before the end of the answer", "see the line on the site"),
        ({"fail": "silent_body"}, "no complete answer within 1 s", "try again"),
        ({"profile": "connect-2026"}, "does not serve Kimi's SSE protocol", "see the line on the site"),
    ],
    ids=lambda value: value.get("fail", value.get("profile")) if isinstance(value, dict) else "",
)
def test_a_turn_that_fails_is_named(
    surgery: Surgery, simulator: Simulator, knobs: dict[str, Any], says: str, advice: str
) -> None:
    simulator.knobs(**knobs)
    visit = surgery.visit(FIRST_EVENT_TIMEOUT_S="1")
    assert visit.code == 1 and visit.problems == ["turn"]
    assert says in visit.of("turn") and advice in visit.of("turn").partition("->")[2]
    assert simulator.state()["total_chats"] == simulator.state()["deleted_chats"]


def test_each_generation_takes_a_turn(surgery: Surgery, simulator: Simulator) -> None:
    visit = surgery.visit(KIMI_PROTOCOL="auto")
    assert visit.code == 0
    assert "kimi_rest, k2: answered" in visit.of("turn", "ok")
    assert "kimi_connect, kimi-k2.5: answered" in visit.of("turn", "ok")
    assert "Kimi's own list names" in visit.of("models", "ok")
    assert [chat["deleted"] for chat in simulator.state()["chats"].values()] == [True, True]


@pytest.mark.parametrize(("profile", "gone"), [("connect-2026", "kimi_rest"), ("sse-2025", "kimi_connect")])
def test_a_generation_that_is_gone_is_a_warning_while_the_other_answers(
    surgery: Surgery, simulator: Simulator, profile: str, gone: str
) -> None:
    simulator.knobs(profile=profile)
    visit = surgery.visit(KIMI_PROTOCOL="auto")
    assert visit.code == 0 and f"{gone}, k" in visit.of("turn", "warning")
    assert "answered" in visit.of("turn", "ok")


def test_an_overloaded_connect_generation_is_named(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(fail="overloaded")
    visit = surgery.visit(KIMI_PROTOCOL="connect")
    assert visit.code == 1 and visit.problems == ["turn"] and "kimi_connect, kimi-k2.5" in visit.of("turn")


def test_a_chat_that_cannot_be_deleted_is_left_to_the_gateway(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(fail="http_500", fail_at="delete")
    visit = surgery.visit()
    assert visit.code == 0 and "its chat could not be deleted" in visit.of("turn", "warning")
    assert len(Tables(SqliteDatabase(surgery.folder / "doctor.db")).chats_to_delete()) == 1


def test_what_was_not_understood_in_normal_running_is_counted_by_name(
    running: Running, surgery: Surgery, simulator: Simulator
) -> None:
    body = b'data: {"event":"dance","text":"x"}\n\ndata: {"event":"all_done"}\n\n'
    with running.gateway(simulator.url) as gateway:
        for _ in range(2):
            simulator.script(body)
            read_stream(gateway.say("hello", stream=True))
    simulator.script(b'data: {"event":"\\u001b[31mdance","text":"x"}\n\ndata: {"event":"all_done"}\n\n')
    visit = surgery.visit(DATABASE_URL=gateway.database.url)
    assert "kimi_rest sent something unknown, 'event dance', 2 times, last at 20" in visit.of("unknown", "warning")
    assert "'event  [31mdance', 1 times" in visit.of("unknown", "warning") and "\x1b" not in visit.output


# What is given away


def test_json_holds_nothing_private(surgery: Surgery, simulator: Simulator) -> None:
    tokens = {"my-own-label": refresh("alice"), "other.label": mint("bob", 500), "third": mint("carol", -5)}
    simulator.knobs(fail="token_invalid", fail_at="refresh", fail_message=f"{CANARY} dear Alice")
    entries = ",".join(f"{label}={token}" for label, token in tokens.items())
    for visit in (
        surgery.visit("--json", KIMI_TOKENS=entries),
        surgery.visit("--json", KIMI_TOKENS=entries),
        surgery.visit("--json", KIMI_TOKENS=entries, DATABASE_URL=f"sqlite:///{surgery.folder}/doctor.db/x.db"),
        surgery.visit("--json", KIMI_TOKENS=f"{entries},my-own-label={mint('dave')}", PORT="my-own-label"),
        surgery.visit("--json", KIMI_TOKENS=entries, KIMI_BASE_URL="http://my-own-label:third@127.0.0.1:9"),
    ):
        document = json.loads(visit.output)
        assert document["ok"] is False and {"mark", "check", "found", "advice"} == set(document["findings"][0])
        private = [*tokens, *tokens.values(), str(surgery.folder), "Alice", CANARY]
        private += [user_id(user) for user in ("alice", "bob", "carol")] + [f"(…{t[-4:]})" for t in tokens.values()]
        assert [word for word in private if word in visit.output] == []
    assert json.loads(surgery.visit("--json").output)["ok"] is True


def test_a_wrong_setting_is_in_the_json_too(surgery: Surgery) -> None:
    document = json.loads(surgery.visit("--json", HEARTBEAT_S="often: really").output)
    (finding,) = [f for f in document["findings"] if f["mark"] == "problem"]
    assert finding["check"] == "settings" and finding["found"].startswith("HEARTBEAT_S: expected a number")


@EACH_GENERATION
def test_a_recording_holds_nothing_private_and_can_be_replayed(
    surgery: Surgery, simulator: Simulator, gateway: Any, profile: Profile
) -> None:
    token = mint("alice")
    say = f'{CANARY} “naïve” \\ "quoted" 🎉\n\t[^1^] 0123456789 end'
    simulator.knobs(say=say, think=f"thought {CANARY}", cite=True, unknown=True, comments=True, token_chars=3)
    path = surgery.folder / "wire.json"
    visit = surgery.visit("--record", str(path), KIMI_TOKENS=token, KIMI_PROTOCOL=profile.protocol)
    assert "written to wire.json" in visit.of("record", "ok")
    (turn,) = json.loads(path.read_text())["turns"]
    text = legible(path)
    chats = simulator.state()["chats"]
    assert not secrets_in(text.encode(), [token, user_id("alice"), "0123456789", *chats])
    assert "canary" not in text and "金" not in text and "ready" not in text
    asked = [(e["request"]["method"], e["response"]["status"]) for e in turn["exchanges"]]
    # Connect's first turn opens its chat, and a POST deletes it.
    assert asked == [("POST", 200)] * 2 if profile.speaks_connect else [("POST", 200), ("POST", 200), ("DELETE", 200)]
    case = WireCase("recorded", streams_of(turn), turn["expected"])
    assert case.expected["content"] and len(case.expected["content"]) > len(say)
    for stream in (True, False):
        for body in case.streams:
            simulator.script(body, cuts="each_byte")
        check(case, ask(gateway, stream), stream)


# In the first one, Kimi replaces a text by another one of the same shape, and masked, the two are the same. What the
# others mean depends on the words of Kimi, which are masked.
DEPEND_ON_TEXT = re.compile(r"surrogates-rewritten|model-away|phrase-in-an-exception|.*phrase-of-.*")
MASKABLE = [case for case in ALL_CASES if not DEPEND_ON_TEXT.fullmatch(case.name)]


def test_every_wire_case_means_the_same_when_it_is_masked() -> None:
    """It is decoded to the same answer or the same error, of which only the texts are others."""
    check_each(((case.name, case) for case in MASKABLE), means_the_same_when_it_is_masked)
    assert len(MASKABLE) > 90


def means_the_same_when_it_is_masked(case: WireCase) -> None:
    redactor, decode, is_connect = Redactor(), decode_of(case), case in CONNECT_CASES
    masked = [redactor.redact_envelopes(body) if is_connect else redactor.redact(body) for body in case.streams]
    before = Decoded.of(decode(*([body] for body in case.streams)))
    after = Decoded.of(decode(*([body] for body in masked)))
    assert (after.content, after.reasoning) == (redact_text(before.content), redact_text(before.reasoning))
    assert after.finish_reason == before.finish_reason
    assert type(after.error) is type(before.error)
    assert (after.error.code if after.error else None) == case.expected["error"]
    # Shorter ones stand in words of the protocol, too.
    texts = [text for text in (before.content, before.reasoning) if len(text) > 5 and text != redact_text(text)]
    assert not any(text.encode() in body for text in texts for body in masked)
    if not is_connect:
        assert [len(body) for body in masked] == [len(body) for body in case.streams]
        assert [body.count(b"\n") for body in masked] == [body.count(b"\n") for body in case.streams]


def test_a_failed_turn_is_recorded_too(surgery: Surgery, simulator: Simulator) -> None:
    simulator.knobs(fail="overloaded")
    path = surgery.folder / "wire.json"
    surgery.visit("--record", str(path))
    (turn,) = json.loads(path.read_text())["turns"]
    assert turn["expected"]["error"] == "overloaded" and b"openai.completion.stream" in b"".join(streams_of(turn))
    visit = surgery.visit("--record", str(surgery.folder / "no" / "such" / "folder"))
    assert "not written (No such file or directory)" in visit.of("record", "problem")
    visit = surgery.visit("--record", str(path), KIMI_BASE_URL="http://127.0.0.1:9")
    assert "no turn was tried" in visit.of("record", "skipped")


def test_each_generation_is_recorded_where_nothing_is_said(surgery: Surgery) -> None:
    path = surgery.folder / "wire.json"
    visit = surgery.visit("--record", str(path), KIMI_PROTOCOL="")
    assert visit.code == 0 and "written to wire.json" in visit.of("record", "ok")
    turns = json.loads(path.read_text())["turns"]
    assert [turn["upstream"] for turn in turns] == ["kimi_rest", "kimi_connect"]
    assert all(turn["expected"]["content"] and b"".join(streams_of(turn)) for turn in turns)


# A word of the protocol is not masked: what is private must not pass for one.
@pytest.mark.parametrize("private", ["key-one-of-enough-length", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2lnbg"])
@pytest.mark.parametrize(("protocol", "fault"), [("sse", "overloaded"), ("connect", "end_error")])
def test_a_recording_with_something_private_in_it_is_not_written(
    surgery: Surgery, simulator: Simulator, protocol: str, fault: str, private: str
) -> None:
    path, key = surgery.folder / "wire.json", "key-one-of-enough-length"
    for word in ("ordinary-word", private):
        simulator.knobs(fail=fault, fail_at="turn", fail_code=word if protocol == "sse" else "", fail_reason=word)
        visit = surgery.visit("--record", str(path), KIMI_PROTOCOL=protocol, GATEWAY_API_KEYS=key)
        if word != private:
            assert word in legible(path)
            path.unlink()
    assert "it would contain something private" in visit.of("record", "problem") and not path.exists()


def streams_of(turn: dict[str, Any]) -> list[bytes]:
    return [body_of(e["response"]) for e in turn["exchanges"] if e["response"]["stream"]]


def body_of(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message["body_base64"]) if "body_base64" in message else message["body"].encode()


def legible(path: Path) -> str:
    """A recording as its reader sees it: its text, and what its Base64 says."""
    text = path.read_text()
    turns = json.loads(text)["turns"]
    bodies = [body_of(e[side]) for turn in turns for e in turn["exchanges"] for side in ("request", "response")]
    rest = re.sub(r'"body_base64": "[^"]*"', "", text)
    return "\n".join([rest, *(body.decode(errors="replace") for body in bodies)])


def test_envelopes_stay_envelopes_when_they_are_masked() -> None:
    import gzip
    import struct

    def frame(flags: int, payload: bytes) -> bytes:
        return struct.pack(">BI", flags, len(payload)) + payload

    text = '{"op":"append","mask":"block.text.content","block":{"id":"text_0_0","text":{"content":"天 ok"}}}'.encode()
    chat = b'{"op":"set","chat":{"id":"0f8fad5b-d9cb-469f-a165-70867728950e","name":"weather"}}'
    masked = Redactor().redact_envelopes(
        frame(0, text) + frame(1, gzip.compress(chat)) + frame(2, b"{}") + frame(0, chat)[:30]
    )
    first = text.replace("天 ok".encode(), "字 xx".encode())
    second = b'{"op":"set","chat":{"id":"id1' + b"x" * 33 + b'","name":"xxxxxxx"}}'
    whole = frame(0, first) + frame(0, second) + frame(2, b"{}")
    assert masked.startswith(whole) and len(masked) == len(whole) + 30
    assert b"0f8f" not in masked
