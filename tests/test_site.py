"""The site, built and opened in a browser: a campaign for who has the extra `docs` and Chromium."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import ROOT

pytest.importorskip("zensical")
pytest.importorskip("mkdocstrings")
sync_api = pytest.importorskip("playwright.sync_api")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
WIDTHS = (400, 1200)
# What a reader would miss. Images load when they are scrolled to unless they are told to.
PICTURES = """() => Promise.all([...document.images].map(image => {
    image.loading = "eager";
    return image.decode().then(() => null, () => image.src);
})).then(found => found.filter(src => src))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of a copy of the tree."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("docs", "lmm_jax"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", root)
    subprocess.run([sys.executable, "docs/build.py"], cwd=root, check=True)
    return root / "site"


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_pages_open_without_a_fault(site, address):
    pages = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    assert len(pages) > 30
    faults = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for width in WIDTHS:
            tab = browser.new_page(viewport={"width": width, "height": 900})
            said: list[str] = []
            tab.on("console", lambda m, said=said: m.type == "error" and said.append(m.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on(
                "request",
                lambda request, said=said: (
                    request.url.startswith((address, "data:", "blob:"))
                    or said.append(f"asks for {request.url}")
                ),
            )
            for page in pages:
                tab.goto(address + page, wait_until="networkidle")
                said += [f"no picture {src}" for src in tab.evaluate(PICTURES)]
                if (wider := tab.evaluate(WIDER)) > 0:
                    said.append(f"{wider} px too wide")
                faults += [f"{page} at {width} px: {text}" for text in said]
                said.clear()
        browser.close()
    assert not faults, "\n".join(faults)


def test_what_the_index_for_programs_names_is_on_the_site(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    names = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert len(names) > 30 and all((site / name).is_file() for name in names)
    reference = (site / "reference" / "fit.md").read_text(encoding="utf-8")
    assert "Fit a linear mixed model" in reference and ":::" not in reference
