"""Run the code of docs/plots.md and save the picture that follows each block.

python docs/plots/make.py [DIRECTORY]
"""

import doctest
import re
import sys
from pathlib import Path

import matplotlib

PAGE = Path(__file__).parents[1] / "plots.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\s*!\[[^\]]*\]\(plots/(?P<name>\w+)\.png\))?",
    flags=re.MULTILINE | re.DOTALL,
)


def run(directory=None):
    """Run all blocks in one namespace; the number of pictures and of examples that failed."""
    import matplotlib.pyplot as plt

    names, runner, pictures = {}, doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), 0
    for number, block in enumerate(BLOCK.finditer(PAGE.read_text(encoding="utf-8"))):
        test = doctest.DocTestParser().get_doctest(
            block["code"], names, f"{PAGE.name}, block {number}", str(PAGE), 0
        )
        runner.run(test, clear_globs=False)
        names = test.globs
        if block["name"] and plt.get_fignums():
            pictures += 1
            if directory is not None:
                plt.gcf().savefig(Path(directory) / f"{block['name']}.png", dpi=80)
        plt.close("all")
    return pictures, runner.failures


if __name__ == "__main__":
    matplotlib.use("Agg")
    made, failed = run(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    print(f"{made} pictures")
    sys.exit(failed > 0)
