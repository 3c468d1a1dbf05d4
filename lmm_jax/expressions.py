"""Expressions of R's formulas in Python, and the names that they mention."""

from __future__ import annotations

import ast
import keyword
import re
from functools import lru_cache

from .errors import FormulaError

# Names that a call may mention as a value and that are no columns: C(x, Sum), np.log(x).
NAMESPACES = {"np", "contr", "Treatment", "Sum", "Poly", "Helmert", "Diff"}
_ACCESSORS = {"dt", "str", "cat"}
_WORDS = {"TRUE": "True", "FALSE": "False", "NULL": "None"}
_OPERATORS = {"and", "or", "not", "in", "is", "if", "else", "for", "lambda", *_WORDS.values()}
_RESERVED = set(keyword.kwlist) - _OPERATORS
_FUNCTIONS = {"factor": "C", "as.factor": "C", "as.numeric": "as_numeric"}
_SIGNS = {"^": "**", "%%": "%", "%/%": "//"}
_CODE = re.compile(
    r"""\bQ\(\s*(?P<q>["'])(?P<column>.*?)(?P=q)\s*\)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<quoted>`[^`]*`)
      | (?P<number>\.?\d(?:[eE][+-]|[\w.])*) | (?P<word>[^\W\d][\w.]*)
      | (?P<sign>\^|%%|%/%)""",
    re.VERBOSE,
)


def to_python(code: str) -> str:
    """Translate what R spells differently in an expression; Python passes unchanged."""

    def translate(match: re.Match[str]) -> str:
        text, kind = match.group(), match.lastgroup
        if kind == "column":
            return f"`{match['column']}`"
        if kind == "string":  # C(x, "contr.sum")
            return text[1:-1] if re.fullmatch(r"contr\.\w+", text[1:-1]) else text
        if kind == "number":
            return re.sub(r"^(\d+)L$", r"\1", text)
        if kind == "word":
            return _word(text, code[: match.start()], code[match.end() :])
        return _SIGNS.get(text, text)

    return _CODE.sub(translate, code)


def _word(word: str, before: str, after: str) -> str:
    """One name of an expression in Python, given the code on both sides of it."""
    if after.lstrip().startswith("("):
        return _FUNCTIONS.get(word, word)
    if word in ("T", "F") and re.search(r"[^=!<>]=\s*$", before):
        return str(word == "T")
    if word in _RESERVED:  # a column that only Python could take for something else
        return f"`{word}`"
    parts = word.split(".")
    if len(parts) == 1 or before.endswith(".") or parts[0] in NAMESPACES or parts[1] in _ACCESSORS:
        return _WORDS.get(word, word)
    return f"`{word}`"  # a column of R such as reaction.time


@lru_cache(maxsize=1024)
def names_in(code: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that an expression reads, and functions that it calls, in order of appearance."""
    named: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        if match.lastgroup != "quoted":
            return match.group()
        named.append(match.group()[1:-1])
        return f"_quoted_{len(named) - 1}_"

    try:
        tree = ast.parse(_CODE.sub(placeholder, code).strip(), mode="eval")
    except SyntaxError as error:
        message = f"`{code}` cannot be read as an expression ({error.msg})"
        raise FormulaError(message, code, None) from error
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    values, functions = [], []
    for node in nodes:
        match = re.fullmatch(r"_quoted_(\d+)_", node.id)
        if id(node) in called:
            functions.append(node.id)
        elif match or node is tree.body or node.id not in NAMESPACES:
            values.append(named[int(match[1])] if match else node.id)
    return tuple(dict.fromkeys(values)), tuple(dict.fromkeys(functions))


def quoted(name: str) -> str:
    """The name of a column as an expression."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"
