"""Who may import whom: the floors of the package, read from the sources with ast."""

import ast
import json
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmm_jax"

# A module imports from its own floor and the floors below it. "x.*" is a package and its modules.
FLOORS = (
    (
        *("roots",),
        *("arguments",),
        *("processes", "errors", "reprs", "contexts", "saving", "linalg", "covariance"),
        *("params", "penalties", "woodbury", "programs", "datasets"),
    ),
    (
        *("capabilities",),
        *("tables",),
        *("layouts.*", "grammar", "expressions", "columns", "splines", "functions", "evaluation"),
        *("tokens", "formula", "materializer", "matrices", "terms"),
        *(
            "formula_terms",
            "components",
            "arrays",
            "matching",
            "labels",
            "identification",
            "checks",
            "frames",
            "rows",
        ),
        "design",
        *("formula_design", "array_design", "batch_design", "responses", "row_index"),
        *("row_pass", "row_wise", "batch_reader", "row_sums", "sharding"),
    ),
    (
        *("coordinates", "likelihood", "factor_steps", "history", "newton", "starts", "optimize"),
        *("staged", "first_order"),
        *("constrained", "descent", "fit_params", "lanes", "lane_data"),
        *("lane_driver", "batch", "replicate_lanes", "sources", "replicates"),
    ),
    (
        *("estimates", "settings", "results", "fitted", "tidy", "summary", "predict"),
        *("effects", "joint_effects", "kept"),
        "inference.*",
        *("simulate", "plots", "many_estimates", "many_results"),
        *("lane_estimates", "bootstrap_results", "regularized_estimates", "regularized_results"),
    ),
    ("run", "fit", "many", "bootstrap", "power", "regularized"),
    ("__init__", "__main__"),
)

# Modules that read data frames or formulas, and those that show results as frames.
FRAMES = {
    *("tables",),
    *("columns", "splines", "functions", "evaluation"),
    *("tokens", "formula", "materializer", "matrices", "terms", "formula_terms"),
    *("arrays", "matching", "components", "checks", "frames", "rows", "row_wise", "design"),
    "datasets",
    *("formula_design", "array_design", "batch_design", "batch_reader", "row_sums"),
    *("results", "tidy", "summary", "predict", "simulate", "fitted", "effects", "kept"),
    *("inference.contrasts", "inference.hypotheses", "inference.influence"),
    *("responses", "many_results", "bootstrap_results"),
    *("regularized_results", "run", "fit", "power", "__main__"),
}
NO_JAX = {
    *("tables",),
    *("grammar", "expressions", "columns", "splines", "functions", "evaluation"),
    *("tokens", "formula", "materializer", "matrices", "terms", "formula_terms"),
    *("frames", "identification", "checks", "arrays", "matching", "components", "rows", "row_wise"),
}

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)


def floor(module):
    for level, names in enumerate(FLOORS):
        for name in names:
            if module == name or (name.endswith(".*") and module.startswith(name[:-1])):
                return level
    raise AssertionError(f"{module} stands on no floor: add it to FLOORS and to CONTRIBUTING.md")


def tree(module):
    source = (PACKAGE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    return RunTime().visit(ast.parse(source))


class RunTime(ast.NodeTransformer):
    """What is imported for annotations only is no dependency."""

    def visit_If(self, node):
        only_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if only_types else self.generic_visit(node)


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


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_floor_or_below(module):
    above = {name for name in imports(module)[0] if floor(name) > floor(module)}
    assert not above, f"{module} (floor {floor(module)}) imports from above: {sorted(above)}"


def test_no_cycles():
    graph = {module: imports(module)[0] for module in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


RULES = {
    "pandas": lambda module: module in FRAMES,
    "formulaic": lambda module: module in FRAMES,
    "jax": lambda module: module not in NO_JAX,
    "optax": lambda module: module == "first_order",
}


@pytest.mark.parametrize("package", RULES)
def test_packages_stay_in_their_modules(package):
    strays = [m for m in MODULES if package in imports(m)[1] and not RULES[package](m)]
    assert not strays, f"{package} is imported in {strays}"


def test_importing_the_package_changes_no_setting_of_jax():
    program = """
import json, jax
before = dict(jax.config.values)
import lmm_jax
changed = {k: str(v) for k, v in jax.config.values.items() if before.get(k, v) != v}
print(json.dumps({"changed": changed, "x64": jax.config.jax_enable_x64}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert json.loads(done.stdout) == {"changed": {}, "x64": False}
