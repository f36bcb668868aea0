"""The sentences of the console, its templates and scripts, read as they are."""

import hashlib
import re
import string
import subprocess
import sys
from pathlib import Path

from app import console
from app.console.words import SENTENCES, sentence_of
from tests.running import ROOT

FOLDER = Path(console.__file__).parent
TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
SOURCES = [*TEMPLATES, *FOLDER.glob("*.py")]
CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
# What is the same in both languages: names, and the language that one can switch to.
NAMES = {
    "Kimi",
    "Gateway",
    "JSON",
    "KIMI",
    "TOKENS",
    "http",
    "host",
    "CSV",
    "traceparent",
    "ms",
    "models",
    "kimi",
    "Markdown",
    "English",
    "中文",
    "flask",
    "app",
    "wsgi",
    "console",
    "link",
}


def test_a_sentence_says_the_same_in_both_languages() -> None:
    def values_and_tags(text: str) -> tuple[set[str], list[str]]:
        names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        return names, re.findall(r"<[^>]+>", text)

    wrong = {
        key: (english, chinese)
        for key, (english, chinese) in SENTENCES.items()
        if not (english and chinese)
        or CHINESE.search(english)
        or values_and_tags(english) != values_and_tags(chinese)
    }
    assert wrong == {}


def test_every_sentence_is_used_and_every_used_one_is_there() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "words.py")
    used = set(re.findall(r"""\b(?:t|say)\(\s*["'](\w+)["']\s*[,)]""", text))
    used |= set(re.findall(r"""sentence_of\(["'](\w+)["']""", text))
    assert used <= set(SENTENCES)
    built = (
        "theme_",
        "tone_",
        "mark_",
        "check_",
        "client_",
        "end_",
        "flag_",
        "blame_",
        "phase_",
        "since_",
        "paste_",
        "change_",
        "step_of_test_",
    )
    unused = {key for key in SENTENCES if f'"{key}"' not in text and f"'{key}'" not in text and key not in used}
    assert {key for key in unused if not key.startswith(built)} == set()


def test_no_text_of_a_template_stands_in_one_language_only() -> None:
    found = {path.name: words_of(path) - NAMES - {"html", "doctype"} for path in TEMPLATES}
    assert {name: words for name, words in found.items() if words} == {}


def words_of(path: Path) -> set[str]:
    """What a template says by itself."""
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", " ", path.read_text(), flags=re.DOTALL)
    texts = re.sub(r"<[^>]*>", " ", text)
    texts += " ".join(re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', text)).replace("30d", "")
    return set(re.findall(r"[A-Za-z]{2,}|[\u4e00-\u9fff]+", texts))


def test_values_of_a_sentence_are_escaped() -> None:
    assert "<script>" not in sentence_of("revoke_key", "en", name="<script>alert(1)</script>")


def test_templates_hold_no_script_and_no_style() -> None:
    for path in TEMPLATES:
        text = path.read_text()
        assert not re.search(
            r"\son\w+=|\sstyle=|javascript:|hx-on|hx-vals|js:|\|\s*safe|<style|autoescape", text, re.I
        ), path
        for script in re.findall(r"<script[^>]*>", text):
            assert "src=" in script, path
        for url in re.findall(r'(?:src|href|action)="([^"{]+)', text):
            assert url.startswith("#"), (path, url)


def test_the_script_keeps_no_secret_and_makes_no_html() -> None:
    text = (FOLDER / "static" / "console.js").read_text()
    assert not re.search(
        r"cookie|localStorage|sessionStorage|innerHTML|outerHTML|insertAdjacent|eval|document\.write", text
    )
    assert not re.search(r"https?://(?!\S*test)[a-z]", text)


def test_the_vendored_library_is_what_it_says() -> None:
    rows = re.findall(r"\| `([\w.-]+)` \|.*\| `([0-9a-f]{64})` \|", (FOLDER / "static" / "SOURCES.md").read_text())
    assert rows
    for name, digest in rows:
        assert hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest() == digest


def test_a_first_view_is_small() -> None:
    import gzip

    files = [FOLDER / "static" / name for name in ("console.css", "console.js", "htmx-4.0.1.min.js", "icon.svg")]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 30_000


def test_a_gateway_whose_console_nobody_opens_does_not_load_it() -> None:
    code = "import app.factory, sys; print([m for m in sys.modules if m.startswith('app.console')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['app.console', 'app.console.mount']"
