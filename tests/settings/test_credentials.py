"""What KIMI_TOKENS may hold, and at which site each account lives."""

import json

import pytest

from app.settings.config import Config
from app.settings.credentials import Credential, CredentialError, parse_credentials, read_level
from app.settings.sites import KIMI_AI, KIMI_COM, Site
from app.simulator import tokens

OLD = tokens.mint("alice")
AT_COM, AT_AI = tokens.mint("alice", site="kimi.com"), tokens.mint("alice", site="kimi.ai")
OPAQUE = "cpmt_0123456789"


def parsed(entry: str) -> Credential:
    (credential,) = parse_credentials(entry)
    return credential


@pytest.mark.parametrize(("token", "home"), [(OLD, KIMI_COM), (AT_COM, KIMI_COM), (AT_AI, KIMI_AI), (OPAQUE, None)])
@pytest.mark.parametrize("entry", ["{}", "home={}", "kimi-auth={}", "Bearer {}", '"{}"'])
def test_a_token_says_where_it_was_issued(token: str, home: Site | None, entry: str) -> None:
    credential = parsed(entry.format(token))
    assert (credential.home, credential.site) == (home, None)


@pytest.mark.parametrize(
    ("ending", "base_url"),
    [
        ("kimi.ai", "https://www.kimi.ai"),
        ("KIMI.AI", "https://www.kimi.ai"),
        ("www.kimi.com", "https://www.kimi.com"),
        ("https://www.kimi.ai/", "https://www.kimi.ai"),
        ("http://127.0.0.1:8901", "http://127.0.0.1:8901"),
    ],
)
@pytest.mark.parametrize(
    "entry", ["{}@{}", "home={}@{}", " home = {}@{} ", "kimi-auth={}@{}", '{{"access_token": "{}"}}@{}']
)
def test_an_entry_can_say_where_its_account_lives(entry: str, ending: str, base_url: str) -> None:
    credential = parsed(entry.format(AT_COM, ending))
    assert credential.site is not None and credential.site.base_url == base_url
    assert credential.access_token == AT_COM
    assert credential.label == ("home" if "home" in entry else "account 1")


def test_several_entries_each_say_it() -> None:
    first, second = parse_credentials(f"a={OLD}@kimi.ai,b={tokens.mint('bob', 'refresh')}@http://localhost:1")
    assert first.site == KIMI_AI and second.site is not None
    assert (second.site.name, second.site.auth_url) == ("localhost:1", "https://auth.kimi.com")


@pytest.mark.parametrize("ending", ["kimi.org", "", "ftp://www.kimi.ai", "http://", "kimi"])
def test_a_site_that_does_not_exist_is_an_error_that_shows_no_token(ending: str) -> None:
    with pytest.raises(CredentialError) as error:
        parse_credentials(f"a={OLD}@{ending}")
    assert "entry 1" in str(error.value) and "'@'" in str(error.value) and OLD[:20] not in str(error.value)


@pytest.mark.parametrize(
    "cut",
    [
        OLD[:-20],
        OLD[:-1],
        OLD.rpartition(".")[0],
        OLD[: OLD.index(".") + 30],
        OLD[:30],
        OLD[:40] + "...",
        "eyJ" + OLD.partition(".")[2],
    ],
)
def test_a_token_that_was_cut_is_called_cut(cut: str) -> None:
    with pytest.raises(CredentialError, match="entry 1 is a token that was cut") as error:
        parse_credentials(cut)
    assert cut[:20] not in str(error.value)


def test_an_at_sign_in_another_cookie_is_no_site() -> None:
    assert parsed(f"theme=dark; kimi-auth={OLD}; mail=me@example.org").site is None


def test_cookies_without_a_token_say_what_to_copy_today() -> None:
    with pytest.raises(CredentialError, match="refresh_token from the site's local storage"):
        parse_credentials("theme=dark; lang=en; x=1")


@pytest.mark.parametrize(
    ("entry", "settings", "base_url", "auth_url"),
    [
        (AT_AI, {}, "https://www.kimi.ai", "https://auth.kimi.ai"),
        (OLD, {}, "https://www.kimi.com", "https://auth.kimi.com"),
        (OPAQUE, {}, "https://www.kimi.com", "https://auth.kimi.com"),
        (f"{OPAQUE}@kimi.ai", {}, "https://www.kimi.ai", "https://auth.kimi.ai"),
        # What is set decides, unless the entry itself says otherwise.
        (AT_AI, {"KIMI_BASE_URL": "https://www.kimi.com"}, "https://www.kimi.com", "https://auth.kimi.com"),
        (f"{AT_AI}@kimi.ai", {"KIMI_BASE_URL": "http://proxy:1"}, "https://www.kimi.ai", "https://auth.kimi.ai"),
        (AT_COM, {"KIMI_BASE_URL": "http://proxy:1"}, "http://proxy:1", "https://auth.kimi.com"),
        (AT_COM, {"KIMI_BASE_URL": "https://kimi.ai"}, "https://kimi.ai", "https://auth.kimi.ai"),
        (AT_AI, {"KIMI_AUTH_URL": "http://auth:1"}, "https://www.kimi.ai", "http://auth:1"),
    ],
)
def test_where_an_account_is_used(entry: str, settings: dict[str, str], base_url: str, auth_url: str) -> None:
    config = Config.from_env({"KIMI_TOKENS": entry, **settings})
    (site,) = config.sites
    assert (site.base_url, site.auth_url) == (base_url, auth_url)
    assert config.site_of(config.credentials[0]).name == site.name


def test_two_sites_have_two_names() -> None:
    config = Config.from_env({"KIMI_TOKENS": f"a={tokens.mint('alice')},b={tokens.mint('bob', site='kimi.ai')}"})
    assert [site.name for site in config.sites] == ["kimi.com", "kimi.ai"]


def test_the_level_of_membership_is_read() -> None:
    assert read_level(tokens.mint("alice", site="kimi.ai", level=30)) == 30
    assert read_level(OLD) is None and read_level(OPAQUE) is None
    assert json.dumps(None) == "null"
