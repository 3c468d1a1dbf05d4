"""Build the site into the folder site, or write llms.txt anew.

python docs/build.py [--llms]

The site is Zensical's, with the Markdown of every page beside its HTML: llms.txt names these.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
_ABOUT = "Linear mixed models in Python: lme4's formulas, statsmodels' names, R's numbers."
_OBJECT = re.compile(r"^#+ ::: (?P<name>[\w.]+)(?P<options>(?:\n {4}.*)*)$", flags=re.MULTILINE)

_BLANK = re.compile(r"(?:<span[^>]*>)?&lt;(?:<[^>]*>)*BLANKLINE(?:<[^>]*>)*&gt;(?:</span>)?")


def sections() -> Iterator[tuple[str, list[str]]]:
    """Title and pages of every group of the navigation."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    for group in nav:
        for title, pages in group.items():
            yield title, [pages] if isinstance(pages, str) else pages


def llms() -> str:
    """The index for programs that read: a line a page, its title and its first sentence."""
    parts = [f"# lmm_jax\n\n> {_ABOUT}\n"]
    for title, pages in sections():
        parts.append(f"## {title}\n\n" + "\n".join(map(_line, pages)) + "\n")
    return "\n".join(parts)


def _line(page: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    first = re.search(r"^(?!```|[#>|!\s<-]).+(?:\n\S.*)*", text, flags=re.MULTILINE)
    assert title and first, f"{page} needs a title and a sentence"
    sentence = re.split(r"(?<=[.?])\s", " ".join(first[0].split()), maxsplit=1)[0]
    plain = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", sentence).rstrip(".;:")
    return f"- [{title[1]}]({page}): {plain}"


def markdown(page: str, package: Any) -> str:
    """A page as a program reads it, docstrings in the place of their names."""

    def described(found: re.Match[str]) -> str:
        thing = package[found["name"].partition(".")[2]]
        text = thing.docstring.value if thing.docstring else ""
        call = thing.signature() if thing.is_function else thing.name
        return f"## {found['name']}\n\n```text\n{call}\n\n{text}\n```"

    return _OBJECT.sub(described, (DOCS / page).read_text(encoding="utf-8"))


def mended(html: str) -> str:
    """A page without what its Markdown needs elsewhere: escaped bars in tables, doctest's marks."""
    html = re.sub(r"<td.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)
    return _BLANK.sub("", html)


def build() -> None:
    """The site and its Markdown."""
    import griffe

    call = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run(call, cwd=ROOT, check=True)
    for path in (ROOT / "site").rglob("*.html"):
        path.write_text(mended(path.read_text(encoding="utf-8")), encoding="utf-8")
    package = griffe.load("lmm_jax", search_paths=[ROOT])
    for _, pages in sections():
        for page in pages:
            (ROOT / "site" / page).write_text(markdown(page, package), encoding="utf-8")


if __name__ == "__main__":
    if "--llms" in sys.argv:
        (DOCS / "llms.txt").write_text(llms(), encoding="utf-8")
    else:
        build()
