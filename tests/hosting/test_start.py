"""Starting: what a wrong setting says, who may listen where, which files are made."""

import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app import __version__, cli
from app.settings.config import Config, ConfigError, describe_settings, load_env_file
from tests.running import ROOT, Gateway, Running, Share, Simulator, mint
from tests.running.certificates import own_certificate
from tests.running.commands import first_lines_of_starts, run_flask, run_flask_for_real, start
from tests.running.databases import SqliteDatabase

GOOD = "a.good.token-of-enough-length"


# Settings, with a good KIMI_TOKENS where they have none, and what the start says of them.
WRONG: list[tuple[dict[str, str], str]] = [
    ({"KIMI_TOKENS": " , "}, "KIMI_TOKENS: contains no token"),
    ({"KIMI_TOKENS": f"{GOOD},two words here"}, "KIMI_TOKENS: entry 2 is not a token"),
    ({"KIMI_TOKENS": f"a={GOOD}1,a={GOOD}2"}, "the label 'a' is used twice"),
    ({"KIMI_TOKENS": f"{GOOD},sk-something-else"}, "KIMI_TOKENS: entry 2 is an API key of the official platform"),
    ({"KIMI_BASE_URL": "kimi.com"}, "KIMI_BASE_URL=kimi.com: expected an address such as https://www.kimi.com"),
    (
        {"KIMI_BASE_URL": "http://127.0.0.1:99999"},
        "KIMI_BASE_URL=http://127.0.0.1:99999: expected an address such",
    ),
    ({"KIMI_AUTH_URL": "http://127.0.0.1:0"}, "KIMI_AUTH_URL=http://127.0.0.1:0: expected an address such as"),
    ({"KIMI_AUTH_URL": "https://[kimi"}, "KIMI_AUTH_URL=https://[kimi: expected an address such as"),
    ({"KIMI_AUTH_URL": "https://kimi .com"}, "KIMI_AUTH_URL=https://kimi .com: expected an address such as"),
    ({"KIMI_BASE_URL": "https://kimi\t.com"}, "expected an address such as https://www.kimi.com"),
    # "ready …" and errors that clients get name the address.
    *(
        ({name: url}, f"{name}: without user and password: expected an address such as https://www.kimi.com")
        for name, url in (
            ("KIMI_BASE_URL", "http://user:hidden-pw@127.0.0.1:1"),
            ("KIMI_BASE_URL", "http://hidden-pw@kimi.com:99999"),
            ("KIMI_AUTH_URL", "user:hidden-pw@kimi.com"),
        )
    ),
    ({"DATABASE_URL": "data.db"}, "DATABASE_URL: expected sqlite:///path/to/file.db or postgresql"),
    (
        {"DATABASE_URL": "postgresql://u:hidden-pw@/"},
        "DATABASE_URL: expected sqlite:///path/to/file.db or postgresql",
    ),
    # Where the password ends differs between parsers: the rest of it was the name of a host that is not found.
    *(
        ({"DATABASE_URL": f"postgres://gw:{password}@127.0.0.1:1/db"}, "the password, write @ as %40, : as %3A")
        for password in (
            *("S3cr@hidden-pw", "12/hidden-pw", "12?3/hidden-pw", "12#/hidden-pw", "[hidden-pw]"),
            # Python's error repeats it.
            "\N{ACCOUNT OF}hidden-pw",
        )
    ),
    ({"DATABASE_URL": "postgresql://u:hidden-pw@127.0.0.1:/db"}, "DATABASE_URL: expected sqlite:///path/to/file"),
    ({"HEARTBEAT_S": "often"}, "HEARTBEAT_S=often: expected a number of seconds from"),
    ({"HEARTBEAT_S": "nan"}, "HEARTBEAT_S=nan: expected a number of seconds from"),
    ({"COMMIT_AFTER_S": "-1"}, "COMMIT_AFTER_S=-1: expected a number of seconds from"),
    ({"PORT": "http"}, "PORT=http: expected a whole number"),
    ({"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY=0: expected a whole number from 1"),
    ({"MAX_CONTINUATIONS": "1.5"}, "MAX_CONTINUATIONS=1.5: expected a whole number"),
    ({"KIMI_KEEP_CHATS": "perhaps"}, "KIMI_KEEP_CHATS=perhaps: expected 1 or 0"),
    ({"CORS_ORIGINS": "chat.example.com"}, "CORS_ORIGINS=chat.example.com: expected * or origins"),
    ({"STRICT_PARAMS": "very"}, "STRICT_PARAMS=very: expected 1 or 0"),
    ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL=LOUD: expected DEBUG"),
    ({"GATEWAY_API_KEYS": "clé"}, "GATEWAY_API_KEYS: a key is made of printable ASCII"),
    ({"HOST": "a b"}, "HOST=a b: expected an address"),
    ({"KIMI_PROXY": "ftp://user:hidden-pw@proxy"}, "KIMI_PROXY: expected direct, or the URL of a proxy"),
    ({"KIMI_PROXY": "http://"}, "KIMI_PROXY: expected direct, or the URL of a proxy"),
    ({"HOST": "0.0.0.0"}, "GATEWAY_API_KEYS is not set"),
    ({"HOST": "::"}, "GATEWAY_API_KEYS is not set"),
    ({"GATEWAY_SECRET": "short"}, "GATEWAY_SECRET: expected at least 12 characters"),
]


def with_a_token(settings: dict[str, str]) -> dict[str, str]:
    return settings if "KIMI_TOKENS" in settings else {"KIMI_TOKENS": GOOD, **settings}


@pytest.fixture(scope="module")
def first_lines() -> list[str | None]:
    return first_lines_of_starts([with_a_token(settings) for settings, _ in WRONG])


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(settings) for settings, _ in WRONG])
def test_a_wrong_setting_is_named_in_one_line(first_lines: list[str | None], number: int) -> None:
    line, (_, says) = first_lines[number], WRONG[number]
    assert line is not None and line.startswith("kimi-gateway: ") and says in line and len(line.splitlines()) == 1
    assert GOOD not in line and "hidden-pw" not in line


def test_settings_that_are_right_stop_no_start() -> None:
    assert first_lines_of_starts([{"KIMI_TOKENS": GOOD}, {}]) == [None, None]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"KIMI_TOKENS": f"{GOOD},two words here"}, "KIMI_TOKENS: entry 2 is not a token"),
        ({"DATABASE_URL": "postgresql://u:hidden-pw@/"}, "DATABASE_URL: expected sqlite:///path/to/file.db"),
        ({"HEARTBEAT_S": "often"}, "HEARTBEAT_S=often: expected a number of seconds from"),
        ({"HOST": "0.0.0.0"}, "GATEWAY_API_KEYS is not set"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    code, output = start(tmp_path, **with_a_token(settings))
    assert code != 0
    (line,) = output.strip().splitlines()
    assert line.startswith("kimi-gateway: ") and says in line
    assert GOOD not in output and "hidden-pw" not in output


def test_a_bind_on_the_command_line_follows_the_same_rule(tmp_path: Path) -> None:
    code, output = start(tmp_path, "-b", "0.0.0.0:0", KIMI_TOKENS=GOOD)
    assert code != 0 and "GATEWAY_API_KEYS is not set" in output and "Traceback" not in output


def test_a_database_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where a folder is wanted")
    code, output = start(tmp_path, KIMI_TOKENS=GOOD, DATABASE_URL=f"sqlite:///{tmp_path}/folder/x.db")
    assert code != 0
    assert "kimi-gateway: DATABASE_URL" in output and "Traceback" not in output


def test_other_wsgi_servers_get_the_same_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import wsgi"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "KIMI_TOKENS": "two words"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4 and done.stderr.startswith("kimi-gateway: KIMI_TOKENS: entry 1 is not a token")


def test_tokens_are_taken_as_people_paste_them(running: Running, simulator: Simulator) -> None:
    pasted = f" \"Bearer {mint('alice')}\" , 'kimi-auth={mint('bob')};' ,\n second = {mint('carol')},, "
    with running.gateway(simulator.url, KIMI_TOKENS=pasted) as gateway:
        for _ in range(3):
            assert gateway.say("hello").ok
        assert " accounts=3 " in gateway.log()
    assert set(simulator.state()["accounts"]) == {"alice", "bob", "carol"}


def test_two_tokens_of_one_user_are_one_account(running: Running, simulator: Simulator) -> None:
    tokens = f"{mint('alice', -5)},{mint('alice', 500)},{mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        for _ in range(4):
            assert gateway.say("hello").ok
    turns = {name: a["turns"] for name, a in simulator.state()["accounts"].items() if a["turns"]}
    assert turns == {"alice": 2, "bob": 2}


def test_the_database_is_private(gateway: Gateway, simulator: Simulator) -> None:
    assert gateway.say("hello", conversation="private").ok
    database = gateway.database
    assert isinstance(database, SqliteDatabase)
    for path in database.path.parent.glob(f"{database.name}*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_without_keys_only_this_machine_is_served(gateway: Gateway, simulator: Simulator) -> None:
    # Pages of web sites that are open in a browser on this machine, plainly and by a trick of DNS.
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:8000"}):
        assert gateway.get("/v1/models", headers=headers).status_code == 401, headers
    for headers in ({"Origin": "http://localhost:3000"}, {"Host": "localhost"}, {"Host": "[::1]:8000"}):
        assert gateway.get("/v1/models", headers=headers).ok, headers


def test_keys_are_asked_for_where_they_are_set(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(GATEWAY_API_KEYS="key-one, key-two")
    for headers in (
        {"Authorization": "Bearer key-one"},
        {"Authorization": "bearer  key-two"},
        {"x-api-key": "key-one"},
        {"api-key": "key-two"},
    ):
        assert gateway.get("/v1/models", headers=headers).ok, headers
    for headers in (
        {},
        {"Authorization": "Bearer key-onee"},
        {"Authorization": "Basic key-one"},
        {"x-api-key": ""},
    ):
        response = gateway.get("/v1/models", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert gateway.post("/v1/chat/completions", json={}).status_code == 401
    assert gateway.get("/healthz").ok and gateway.get("/readyz").ok


def test_the_example_of_an_env_file_has_every_setting_that_people_choose() -> None:
    written = re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    settings = [setting for setting in describe_settings() if not setting.is_advanced]
    assert dict(written) == {setting.name: setting.default or "" for setting in settings}


def test_the_version_is_told_everywhere(gateway: Gateway, simulator: Simulator) -> None:
    assert run_flask("version").output == f"{__version__}\n"
    assert gateway.get("/healthz").json() == {"status": "ok", "version": __version__}
    assert gateway.get("/openapi.json").json()["info"]["version"] == __version__
    assert f" ready version={__version__} accounts=3 upstream={simulator.url}\n" in gateway.process.log.read_text()
    assert gateway.say("hello").ok
    agents = {call["headers"]["user-agent"] for call in simulator.requests(simulator.turn_path)}
    assert agents == {f"kimi-gateway/{__version__}"}


def test_the_commands_are_listed_before_anything_is_set() -> None:
    listed = run_flask_for_real("--help")
    assert (listed.code, listed.errors) == (0, "")
    assert all(f"  {name} " in listed.output for name in cli.COMMANDS)
    routes = run_flask_for_real("routes", KIMI_TOKENS="two words")
    assert routes.code == 4 and "kimi-gateway: KIMI_TOKENS: entry 1 is not a token" in routes.errors


@pytest.mark.parametrize(
    ("site", "auth"),
    [
        (None, "https://auth.kimi.com"),
        ("https://www.kimi.com", "https://auth.kimi.com"),
        ("https://kimi.ai", "https://auth.kimi.ai"),
        ("https://www.kimi.ai", "https://auth.kimi.ai"),
        ("https://notkimi.ai", "https://auth.kimi.com"),
        ("http://127.0.0.1:9", "https://auth.kimi.com"),
    ],
)
def test_the_site_that_renews_tokens_follows_from_the_site(site: str | None, auth: str) -> None:
    settings = {"KIMI_TOKENS": GOOD} | ({} if site is None else {"KIMI_BASE_URL": site})
    assert auth_urls(Config.from_env(settings)) == [auth]
    assert auth_urls(Config.examine(settings).config) == [auth]
    assert auth_urls(Config.from_env({**settings, "KIMI_AUTH_URL": "https://a.example/"})) == ["https://a.example"]


def auth_urls(config: Config) -> list[str]:
    return [site.auth_url for site in config.sites]


def test_secrets_are_not_in_the_text_of_the_settings() -> None:
    secrets = {
        "KIMI_TOKENS": GOOD,
        "GATEWAY_API_KEYS": "hidden-key",
        "GATEWAY_SECRET": "hidden-secret",
        "DATABASE_URL": "postgresql://u:hidden-pw@127.0.0.1/db",
    }
    shown = repr(Config.from_env(secrets))
    assert not any(secret in shown for secret in (GOOD, "hidden"))


def test_make_help_names_every_target_and_says_nothing_else() -> None:
    # Of its own: inside make test it would say in which folder it is.
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=True
    )
    (targets,) = re.findall(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)", done.stdout)) == set(targets.split())
    assert [line for line in done.stdout.splitlines() if not line.startswith("make ")] == []


def test_a_certificate_of_its_own_makes_it_speak_tls(running: Running, simulator: Simulator, tmp_path: Path) -> None:
    certificate = own_certificate(tmp_path)
    simulator.knobs(say="over TLS")
    options = f"--certfile {certificate} --keyfile {certificate}"
    with running.gateway(simulator.url, GUNICORN_CMD_ARGS=options) as it:
        gateway = replace(it, url=it.url.replace("http:", "https:"))
        for stream in (False, True):
            body = {"model": "k2", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
            response = gateway.post("/v1/chat/completions", json=body, verify=str(certificate))
            assert response.ok and "over" in response.text


def test_a_worker_that_did_not_load_the_gateway_itself_says_so(running: Running, simulator: Simulator) -> None:
    """It would share the connections to the database with the others, and have none of the threads."""
    with running.gateway(simulator.url, server="preloaded") as gateway:
        response = gateway.say("hello")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (500, "loaded_before_fork") and "lazy-apps" in error[
            "message"
        ]
        assert "Traceback" not in gateway.log() and not simulator.turns()


_NOT_UTF8 = ".env is not UTF-8: save .env as UTF-8"
_UNREADABLE = {
    "UTF-16": ("PORT=0\n".encode("utf-16"), _NOT_UTF8),
    "UTF-16 without its mark": ("PORT=0\n".encode("utf-16-le"), _NOT_UTF8),
    "Latin-1": ("# Schlüssel\nPORT=0\n".encode("latin-1"), _NOT_UTF8),
    "quotes in quotes": (
        b'PORT=0\n\nGATEWAY_API_KEYS="sk-one","sk-two"\n',
        ".env, line 2: expected NAME=value; put a value with spaces, quotes or # into single quotes",
    ),
}


def test_an_env_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    """PowerShell's > writes UTF-16. A line that is none would leave its setting unset, and a gateway open to all."""
    for kind, (content, says) in _UNREADABLE.items():
        (tmp_path / ".env").write_bytes(content)
        with pytest.raises(ConfigError) as raised:
            load_env_file(tmp_path)
        assert str(raised.value) == says, kind


@pytest.mark.parametrize(
    ("kind", "command"),
    [("UTF-16 without its mark", ["-c", "import wsgi"]), ("quotes in quotes", ["-m", "gunicorn"])],
)
def test_an_env_file_that_cannot_be_read_stops_the_start_with_one_line(
    tmp_path: Path, command: list[str], kind: str
) -> None:
    content, says = _UNREADABLE[kind]
    (line,) = run_home(tmp_path, content, command, tmp_path).splitlines()
    assert line == f"kimi-gateway: {says}"


def test_settings_and_database_are_the_gateways_wherever_it_is_started(tmp_path: Path) -> None:
    """A WSGI host has a working directory of its own; where it is no Python program, dotenv would look there."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    code = f"import sys; del sys.modules['__main__'].__file__; sys.path.insert(0, {str(home)!r}); import wsgi"
    (tmp_path / "host.py").write_text(code)
    # With the mark that Windows' editors put in front: the first setting is one, too. A variable of the environment
    # wins: ``docker run -e`` and systemd's Environment= change a setting without a change of the file.
    env = f"KIMI_BASE_URL=http://127.0.0.1:9\nKIMI_AUTH_URL=http://127.0.0.1:9\nKIMI_TOKENS=one={GOOD}1,two={GOOD}2\n"
    host = [str(tmp_path / "host.py")]
    said = run_home(home, env.encode("utf-8-sig"), host, elsewhere, KIMI_TOKENS=GOOD)
    assert " accounts=1 upstream=http://127.0.0.1:9" in said
    assert (home / "data" / "gateway.db").exists() and not list(elsewhere.iterdir())


def run_home(home: Path, env_file: bytes, command: list[str], folder: Path, **environment: str) -> str:
    """What Python prints with this command in ``folder``; ``home`` is the gateway's, and its settings are those of
    .env and of the environment."""
    for name in ("app", "wsgi.py", "gunicorn.conf.py"):
        (home / name).symlink_to(ROOT / name)
    (home / ".env").write_bytes(env_file)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return (done.stdout + done.stderr).strip()
