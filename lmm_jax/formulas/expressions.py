"""Expressions of R's formulas in Python, and the names that they mention."""

from __future__ import annotations

import ast
import keyword
import re
from functools import lru_cache
from typing import NamedTuple
from unicodedata import normalize

from ..errors import FormulaError
from ..inputs.names import FUNCTIONS_OF_R
from .grammar import check_remainders, check_syntax

# Names whose members are functions: np.log(x), contr.treatment("a").
NAMESPACES = {"np", "contr"}
# Contrasts, which are no columns where they stand beside the factor: C(x, Sum).
_CONTRASTS = {"Treatment", "Sum", "Poly", "Helmert", "Diff"}
# The same in R's words, C(x, sum), where they are no functions: contr.sum, unless the context has
# the name.
OF_R = {"treatment", "sum", "poly", "helmert", "SAS"}
BESIDE = "__contr_"
_ACCESSORS = {"dt", "str", "cat"}
_WORDS = {"TRUE": "True", "FALSE": "False", "NULL": "None"}
# Words between two operands; they are names only where an operand has to stand.
_BINARY = {"and", "or", "in", "is", "if", "else", "for"}
_SIGNS = {"^": "**", "%%": "%", "%/%": "//", "%in%": " in ", "!": "~", "&&": "&", "||": "|"}
_CODE = re.compile(
    r"""\bQ\(\s*(?P<q>["'])(?P<column>.*?)(?P=q)\s*\)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<quoted>`[^`]*`)
      | (?P<number>\.?\d(?:[eE][+-]|[\w.])*) | (?P<word>[^\W\d][\w.]*)
      | (?P<place>\[\s*,\s*(?P<at>[1-9]\d*)\s*\]) | (?P<sign>\^|%%|%/%|%in%|!(?!=)|&&|\|\|)""",
    re.VERBOSE,
)
_NOT = re.compile(r"!(?!=)")
_ENDS = "&|,)]}"  # after what `!` negates
_QUOTED = re.compile(r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`(?P<name>[^`]*)`""")
# The same, and words that are no functions, arguments or members.
_NAMED = re.compile(_QUOTED.pattern + r"|(?P<word>(?<![\w.])[^\W\d]\w*+(?!\s*\()(?!\s*=(?!=)))")
_HIDDEN_TEXT = re.compile(r"'__text_(\d+)__'")
_HIDDEN = re.compile(r"__quoted_(\d+)__")


def _with_scopes(code: str) -> str:
    """Code in which brackets hold what `!` negates: in R it binds less tightly than comparisons."""
    shape = masked(code)
    for at in reversed([match.end() for match in _NOT.finditer(shape)]):
        depth, compound, stop = 0, False, at
        while stop < len(shape) and (depth or shape[stop] not in _ENDS):
            depth += (shape[stop] in "([{") - (shape[stop] in ")]}")
            compound = compound or (not depth and shape[stop] in "+-*/^%<>=")
            stop += 1
        if compound:
            stop = at + len(shape[at:stop].rstrip())
            code, shape = (f"{s[:at]}({s[at:stop].lstrip()}){s[stop:]}" for s in (code, shape))
    return code


def without_blanks(code: str) -> str:
    """Code as R compares it, blanks apart."""
    hidden, names = hide(code, texts=True)
    return show(re.sub(r"\s+", "", hidden), names)


def to_python(code: str) -> str:
    """Translate what R spells differently in an expression; Python passes unchanged."""
    code = _with_scopes(code) if "!" in code else code

    def translate(match: re.Match[str]) -> str:
        text, kind = match.group(), match.lastgroup
        if kind == "column":
            return f"`{match['column']}`"
        if kind == "string":  # C(x, "contr.sum")
            return text[1:-1] if re.fullmatch(r"contr\.\w+", text[1:-1]) else text
        if kind == "number":
            return re.sub(r"^(\d+)L$", r"\1", text)
        if kind == "place":  # R counts from 1
            return f"[:, {int(match['at']) - 1}]"
        if kind == "word":
            return _word(text, code[: match.start()], code[match.end() :])
        return _SIGNS.get(text, text)

    return _CODE.sub(translate, code)


def _word(word: str, before: str, after: str) -> str:
    """One name of an expression in Python, given the code on both sides of it."""
    if after.lstrip().startswith("(") and word not in _BINARY | {"not"}:
        return FUNCTIONS_OF_R.get(word, re.sub(r"^(as|is)\.", r"\1_", word))
    if word in ("T", "F") and re.search(r"[^=!<>]=\s*$", before):
        return str(word == "T")
    if keyword.iskeyword(word) and word not in _WORDS.values() and _is_operand(word, before, after):
        return f"`{word}`"  # a column that only Python could take for something else
    parts = word.split(".")
    if len(parts) == 1 or before.endswith(".") or parts[0] in NAMESPACES or parts[1] in _ACCESSORS:
        return _WORDS.get(word, word)
    if re.match(r"\s*=(?!=)", after):  # an argument of R such as include.lowest
        return word.replace(".", "_")
    return f"`{word}`"  # a column of R such as reaction.time


def _is_operand(word: str, before: str, after: str) -> bool:
    """Whether a word of Python stands where a value has to stand."""
    if word == "not":
        return re.match(r"\s*([),*/+<>=!%^&|:-]|$)", after) is not None
    return word not in _BINARY or re.search(r"(^|[(,=+*/^%<>&|~!:-])\s*$", before) is not None


def hide(code: str, *, texts: bool = False) -> tuple[str, tuple[str, ...]]:
    """Code in which identifiers stand for what is between backticks, and what they stand for.

    Names that Python would write in other characters (NFKC) are hidden as well. ``texts`` hides
    what is between quotes: formulaic looks for brackets there.
    """
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        text, word, name = match.group(), match["word"], match["name"]
        if word is not None and normalize("NFKC", word) == word:
            return text
        if match["string"] is not None and not texts:
            return text
        kind, name = ("text", text) if match["string"] is not None else ("quoted", word or name)
        if name not in names:
            names.append(name)
        hidden = f"__{kind}_{names.index(name)}__"
        return hidden if kind == "quoted" else f"'{hidden}'"

    return _NAMED.sub(replace, code), tuple(names)


def show(code: str, names: tuple[str, ...]) -> str:
    """Code with backticks and texts again, where :func:`hide` has put something else."""

    def shown(match: re.Match[str]) -> str:
        at = int(match[1])
        if at >= len(names):  # somebody wrote it
            return match.group()
        return f"`{names[at]}`" if match.re is _HIDDEN else repr(ast.literal_eval(names[at]))

    return _HIDDEN.sub(shown, _HIDDEN_TEXT.sub(shown, code))


def masked(text: str) -> str:
    """Text of the same length with letters for what is between backticks and quotes."""

    def blank(match: re.Match[str]) -> str:
        whole = match.group()
        ends = "x" if match["name"] is not None else whole[0]
        return ends + "x" * (len(whole) - 2) + ends

    return _QUOTED.sub(blank, text)


class Expression(NamedTuple):
    """Code and what it mentions."""

    tree: ast.Expression  # identifiers stand for what is between backticks
    quoted: tuple[str, ...]  # what they stand for
    values: tuple[str, ...]  # names that are read, in order of appearance
    functions: tuple[str, ...]  # names that are called
    calls: tuple[ast.Call, ...]
    has_attributes: bool

    @property
    def reads_categories(self) -> bool:
        """Whether codes or the order of categories may be read."""
        nodes = list(ast.walk(self.tree))
        order = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
        ordered = any(isinstance(n, ast.Compare) and isinstance(n.ops[0], order) for n in nodes)
        coded = any(isinstance(n, ast.Attribute) and n.attr == "cat" for n in nodes)
        return ordered or coded

    @property
    def both(self) -> frozenset[str]:
        """Names of the tree that are read and called: `factor(factor)`."""
        return frozenset(self.values) & frozenset(self.functions)

    def column(self, name: str) -> str:
        """The column that a name of the tree means."""
        match = _HIDDEN.fullmatch(name)
        known = match is not None and int(match[1]) < len(self.quoted)
        return self.quoted[int(match[1])] if match is not None and known else name


@lru_cache(maxsize=1024)
def read(code: str) -> Expression:
    """Read and check an expression that :func:`to_python` has translated.

    Raises
    ------
    FormulaError
        For what is no Python, and for what formulas do without.
    """
    hidden, quoted = hide(code)
    try:
        tree = ast.parse(hidden.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        why = getattr(error, "msg", str(error))
        hint = (
            "; functions are defined beside the call" if "lambda" in code else _instead(code, why)
        )
        raise FormulaError(
            f"`{code}` cannot be read as an expression ({why}){hint}", code, None
        ) from error
    check_syntax(tree, code)
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        if beside_factor(call):
            call.args[1:] = map(_in_full, call.args[1:])
            for option in call.keywords:
                option.value = _in_full(option.value)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    calls = tuple(node for node in ast.walk(tree) if isinstance(node, ast.Call))
    called = {id(call.func) for call in calls}
    coded = {id(argument) for call in calls for argument in beside_factor(call)}
    dotted = any(isinstance(node, ast.Attribute) for node in ast.walk(tree))
    bare = Expression(tree, quoted, (), (), calls, dotted)
    values, functions = [], []
    for node in nodes:
        if id(node) in called:
            functions.append(bare.column(node.id))
        elif node.id.startswith(BESIDE) or (node.id in _CONTRASTS and id(node) in coded):
            continue
        elif node is tree.body or node.id not in NAMESPACES:
            values.append(bare.column(node.id))
    return bare._replace(
        values=tuple(dict.fromkeys(values)), functions=tuple(dict.fromkeys(functions))
    )


def beside_factor(call: ast.Call) -> list[ast.expr]:
    """What stands beside the factor in a call of C."""
    if not isinstance(call.func, ast.Name) or call.func.id != "C":
        return []
    return [*call.args[1:], *(given.value for given in call.keywords)]


def _instead(code: str, why: str) -> str:
    """What to write for R's `0:3` and `x[, 0]`, where they cannot be read."""
    if re.search(r"\[\s*,", code):
        return "; columns are counted from 1, one at a time: `poly(x, 2)[, 1]`"
    if re.search(r"\w\s*=[^=]*,\s*[\w.]+\s*\)", code) and "follows keyword" in why:
        return ": arguments with a name stand last, `log(x, base=2)`"
    match = re.search(r"(?<![\w.])(-?\d+)\s*:\s*(\d+)", code)
    if match is None and re.search(r"[\w)`]\s*:\s*[^\W\d]", code):
        return "; an interaction stands outside of calls, `f:h`"
    if match is None:
        return ""
    first, last = int(match[1]), int(match[2])
    step = 1 if last >= first else -1
    values = list(map(str, range(first, last + step, step)))
    listed = ", ".join([*values[:10], *(["…"] if len(values) > 10 else [])])
    return f"; the values of `{match[0]}` are written `c({listed})`"


def _in_full(node: ast.expr) -> ast.expr:
    """R's `sum` beside a factor is no function: `contr.sum`."""
    if not isinstance(node, ast.Name) or node.id not in OF_R:
        return node
    return ast.copy_location(ast.Name(BESIDE + node.id, ast.Load()), node)


def check_source(code: str) -> None:
    """Read an expression as somebody wrote it; raise for what R and Python read differently."""
    check_remainders(read(code).tree, code, hide(code)[0].strip())


def names_in(code: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that an expression reads, and functions that it calls, in order of appearance."""
    expression = read(code)
    return expression.values, expression.functions


def quoted(name: str) -> str:
    """The name of a column as an expression."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"


def is_factor(code: str) -> bool:
    """Whether an expression is a call of `factor`, which Python calls C."""
    call = read(code).tree.body
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "C"
