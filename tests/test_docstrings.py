"""What docstrings point to is there: read from the sources with ast, nothing is imported."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmm_jax"
ROLE = re.compile(r":(mod|func|class|meth|attr|data):`~?([^`]+)`")


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    module_name(path): ast.parse(
        (path.with_suffix(".pyi") if path == PACKAGE / "__init__.py" else path).read_text("utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
CLASSES = defaultdict(list)
for _tree in TREES.values():
    for _node in ast.walk(_tree):
        if isinstance(_node, ast.ClassDef):
            CLASSES[_node.name].append(_node)


def names(body):
    """What statements define or import at their own level."""
    found = set()
    for node in body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Import() | ast.ImportFrom():
                found |= {alias.asname or alias.name for alias in node.names}
            case ast.Assign():
                parts = (part for target in node.targets for part in ast.walk(target))
                found |= {part.id for part in parts if isinstance(part, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.If():
                found |= names(node.body) | names(node.orelse)
    return found


@cache
def members(name):
    """Of the classes of a name, with those of their bases in the package."""
    found = set()
    for node in CLASSES[name]:
        found |= names(node.body)
        for base in node.bases:
            above = ast.unparse(base).split("[")[0].split(".")[-1]
            found |= members(above) if above in CLASSES and above != name else set()
    return frozenset(found)


TOP = {module: names(tree.body) for module, tree in TREES.items()}
ANYWHERE = set().union(*TOP.values())


def absolute(target, module):
    """The module that ``.name`` or ``..name`` is, seen from one in a package."""
    dots = len(target) - len(target.lstrip("."))
    return ".".join([*module.split(".")[: -dots or None], target[dots:]]) if dots else target


def is_there(role, target, module):
    *owner, last = target.split(".")
    if role == "mod":
        return absolute(target, module) in TREES
    if role in ("meth", "attr") and owner:
        return last in members(owner[-1])
    if role in ("meth", "attr"):
        own = (node.name for node in ast.walk(TREES[module]) if isinstance(node, ast.ClassDef))
        return any(last in members(name) for name in own)
    if owner:
        return last in TOP.get(absolute(".".join(owner), module), ())
    return last in ANYWHERE


def references(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            yield from ROLE.findall(ast.get_docstring(node) or "")


@pytest.mark.parametrize("module", TREES)
def test_what_a_docstring_points_to_is_there(module):
    lost = [f":{r}:`{t}`" for r, t in references(module) if not is_there(r, t, module)]
    assert not lost, f"{module} points to {', '.join(lost)}"


def test_pointers_to_nothing_are_found():
    module = "lmm_jax.layouts.grouped"
    for lost in (
        ("mod", ".nowhere"),
        ("func", "lmm_jax.layouts.contract.half_traces"),
        ("class", "NoSuchClass"),
        ("meth", "Layout.nothing"),
    ):
        assert not is_there(*lost, module)
    for there in (("mod", ".crossed"), ("meth", "GroupedLayout.is_structured")):
        assert is_there(*there, module)
