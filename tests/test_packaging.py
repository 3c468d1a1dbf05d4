"""What is built and published says the same in every place, and needs no optional package."""

import fnmatch
import re
import subprocess
import sys
import tomllib

from examples import ROOT

import lmm_jax as lmm

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
# Keys of the Citation File Format 1.2.0 that are required, and all others of its schema.
CFF_REQUIRED = {"cff-version", "message", "title", "authors"}
CFF_KEYS = CFF_REQUIRED | {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license",
    "license-url", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "type", "url", "version",
}  # fmt: skip


def cff_values(key):
    """Scalar, or items of the list, of a key at the top of the file."""
    found = re.search(rf"^{key}:(.*(?:\n +.*)*)", CITATION, flags=re.MULTILINE)
    lines = [line.strip().removeprefix("- ") for line in found[1].splitlines()]
    return [line.strip('"') for line in lines if line]


# ------------------------------------------------------------ one version, one description


def test_the_version_has_one_home():
    assert "version" in PROJECT["dynamic"]
    home = (ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert f'__version__ = "{lmm.__version__}"\n' in home
    assert cff_values("version") == [lmm.__version__]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, flags=re.MULTILINE)[1] == lmm.__version__


def test_the_citation_is_that_of_the_project():
    keys = re.findall(r"^([\w-]+):", CITATION, flags=re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert set(keys) >= CFF_REQUIRED and set(keys) <= CFF_KEYS
    assert cff_values("cff-version") == ["1.2.0"] and cff_values("type") == ["software"]
    [title] = cff_values("title")
    assert title.partition(":")[0].replace("_", "-") == PROJECT["name"]
    assert cff_values("abstract") == [PROJECT["description"]]
    assert cff_values("keywords") == PROJECT["keywords"]
    assert cff_values("authors") == [f"name: {who['name']}" for who in PROJECT["authors"]]
    assert cff_values("license")[0] in PROJECT["license"].split(" AND ")


def test_versions_of_python_are_those_that_are_tested():
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    tried = re.search(r"^for minor in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert named == tried[1].split()
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_licences_of_bundled_data_are_in_the_wheel():
    licences = [p.relative_to(ROOT) for p in (ROOT / "lmm_jax").rglob("*LICENSE*")]
    assert licences
    for path in [*licences, "LICENSE"]:
        assert any(fnmatch.fnmatch(str(path), glob) for glob in PROJECT["license-files"]), path
    assert not any("License ::" in name for name in PROJECT["classifiers"])  # PEP 639 forbids both


def test_the_readme_of_a_package_index_has_no_dead_link():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    shown = text
    for rule in hook["substitutions"]:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    assert all(re.match("https?:", link) for link in re.findall(r"\]\(([^)]*)\)", shown))
    assert shown.count("```") == text.count("```") and shown.count("\n#") == text.count("\n#")
    for title in re.findall(r"(?<!!)\[([^]]+)\]\(", text):
        assert title in shown


# ------------------------------------------------------------ without optional packages

# Everything that somebody may have beside the dependencies, and that some function reads or uses.
OPTIONAL = (
    "matplotlib", "polars", "pyarrow", "tqdm", "sklearn", "duckdb", "marginaleffects", "maketables",
    "great_tables", "arviz", "jinja2", "tabulate", "IPython", "ipywidgets", "statsmodels", "patsy",
    "dask", "xarray", "modin", "plotly", "seaborn", "tables", "openpyxl", "numba", "yaml",
)  # fmt: skip
BLOCKED = """
import sys, warnings

warnings.simplefilter("error")
OPTIONAL = {optional!r}


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
"""
USED = """
import tempfile

import numpy as np

import lmm_jax as lmm

assert {name for name in dir(lmm) if not name.startswith("_")} == set(lmm.__all__)
for name in lmm.__all__:
    getattr(lmm, name)
sleep = lmm.load_dataset("sleepstudy")
res = lmm.fit("Reaction ~ Days + (Days | Subject)", sleep)
assert "251.4051" in str(res.summary()) and "<table" in res.summary()._repr_html_()
assert "tabular" in res.to_latex() and len(res.tidy()) == 6 and len(res.glance()) == 1
print(res, res.varcorr, res.conf_int(), res.anova(), res.t_test("Days = 0"))
res.predict(sleep.head(3), se=True), res.augment(), res.coef(), res.random_effects
lmm.emmeans(res, "Days", at={"Days": [0, 9]}), lmm.influence(res), lmm.r2(res), lmm.ranova(res)
lmm.simulate_residuals(res, 20, seed=1)
with tempfile.TemporaryDirectory() as folder:
    sleep.to_csv(f"{folder}/sleep.csv", index=False)
    res.save(f"{folder}/sleep.lmm")
    assert lmm.load(f"{folder}/sleep.lmm").llf == res.llf
columns = {name: sleep[name].to_numpy() for name in sleep}
assert abs(lmm.fit("Reaction ~ Days + (Days | Subject)", columns).llf - res.llf) < 1e-9
try:
    res.plot()
except ImportError as error:
    assert "lmm-jax[plot]" in str(error), error
else:
    raise AssertionError("matplotlib was to be missing")
assert not {name.partition(".")[0] for name in sys.modules} & set(OPTIONAL)
"""


def test_without_any_optional_package():
    program = BLOCKED.format(optional=OPTIONAL) + USED
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_optional_packages_of_the_project_are_blocked_there():
    extras = PROJECT["optional-dependencies"]
    imported = {"scikit-learn": "sklearn", "great-tables": "great_tables"}
    for name in ("plot", "arrow", "duckdb", "progress", "sklearn", "neighbours"):
        for requirement in extras[name]:
            package = re.match(r"[\w-]+", requirement)[0]
            assert imported.get(package, package) in (*OPTIONAL, "narwhals")  # a dependency too
