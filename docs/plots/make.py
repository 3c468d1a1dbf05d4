"""Run the code of the pages that have pictures and save the picture that follows each block.

python docs/plots/make.py [PAGE ...]
"""

import doctest
import re
import sys
from pathlib import Path

import matplotlib

PICTURES = Path(__file__).parent
DOCS = PICTURES.parent
PAGES = [DOCS / "plots.md", DOCS / "start.md", *sorted(DOCS.glob("howto/*.md"))]  # others borrow
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\s*!\[[^\]]*\]\((?:\.\./)?plots/(?P<name>\w+)\.png\))?",
    flags=re.MULTILINE | re.DOTALL,
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def links(page):
    """The pictures of a page, by the names of their files."""
    return re.findall(r"\((?:\.\./)?plots/(\w+)\.png\)", page.read_text(encoding="utf-8"))


def run(page, directory=None):
    """Run all blocks; the numbers of pictures and of examples that failed, and the namespace."""
    import matplotlib.pyplot as plt

    names, runner, pictures = {}, doctest.DocTestRunner(optionflags=OPTIONS), 0
    for number, block in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8"))):
        test = doctest.DocTestParser().get_doctest(
            block["code"], names, f"{page.name}, block {number}", str(page), 0
        )
        runner.run(test, clear_globs=False)
        names = test.globs
        if block["name"] and plt.get_fignums():
            pictures += 1
            if directory is not None:
                plt.gcf().savefig(Path(directory) / f"{block['name']}.png", dpi=80)
        plt.close("all")
    return pictures, runner.failures, names


if __name__ == "__main__":
    matplotlib.use("Agg")
    found = [run(page, PICTURES) for page in [*map(Path, sys.argv[1:])] or filter(links, PAGES)]
    print(f"{sum(made for made, *_ in found)} pictures")
    sys.exit(any(failed for _, failed, _ in found))
