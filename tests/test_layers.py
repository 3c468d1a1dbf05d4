"""Who may import whom: the wings of the package, read from the sources with ast."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmm_jax"
DESIGN = PACKAGE.parent / "docs" / "design.md"
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"

# A module imports from its own wing and from those before it, never in a circle.
WINGS = (
    *(
        "forks",
        "imports",
        "version",
        "reprs",
        "errors",
        "capabilities",
        "inputs",
        "numerics",
        "penalties",
        "datasets",
        "tables",
    ),
    *("covariance", "formulas", "layouts", "likelihood", "designs", "engines"),
    *("optimize", "batches", "inference", "plots", "neighbours", "results", "api", "sklearn"),
    *("__init__", "__main__"),
)
# What a wing may use of other packages.
READERS = {
    "tables",
    "inputs",
    "formulas",
    "designs",
    "engines",
    "datasets",
    "inference",
    "plots",
    "neighbours",
    "results",
    "api",
    "sklearn",
}
PACKAGES = {
    "pandas": READERS,
    "narwhals": {"inputs", "engines"},
    "formulaic": {"formulas"},
    "jax": set(WINGS) - {"forks", "imports", "errors", "capabilities", "inputs", "formulas"},
    "optax": {"optimize"},
    "matplotlib": {"plots"},
    "great_tables": {"tables"},
    **{name: {"neighbours"} for name in ("marginaleffects", "polars", "arviz", "xarray")},
    **{name: {"engines"} for name in ("dask", "duckdb", "pyspark")},
    "sklearn": {"sklearn"},
}

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)


def wing(module):
    return module.split(".")[0]


def tree(module):
    suffix = ".pyi" if module == "__init__" else ".py"  # the stub says where public names live
    source = (PACKAGE / (module.replace(".", "/") + suffix)).read_text(encoding="utf-8")
    return ast.parse(source)


@cache
def imports(module):
    """Modules of the package, and top-level names of other packages, that a module imports."""
    inner, outer = set(), set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                outside(alias.name, outer, inner)
        elif isinstance(node, ast.ImportFrom):
            prefix = node.module.split(".") if node.module else []
            if node.level == 0 and prefix[0] != "lmm_jax":
                outer.add(prefix[0])
                continue
            base = module.split(".")[: -node.level] + prefix if node.level else prefix[1:]
            for alias in node.names:
                inner.add(inside([*base, alias.name]))
    return frozenset(inner - {module}), frozenset(outer)


def outside(name, outer, inner):
    parts = name.split(".")
    if parts[0] == "lmm_jax":
        inner.add(inside(parts[1:]))
    else:
        outer.add(parts[0])


def inside(parts):
    """The module that ``lmm_jax.a.b`` is, or holds the name b."""
    for length in range(len(parts), -1, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if length and path.with_suffix(".py").is_file():
            return ".".join(parts[:length])
        if (path / "__init__.py").is_file():
            return ".".join([*parts[:length], "__init__"])
    raise AssertionError(f"no module for lmm_jax.{'.'.join(parts)}")


def test_every_module_is_in_a_wing():
    strays = sorted({wing(module) for module in MODULES} - set(WINGS))
    assert not strays, f"{strays} are no wings: see docs/design.md for where a module belongs"


def lists_of(page, start, end, indent):
    """Names at the beginning of the lines of an indented list, folders without their slash."""
    part = page.read_text(encoding="utf-8").partition(start)[2].partition(end)[0]
    lines = re.findall(rf"^ {{{indent}}}(\w[\w/., ]*?)(?: {{2,}}.*)?$", part, flags=re.MULTILINE)
    return [name.strip("/").removesuffix(".py") for line in lines for name in line.split(", ")]


def test_the_pages_list_the_wings_in_their_order():
    assert lists_of(DESIGN, "## The house", "**A formula", 4) == [*reversed(WINGS)]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    listed = lists_of(CONTRIBUTING, "in wings\n", "    tests/", 6)
    assert listed == [name for name in WINGS if name in folders | {"sklearn"}] + ["data"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_wing_or_one_before(module):
    own = WINGS.index(wing(module))
    after = sorted(name for name in imports(module)[0] if WINGS.index(wing(name)) > own)
    assert not after, f"{module} imports from wings that stand above it: {after}"


def test_no_cycles():
    graph = {module: imports(module)[0] for module in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_stay_in_their_wings(package):
    users = {module for module in MODULES if package in imports(module)[1]}
    strays = sorted(module for module in users if wing(module) not in PACKAGES[package])
    assert not strays, f"{package} is imported in {strays}"


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return json.loads(done.stdout)


def test_a_public_name_is_imported_when_it_is_asked_for():
    assert run("""
import json, sys
import lmm_jax
heavy = sorted({"jax", "pandas", "numpy", "scipy", "formulaic"} & set(sys.modules))
names = {name: getattr(lmm_jax, name).__name__ for name in lmm_jax.__all__}
classes = [getattr(lmm_jax, name) for name in lmm_jax.__all__]
places = sorted({c.__module__ for c in classes if isinstance(c, type)})
print(json.dumps([heavy, [k for k, v in names.items() if v.split(".")[-1] != k], places]))
""") == [[], [], ["lmm_jax"]]


@pytest.mark.parametrize("collects", [True, False])
def test_imports_leave_the_garbage_collector_as_it_was(collects):
    assert run(f"""
import gc, json
frozen = gc.get_freeze_count()
(gc.enable if {collects} else gc.disable)()
import lmm_jax
class Watch:
    def find_spec(self, name, *rest):
        seen.append(gc.isenabled())
seen = []
__import__("sys").meta_path.insert(0, Watch())
lmm_jax.fit
young = gc.get_count()[0]
print(json.dumps([
    any(seen), gc.isenabled(), young > 100_000 and gc.isenabled(), gc.get_freeze_count() > frozen
]))
""") == [False, collects, False, False]


def test_public_names_are_those_of_the_stub():
    import lmm_jax

    listed = next(n for n in tree("__init__").body if isinstance(n, ast.Assign))
    assert sorted(ast.literal_eval(listed.value)) == lmm_jax.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lmm_jax.nothing  # noqa: B018


def test_importing_the_package_changes_no_setting_of_jax():
    program = """
import json, jax
before = dict(jax.config.values)
from lmm_jax import *
changed = {k: str(v) for k, v in jax.config.values.items() if before.get(k, v) != v}
print(json.dumps({"changed": changed, "x64": jax.config.jax_enable_x64}))
"""
    assert run(program) == {"changed": {}, "x64": False}
