"""The pages for people say what the code does, in both languages, and lead nowhere that does not exist."""

import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from app import errors
from app.errors import GatewayError
from app.settings.config import describe_settings
from app.upstreams.kimi.model_table import CONNECT, SSE, KimiModels
from tests.clients import failures_read, table
from tests.docs.pages import pages, translated, with_generated_parts
from tests.hosts import page as hosts_page
from tests.hosts.exercise import FIELDS
from tests.running import ROOT

PAGES = pages()
USER_PAGES = [page for both in translated() for page in both]
API_PAGES = [ROOT / "docs/api.md", ROOT / "docs/api.zh-CN.md"]

_CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"\b(?:app|bench|deploy|docs|tests)/[A-Za-z0-9_./-]*[A-Za-z0-9_]")

# Names in capitals that are not settings of the gateway.
_OTHER_NAMES = {"GUNICORN_CMD_ARGS", "POSTGRES_PASSWORD", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"}
_OF_OTHERS = (
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ANTHROPIC_",
    "CLAUDE_",
    "ENABLE_",
    "OPENAI_",
    "VISION_",
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(page: Path) -> str:
    """The page without its code blocks."""
    return _CODE.sub("", page.read_text())


@functools.cache
def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    anchors: set[str] = set()
    for _, heading in _HEADING.findall(prose_of(page)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = (f"{slug}-{number}" for number in range(1, 100))
        anchors.add(slug if slug not in anchors else next(one for one in again if one not in anchors))
    return anchors


def test_what_is_generated_in_a_page_is_what_the_code_makes() -> None:
    others = [name_of(page) for page in PAGES if with_generated_parts(page) != page.read_text()]
    assert others == [], "run: make docs"


@pytest.mark.parametrize("page", API_PAGES, ids=name_of)
def test_the_page_of_the_api_has_a_table_for_each_endpoint(page: Path) -> None:
    assert re.findall(r"<!-- ([a-z].*) -->\n\|", page.read_text()) == [
        "chat/completions",
        "completions",
        "responses",
        "messages",
    ]


@pytest.mark.parametrize(("name", "writer"), [("clients-tested", table), ("clients-failures", failures_read)])
def test_the_pages_of_clients_are_as_they_will_be_written(tmp_path: Path, name: str, writer: ModuleType) -> None:
    page = ROOT / f"docs/{name}.md"
    copy = tmp_path / page.name
    shutil.copy(page, copy)
    writer.update(copy, [])
    assert copy.read_text() == page.read_text(), f"{writer.__name__} writes this page"


def test_the_table_of_hosts_changes_in_the_rows_that_are_given_only(tmp_path: Path) -> None:
    page = ROOT / "docs/hosting.md"
    copy = tmp_path / page.name
    shutil.copy(page, copy)
    header = ["host", "version", *FIELDS]
    hosts_page.update(header, [], copy)
    assert copy.read_text() == page.read_text()
    row = ["uWSGI", "0.0.1", *("seen" for _ in FIELDS)]
    hosts_page.update(header, [row], copy)
    lines = zip(page.read_text().splitlines(), copy.read_text().splitlines(), strict=True)
    assert [new for old, new in lines if old != new] == [f"| {' | '.join(row)} |"]


@pytest.mark.parametrize("page", API_PAGES, ids=name_of)
def test_the_page_of_the_api_has_every_error_code_and_model(page: Path) -> None:
    text = page.read_text()
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError))
    codes = {(str(kind.status), code) for kind in kinds if (code := vars(kind).get("default_code")) is not None}
    rows = [line for line in text.splitlines() if re.match(r"\| [45]\d\d \|", line)]
    described = {(row[2:5], code) for row in rows for code in re.findall(r"`([a-z_]+)`", row.split("|")[2])}
    assert codes - described == set()
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py") if "simulator" not in path.parts)
    assert set(re.findall(r"\bcode=\"([a-z_]+)\"", sources)) - {code for _, code in described} == set()
    models = {model.id for name in (SSE, CONNECT) for model in KimiModels([SSE, CONNECT]).of(name)}
    assert models - set(re.findall("`(.*?)`", text)) == set()


def leads_nowhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    if path.startswith("https://"):
        return False
    target = page.parent / path if path else page
    return not target.exists() or bool(anchor and anchor not in anchors_of(target))


def test_links_lead_to_files_and_headings_that_exist() -> None:
    links = {name_of(page): [x for x in _LINK.findall(prose_of(page)) if leads_nowhere(page, x)] for page in PAGES}
    assert {name: wrong for name, wrong in links.items() if wrong} == {}


def is_there(path: str) -> bool:
    return (ROOT / path).exists() or (ROOT / f"{path}.py").exists() or path.startswith("bench/out")


def test_files_that_a_page_names_exist() -> None:
    # `app/api/<name>/` is a pattern, and `app/web` in a picture of the path is a folder or file.
    named = {name_of(page): _FILE.findall(re.sub(r"\S*<\S*", "", page.read_text())) for page in PAGES}
    assert {(name, path) for name, paths in named.items() for path in paths if not is_there(path)} == set()


def test_settings_that_a_page_names_exist() -> None:
    settings = {setting.name for setting in describe_settings()} | _OTHER_NAMES
    named = {name_of(page): re.findall(r"`([A-Z]+(?:_[A-Z]+)+)", page.read_text()) for page in USER_PAGES}
    unknown = {
        (page, name)
        for page, names in named.items()
        for name in names
        if name not in settings and not name.startswith(_OF_OTHERS)
    }
    assert unknown == set()


def test_the_picture_of_the_readme_can_be_drawn_and_names_its_commit(tmp_path: Path) -> None:
    # It imports matplotlib, which takes half a second.
    from bench import plot

    run = json.loads((ROOT / "docs/bench.json").read_text())
    plot.draw_summary(plot.read(run), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    for page in ("README.md", "README.zh-CN.md"):
        assert run["machine"]["commit"] in (ROOT / page).read_text()


@pytest.mark.parametrize("folder", ["app", "bench", "deploy", "tests"])
def test_pages_that_the_code_names_exist(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".py", ".conf", ".service", ".yaml", ".mjs") and "node_modules" not in path.parts:
            for name in re.findall(r"(?<![\w./])docs/[\w.-]+\.(?:md|png)", path.read_text()):
                assert (ROOT / name).exists(), f"{path}: {name}"


def test_the_page_of_the_architecture_has_every_folder_and_file_of_the_app() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for path in (ROOT / "app").iterdir():
        if path.name not in ("__init__.py", "__pycache__", "templates"):
            assert f"`{path.name}`" in text or f"`{path.name}/`" in text, path.name


@pytest.mark.parametrize(("english", "chinese"), translated(), ids=str)
def test_both_languages_have_the_same_headings_and_code(english: Path, chinese: Path) -> None:
    levels = [[len(marks) for marks, _ in _HEADING.findall(prose_of(page))] for page in (english, chinese)]
    assert levels[0] == levels[1]
    assert list(code_of(english)) == list(code_of(chinese))


def code_of(page: Path) -> Iterator[str]:
    """Its code blocks, without the comments, which are translated."""
    for block in _CODE.findall(page.read_text()):
        yield re.sub(r" *(?<!\S)# .*$", "", block, flags=re.MULTILINE)


def test_each_page_for_users_exists_in_both_languages() -> None:
    names = (
        "README",
        "accounts",
        "api",
        "clients",
        "console",
        "conversations",
        "deployment",
        "doctor",
        "files",
        "hosting",
        "settings",
        "tools",
    )
    assert {english.stem for english, _ in translated()} == set(names)
