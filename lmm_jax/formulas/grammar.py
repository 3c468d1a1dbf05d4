"""What an expression of a formula may consist of: operators, calls, names and methods."""

from __future__ import annotations

import ast
from collections.abc import Container

from ..errors import FormulaError


def words(text: str) -> list[str]:
    """Names of a table."""
    return text.split()


_NODES = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Dict),
    *(ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
    *(ast.BitAnd, ast.BitOr, ast.UnaryOp, ast.USub, ast.UAdd, ast.Invert),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
)
# Arguments that ask a function to write where it reads.
_WRITING = frozenset(words("out inplace copy overwrite_input"))
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_INSTEAD = {
    ast.Lambda: "a function has a name: define it beside the call",
    ast.IfExp: "write `ifelse(test, yes, no)`",
    ast.And: "`and` is written `&`, with each comparison in parentheses",
    ast.Or: "`or` is written `|`, with each comparison in parentheses",
    ast.Not: "`not` is written `~`, with the comparison in parentheses",
    ast.Is: "`is` is written `==`",
    ast.IsNot: "`is not` is written `!=`",
    ast.JoinedStr: "write the text without `f`",
    ast.MatMult: "`@` is not for columns",
}

# Methods and properties of columns, whole or row by row; none reads or writes a file, none
# changes the data, and none takes the name of another method.
METHODS = frozenset(
    words(
        """
    abs add all any argsort astype between clip corr count cov cummax cummin cumprod cumsum
    diff div dropna dtype eq ewm expanding ffill bfill fillna first floordiv ge groupby gt
    index interpolate isin isna isnull kurt kurtosis last le loc lt map mask max mean median min
    mod mode mul ne ngroup notna notnull nunique pct_change pow prod quantile rank ravel replace
    reshape rolling round sem shift size skew std sub sum to_numpy transform truediv unique
    value_counts values var where
    cat dt str codes categories ordered
    add_categories as_ordered as_unordered remove_categories remove_unused_categories
    rename_categories reorder_categories set_categories
    capitalize contains count endswith extract find fullmatch get isalnum isalpha isdigit
    isnumeric len lower lstrip match pad removeprefix removesuffix rstrip slice split startswith
    strip swapcase title upper zfill
    ceil date day day_name day_of_week day_of_year dayofweek dayofyear days days_in_month
    daysinmonth floor hour is_leap_year is_month_end is_month_start is_quarter_end
    is_quarter_start is_year_end is_year_start isocalendar microsecond minute month month_name
    nanosecond normalize quarter second seconds time total_seconds week weekday year
    """
    )
)
# Methods, and functions of NumPy, that make one number of a column.
REDUCTIONS = frozenset(
    words(
        """
    all any corr count cov kurt kurtosis max mean median min nunique prod ptp quantile sem size skew
    std sum var
    average nanmax nanmean nanmedian nanmin nanpercentile nanprod nanquantile nanstd nansum nanvar
    percentile
    """
    )
)
# Those that make a few numbers of a column.
SUMMARIES = frozenset(
    words("mode nanpercentile nanquantile percentile quantile unique value_counts")
)
# They see a column from which the rows with missing values are gone.
MISSING = frozenset(words("isna isnull notna notnull fillna ffill bfill interpolate dropna"))
# Methods of arrays that take the array to write into by its place: arguments before it.
_BEFORE_OUT = dict.fromkeys(words("all any cumprod cumsum max mean min prod std sum var"), 1)
_BEFORE_OUT |= {"clip": 2, "round": 1}
_SUMMARIES = frozenset(
    words(
        """
    count cumcount cummax cummin cumprod cumsum diff first last max mean median min nunique
    prod rank sem shift size skew std sum var
    """
    )
)


def check_syntax(tree: ast.Expression, code: str) -> None:
    """Raise for a kind of expression that formulas do without."""
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) and not isinstance(node, ast.BoolOp):
            what = f"a formula has no {type(node).__name__}"
            raise FormulaError(_INSTEAD.get(type(node), what), code, None)
        if isinstance(node, ast.Call):
            _check_call(node, code)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise FormulaError(f"`.{node.attr}` is not for formulas", code, None)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            raise FormulaError("write text without `b`", code, None)
        elif isinstance(node, ast.Compare):
            _check_comparison(node, code)


def _check_call(node: ast.Call, code: str) -> None:
    if not isinstance(node.func, ast.Name | ast.Attribute):
        raise FormulaError("only a function by its name can be called", code, None)
    for given in node.keywords:
        if given.arg is None or given.arg.startswith("_") or given.arg in _WRITING:
            raise FormulaError(f"`{given.arg or '**'}` cannot be given in a formula", code, None)


def _check_comparison(node: ast.Compare, code: str) -> None:
    """Raise where R and Python read a comparison differently."""
    sides = [node.left, *node.comparators]
    if len(sides) > 2:
        raise FormulaError(
            "put each comparison in parentheses: `(a < b) & (b < c)`; R and Python differ here",
            code,
            None,
        )
    for side in sides:
        if isinstance(side, ast.BinOp) and isinstance(side.op, ast.BitAnd | ast.BitOr):
            raise FormulaError(
                "put each comparison in parentheses: `(a > 0) & (b > 0)`", code, None
            )
        if isinstance(side, ast.UnaryOp) and isinstance(side.op, ast.Invert):
            raise FormulaError("put the comparison in parentheses: `~(a == b)`", code, None)
    inside = isinstance(node.ops[0], ast.In | ast.NotIn)
    if inside and isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ARITHMETIC):
        raise FormulaError(
            "`%in%` binds more tightly in R than here: write `I(…) %in% c(…)`", code, None
        )


def check_remainders(tree: ast.Expression, code: str, source: str) -> None:
    """Raise for `a * b %% c`: in R it is `a * (b %% c)`, in Python `(a * b) % c`.

    Parameters
    ----------
    tree : ast.Expression
    code : str
        As messages show it.
    source : str
        What the tree was read from, with the brackets that somebody wrote.
    """
    lines = source.encode().splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mod | ast.FloorDiv):
            continue
        left = node.left
        if not isinstance(left, ast.BinOp) or not isinstance(left.op, ast.Mult | ast.Div):
            continue
        rest = lines[(left.end_lineno or 1) - 1][left.end_col_offset :]
        if b")" in rest.split(b"%")[0].split(b"//")[0]:
            continue
        sign = "%%" if isinstance(node.op, ast.Mod) else "%/%"
        raise FormulaError(
            f"`{sign}` beside `*` or `/` is read differently by R and Python: put parentheses "
            f"around one of them, `a * (b {sign} c)` in R's reading",
            code,
            None,
        )


def root(node: ast.expr) -> ast.expr:
    """What a chain of attributes starts from: `a` of `a.b.c`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def check_methods(tree: ast.Expression, spaces: Container[str], columns: Container[str]) -> None:
    """Raise for methods that formulas do without.

    Parameters
    ----------
    tree : ast.Expression
    spaces : container of str
        Names whose attributes are checked elsewhere: namespaces, and what the caller has passed.
    columns : container of str
        Names of the tree that are columns.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        start = root(node)
        if isinstance(start, ast.Name) and start.id in spaces:
            continue
        if node.attr not in METHODS:
            raise FormulaError(
                f"`.{node.attr}` is no method of columns in formulas: make the column first, or"
                " define a function beside the call"
            )
        value = node.value
        if node.attr in MISSING and isinstance(value, ast.Name) and value.id in columns:
            raise missing_values(f".{node.attr}")
    for call in [n for n in ast.walk(tree) if isinstance(n, ast.Call)]:
        if not isinstance(call.func, ast.Attribute):
            continue
        method, start = call.func.attr, root(call.func)
        if isinstance(start, ast.Name) and start.id in spaces:
            continue
        if len(call.args) > _BEFORE_OUT.get(method, len(call.args)):
            raise FormulaError(f"`.{method}(…)` takes further arguments by their names")
        if method in ("transform", "map"):
            _check_argument(call.func.attr, [*call.args, *(k.value for k in call.keywords)])


def missing_values(what: str) -> FormulaError:
    """Error about a formula that asks for missing values."""
    return FormulaError(
        f"`{what}` finds nothing: rows with missing values are left out before a formula is"
        " evaluated. Make the column first: data.assign(gap=data['z'].isna())"
    )


def _check_argument(method: str, given: list[ast.expr]) -> None:
    """Only what cannot name a method: pandas calls methods by text."""
    fine = [
        isinstance(node, ast.Constant) and node.value in _SUMMARIES
        if method == "transform"
        else isinstance(node, ast.Dict | ast.Name)
        for node in given
    ]
    if len(fine) != 1 or not fine[0]:
        form = "the name of a summary such as 'mean'" if method == "transform" else "a dictionary"
        raise FormulaError(f"`.{method}(…)` takes {form} in a formula, and nothing else")
