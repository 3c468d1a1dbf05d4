"""Formulas as tokens, and what brackets and operators make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from formulaic.errors import FormulaicError
from formulaic.parser.algos.tokenize import tokenize

from ..errors import FormulaError
from .expressions import check_source, masked, show, to_python


class Item(NamedTuple):
    """One token of a formula."""

    text: str  # as written
    kind: str  # name, python, value, operator or context, as formulaic has them; or structure
    start: int
    stop: int


_OPERATOR = re.compile(r"\|\||\*\*|[=!<>]=|%[^%]*%|\S")
_COMPARISONS = {"==", "!=", "<", ">", "<=", ">=", "!", "&"}
_NOT_OF_TERMS = {
    **dict.fromkeys(
        _COMPARISONS, "compares: put it in parentheses, `(f == 'a')`, or in a call, `I(f == 'a')`"
    ),
    "&": "compares: put it in parentheses, `(a & b)`; an interaction is `a:b`",
    "!": "negates a logical: put it in parentheses, `(!flag)`, or in a call, `I(!flag)`",
    **{sign: f"is arithmetic: put it in a call, `I(x {sign} 3)`" for sign in ("%%", "%/%", "%")},
}
# Covariance structures of a term, `cs(x | g)`, as lme4 and glmmTMB name them; glmmTMB has names
# of its own for one variance or several.
STRUCTURES = ("us", "diag", "cs", "ar1", "toep", "ad", "arma11")
_ALIASES = {
    "homdiag": ("diag", True),
    "homcs": ("cs", True),
    "hetar1": ("ar1", False),
    "homtoep": ("toep", True),
}
_UNKNOWN = ("hcs", "hetcs", "mat", "exp", "gau", "ou", "rr", "propto", "equalto")
# Covariances of residuals, whose visits stand alone before the bar, and their names elsewhere.
_OF_RESIDUALS = {
    **dict.fromkeys(("un", "UN", "unstr"), "us"), "arh1": "ar1h", "symm": "symm", "csh": "csh",
    "ar1h": "ar1h", "toeph": "toeph", "adh": "adh",
}  # fmt: skip
# glmmTMB's covariances of numbers, and those of residuals which are like them.
_OF_NUMBERS = {
    "ou": "car1(time | id)", "exp": "sp_exp(x + y | id)", "gau": "sp_gau(x + y | id)",
    "mat": "sp_exp(x + y | id)",
}  # fmt: skip
_NAMED = re.compile(rf"({'|'.join((*STRUCTURES, *_ALIASES, *_UNKNOWN, *_OF_RESIDUALS))})\(")
_HOM = re.compile(r"(,\s*hom\s*=\s*(\w+)\s*)\)$")
_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)|#[^\n]*""")
_REMAINDER = re.compile(r"%[^%\s]*%|%")
_CLOSES = {")": "(", "]": "[", "}": "{"}


def _check_balance(text: str) -> None:
    """Raise at the first bracket or quote that has no partner."""
    opened: list[tuple[str, int]] = []
    skip = False
    for i, char in enumerate(text):
        inside = opened[-1][0] if opened and opened[-1][0] in "\"'`" else ""
        if skip or (inside and inside != "`" and char == "\\"):
            skip = not skip
        elif inside:
            if char == inside:
                opened.pop()
        elif char in "\"'`([{":
            opened.append((char, i))
        elif char in _CLOSES:
            if not opened or opened[-1][0] != _CLOSES[char]:
                raise FormulaError(f"`{char}` closes nothing: remove it", text, i)
            opened.pop()
    if opened:
        raise FormulaError(f"`{opened[-1][0]}` is never closed", text, opened[-1][1])


def without_comments(text: str) -> str:
    """A formula with blanks where R's comments are, `# text` up to the end of a line."""
    if "#" not in text:
        return text
    return _COMMENT.sub(lambda found: found[1] or " " * len(found[0]), text).rstrip()


def lex(text: str) -> list[Item]:
    """Tokens of a formula, with every operator a token of its own."""
    text = without_comments(text)
    if not text.strip():
        raise FormulaError("empty formula: write `response ~ terms`", text, 0)
    if "``" in text:
        raise FormulaError("no name between the backticks", text, text.index("``"))
    _check_balance(text)
    try:
        tokens = list(tokenize(_REMAINDER.sub(_as_long, masked(text))))
    except FormulaicError as error:
        raise syntax_error(error, text) from error
    starts = [int(token.source_start or 0) for token in tokens]
    items: list[Item] = []
    for token, start, stop in zip(tokens, starts, [*starts[1:], len(text)], strict=True):
        raw, kind = text[start:stop].rstrip(), str(token.kind.value)
        if kind == "operator":
            items += [
                Item(m.group(), kind, start + m.start(), start + m.end())
                for m in _OPERATOR.finditer(raw)
            ]
        else:
            items.append(Item(raw, kind, start, start + len(raw)))
    for item in items:
        if item.text == ".":
            raise FormulaError("`.` is not supported: name the columns", text, item.start)
    return _with_methods(items, text)


def _as_long(sign: re.Match[str]) -> str:
    """An operator that formulaic reads as one, in the place of remainders."""
    return {"%%": "**", "%": "*"}.get(sign[0], sign[0])


def _with_methods(items: Sequence[Item], text: str) -> list[Item]:
    """Items in which `x.clip(0, 1).pow(2)` is one column, `I(x.clip(0, 1).pow(2))`."""
    out: list[Item] = []
    for item in items:
        follows = bool(out) and item.start == out[-1].stop and out[-1].text.endswith((")", "]"))
        if not (follows and item.text.startswith(".")):
            out.append(item)
            continue
        first = len(out) - 1
        if out[first].kind == "context":
            level = [depth for _, depth in depths(out)]
            first = max(i for i in range(first) if out[i].text == "(" and level[i] == level[-1])
        start = out[first].start
        out[first:] = [Item(f"I({text[start : item.stop]})", "python", start, item.stop)]
    return out


def right_side(items: Sequence[Item], text: str) -> list[Item]:
    """Tokens of a sum of terms; comparisons in parentheses are one token.

    Raises
    ------
    FormulaError
        For a number or a comparison that is no term.
    """
    joined = _join_comparisons(_open_structures(items, text), text)
    for i, item in enumerate(joined):
        if item.kind == "operator" and item.text in _NOT_OF_TERMS:
            message = f"`{item.text}` {_NOT_OF_TERMS[item.text]}"
            raise FormulaError(message, text, item.start)
        if (
            item.text == ":"
            and i
            and joined[i - 1].text == ":"
            and joined[i - 1].stop == item.start
        ):
            message = "`::` is not for formulas: write the function without its package"
            raise FormulaError(message, text, item.start - 1)
        after = joined[i + 1] if i + 1 < len(joined) else item
        if item.text in ("+", "-"):
            minus = item.text == "-" and _minus_before(joined, i)
            if minus and after.text not in ("0", "1", "+", "-"):
                message = "two minus signs: write `+`, or `I(…)` for arithmetic"
                raise FormulaError(message, text, item.start)
        if item.text in ("^", "**") and after.kind != "value":
            message = f"`{item.text}` crosses terms, `(a + b)^2`: write `I(x^…)` for a power"
            raise FormulaError(message, text, item.start)
        if item.kind == "value":
            _check_literal(joined, i, text)
    return joined


def _minus_before(items: Sequence[Item], i: int) -> bool:
    """Whether a minus sign stands before a sign, with nothing but signs between."""
    while i and items[i - 1].text in ("+", "-"):
        i -= 1
        if items[i].text == "-":
            return True
    return False


def _open_structures(items: Sequence[Item], text: str) -> list[Item]:
    """Items in which `cs(x | g)`, a call for formulaic, is `cs` and the term in parentheses."""
    out: list[Item] = []
    for item in items:
        match = _NAMED.match(item.text) if item.kind == "python" else None
        inner: list[Item] = []
        hom = _HOM.search(item.text) if match else None
        if match and "|" in item.text:  # blanks before it keep the places of the formula
            start = item.start + match.end() - 1
            inside = text[start : item.stop]
            if hom is not None:
                inside = f"{inside[: -len(hom[0])]}{' ' * len(hom[1])})"
            inner = lex(" " * start + inside)
        if match and any(i.text in ("|", "||") and depth == 1 for i, depth in depths(inner)):
            _check_known(match[1], text, item)
            name = _structure(match[1], hom and hom[2], text, item)
            out += [Item(name, "structure", item.start, start), *inner]
        else:
            out.append(item)
    return out


def _check_known(name: str, text: str, item: Item) -> None:
    if name in _OF_RESIDUALS:
        own = _OF_RESIDUALS[name]
        raise FormulaError(
            f"there is no `{name}(… | g)` of random effects: of residuals write the visits alone, "
            f"`{own}(visit | id)`",
            text,
            item.start,
        )
    if name in _UNKNOWN:
        there = f"there is no `{name}(… | g)`"
        if name in _OF_NUMBERS:
            there += f" (of residuals there is `{_OF_NUMBERS[name]}`)"
        raise FormulaError(
            f"{there}: covariances of random effects are `(x | g)`, as us(), `(x || g)`, as "
            f"diag(), and {', '.join(f'{n}()' for n in STRUCTURES[2:])}",
            text,
            item.start,
        )


def _structure(name: str, hom: str | None, text: str, item: Item) -> str:
    """Name of a structure, followed by `=` or `!` where `hom=` says one variance or several."""
    own, equal = _ALIASES.get(name, (name, None))
    if hom is not None:
        if hom.lower() not in ("true", "false") or equal is not None or own == "us":
            message = f"`hom={hom}`: one variance, as in `cs(… | g, hom=True)`, or several"
            raise FormulaError(message, text, item.start)
        equal = hom.lower() == "true"
    return own + {None: "", True: "=", False: "!"}[equal]


def _join_comparisons(items: Sequence[Item], text: str) -> list[Item]:
    """Items in which a comparison in parentheses, `(f == 'p')`, is one column, `I(f == 'p')`."""
    out: list[Item] = []
    opened: list[int] = []
    for item in items:
        out.append(item)
        if item.kind == "context" and item.text == "(":
            opened.append(len(out) - 1)
        elif item.kind == "context" and item.text == ")" and opened:
            at = opened.pop()
            inside = [i for i, depth in depths(out[at + 1 : -1]) if depth == 0]
            compared = any(i.kind == "operator" and i.text in _COMPARISONS for i in inside)
            if compared and not any(i.text in ("|", "||", "~") for i in inside):
                start, stop = out[at].start, item.stop
                out[at:] = [Item("I" + text[start:stop], "python", start, stop)]
    return out


def _check_literal(items: Sequence[Item], i: int, text: str) -> None:
    """Raise for a number that is neither an intercept nor an exponent, and for text."""
    item = items[i]
    before = items[i - 1] if i else None
    if item.text[0] in "\"'":
        message = f"{item.text} is text: a column is written without quotes"
        raise FormulaError(message, text, item.start)
    if before is not None and before.text in ("^", "**"):
        if not re.fullmatch(r"[1-9]\d?", item.text):
            message = f"the exponent {item.text} is no whole number from 1 to 99"
            raise FormulaError(f"{message}: write `I(x^{item.text})` for a power", text, item.start)
        return
    if item.text not in ("0", "1"):
        raise FormulaError(
            f"{item.text} is no term: write 1 or 0 for an intercept or none, `I({item.text} * x)` "
            "for a multiple of a column, `offset(…)` for a known part",
            text,
            item.start,
        )
    near = _operator_beside(items, i)
    if near is not None:
        raise FormulaError(
            f"{item.text} is no operand of `{near.text}`: write `I(…)` for arithmetic, and "
            f"`{item.text} + …` outside of all brackets for an intercept or none",
            text,
            item.start,
        )


def _operator_beside(items: Sequence[Item], i: int) -> Item | None:
    """The operator, but for a sum's, that an item or brackets around it stand beside."""
    left = right = i
    while True:
        for at in (left - 1, right + 1):
            item = items[at] if 0 <= at < len(items) else None
            joins = item is not None and item.kind == "operator"
            if item is not None and joins and item.text not in ("+", "-", "|", "||", "~"):
                return item
        opened = _enclosing(items, left)
        if opened is None:
            return None
        left, right = opened


def _enclosing(items: Sequence[Item], left: int) -> tuple[int, int] | None:
    """Places of the innermost round brackets around an item; None where a bar is inside."""
    level = 0
    for start in range(left - 1, -1, -1):
        if items[start].kind == "context":
            level += 1 if items[start].text in ")]" else -1
        if level < 0:
            break
    else:
        return None
    inner = 0
    for stop in range(start, len(items)):
        if items[stop].kind == "context":
            inner += 1 if items[stop].text in "([" else -1
        if inner == 0:
            break
    bars = any(item.text in ("|", "||") for item in items[start:stop])
    return None if bars else (start, stop)


def syntax_error(error: Exception, text: str, names: tuple[str, ...] = ()) -> FormulaError:
    """Formulaic's error as ours; it marks the place with a bracket in the formula.

    ``names`` are those that :func:`lmm_jax.formulas.expressions.hide` has hidden.
    """
    if isinstance(error, SyntaxError):
        return FormulaError(f"a term cannot be read as an expression ({error.msg})", text)
    message, _, marked = str(error).partition("\n\n")
    before, found, _ = show(marked, names).partition("⧛")
    return FormulaError(show(message, names), text, len(before) if found else None)


def render(items: Sequence[Item], text: str) -> str:
    """Translated text of consecutive tokens, with the blanks that were between them.

    Expressions are checked here, before formulaic sees them.
    """
    out, stop = "", items[0].start
    for item in items:
        code = to_python(item.text) if item.kind in ("name", "python") else item.text
        if item.kind == "python":
            check_source(code.strip("{}"))
        out += text[stop : item.start] + code
        stop = item.stop
    return out


def depths(items: Sequence[Item]) -> Iterator[tuple[Item, int]]:
    """Each token with the number of brackets around it; a bracket counts as outside itself."""
    depth = 0
    for item in items:
        closing = item.kind == "context" and item.text in ")]"
        depth -= closing
        yield item, depth
        depth += item.kind == "context" and not closing


def split(items: Sequence[Item], signs: str, text: str) -> list[tuple[str, list[Item]]]:
    """Operands at the outermost level, each with the operator before it ("" for the first)."""
    out: list[tuple[str, list[Item]]] = [("", [])]
    last: Item | None = None
    for item, depth in depths(items):
        if depth or item.kind != "operator" or item.text not in signs:
            out[-1][1].append(item)
            continue
        last = item
        if out[-1][1]:
            out.append((item.text, []))
        elif signs == "+-":  # a sign before a term, or two in a row
            out[-1] = ("-" if (out[-1][0] == "-") != (item.text == "-") else "+", [])
        else:
            raise FormulaError(f"nothing stands before `{item.text}`", text, item.start)
    if last is not None and not out[-1][1]:
        raise FormulaError(f"nothing follows `{last.text}`", text, last.start)
    return out


def is_wrapped(items: Sequence[Item]) -> bool:
    """Whether one pair of round brackets holds everything."""
    inside = [depth for _, depth in depths(items)][1:-1]
    return items[0].text == "(" and items[-1].text == ")" and min(inside, default=1) > 0
