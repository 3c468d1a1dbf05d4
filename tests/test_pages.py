"""Pages: links lead somewhere, every page is found, every public name and every figure is there."""

import re
import runpy
from pathlib import Path

import pytest
import reference
from examples import ROOT

import lmm_jax as lmm

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MORE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
BUILD = runpy.run_path(str(DOCS / "build.py"))
REFERENCE = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
DESCRIBED = [
    name.replace("predictions.predictions", "predictions")  # a function with the name of its file
    for name in re.findall(r"^#+ ::: lmm_jax\.([\w.]+)$", REFERENCE, flags=re.MULTILINE)
]


def prose(path: Path) -> str:
    """A page without its code."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", text)


def anchors(path: Path) -> set[str]:
    """What a link to a place on a page may name: headings, and objects of the reference."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (?!:::)(.+)$", text, flags=re.MULTILINE)
    plain = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in headings}
    return plain | set(re.findall(r"^#+ ::: ([\w.]+)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("path", [*PAGES, *MORE], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_there(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not re.match(r"https?:", target):
            name, _, place = target.partition("#")
            page = (path.parent / name).resolve() if name else path
            assert page.is_file(), target
            assert not place or place in anchors(page), target
            # what the site has not is no place to link to from its pages
            assert path not in PAGES or page.is_relative_to(DOCS), target


def test_every_picture_says_what_it_shows():
    for path in [*PAGES, *MORE]:
        assert "![](" not in path.read_text(encoding="utf-8"), path


def test_every_page_is_in_the_navigation_once():
    listed = [page for _, pages in BUILD["sections"]() for page in pages]
    assert len(listed) == len(set(listed))
    found = {str(path.relative_to(DOCS)) for path in PAGES}
    assert set(listed) == found, "nav of zensical.toml names every page"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_every_worked_example_is_on_the_first_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {p.name for p in DOCS.glob("howto/*.md")} <= set(re.findall(r"howto/([\w-]+\.md)", text))


def test_index_for_programs():
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    assert text == BUILD["llms"](), "write it anew: python docs/build.py --llms"


def test_every_public_name_is_in_the_reference_once():
    assert len(DESCRIBED) == len(set(DESCRIBED))
    public = {*lmm.__all__, *(f"plots.{name}" for name in lmm.plots.__all__)}
    assert {name for name in DESCRIBED if not name.startswith("LMMResults.")} == public
    overview = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"#lmm_jax\.(\w+)", overview)) == set(lmm.__all__)


def test_every_part_of_a_result_is_in_the_reference():
    parts = {name for name in dir(lmm.LMMResults) if not name.startswith("_")}
    parts |= {name for name in lmm.LMMResults.__dataclass_fields__ if not name.startswith("_")}
    inside = {"estimates", "kept", "residual", "df_methods"}  # of the records, not for users
    described = {n.partition(".")[2] for n in DESCRIBED if n.startswith("LMMResults.")}
    assert described == parts - inside


# ------------------------------------------------------------ figures of docs/trust.md

TRUST = (DOCS / "trust.md").read_text(encoding="utf-8")


def test_counts_of_cases():
    cases = [reference.load(name) for name in reference.names()]
    exact = [case for case in cases if case["tol"]["params"] == 1e-9]
    rough = [case for case in cases if case["tol"]["params"] == 1e-5]
    usual = [case for case in cases if case["tol"]["params"] == 1e-7]
    assert len(cases) == len(exact) + len(rough) + len(usual)
    assert f"lme4 in {len(cases) - len(exact)} cases" in TRUST
    assert f"1e-7 in {len(usual)} cases; 1e-9 in the {len(exact)} closed forms" in TRUST
    assert f"1e-5 in {len(rough)} with badly scaled columns" in TRUST
    files = {case["data"]["file"] for case in cases}
    assert f"{len(files)} data sets" in TRUST
    kinds = [reference.load(n)["kind"] for n in reference.names(folder=reference.INFERENCE)]
    assert f"emmeans, {kinds.count('lmm')} models" in TRUST
    assert f"`gls` and `lme`, {kinds.count('residual_structure')} cases" in TRUST
    assert f"dense code in R, {kinds.count('known_relatedness')} cases" in TRUST


def test_where_lmer_stops_short():
    def excess(name):
        plain = reference.load(name).get("convergence", {}).get("plain_lmer_bobyqa")
        return 0.0 if plain is None else plain["minus2logLik_minus_polished"]

    missed = sorted((excess(name) for name in reference.names()), reverse=True)
    missed = [value for value in missed if value > 1e-6]
    figures = ", ".join(f"{value:.3g}" if value > 1 else f"{value:.2f}" for value in missed)
    assert f"in {len(missed)} of 74 cases" in TRUST and f"| {figures} in the deviance" in TRUST


def test_where_derivatives_of_lmertest_fail():
    failed = [
        name
        for name in reference.names(lambda case: case.get("satterthwaite_lmerTest") is not None)
        if reference.load(name)["satterthwaite_lmerTest"].get("unreliable")
    ]
    assert f"in {len(failed)} cases the result is not usable" in TRUST


def test_files_that_the_page_names_are_there():
    for name in re.findall(r"`(test_\w+\.py)`", TRUST):
        assert (ROOT / "tests" / name).is_file(), name
