"""Names and labels: which are known, what resembles one, and none of them twice."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from difflib import get_close_matches
from itertools import permutations, product
from typing import Any, NoReturn, TypeVar

import pandas as pd

from ..errors import UnknownLabel
from .arguments import choice
from .matching import label_shown

V = TypeVar("V")
# Labels that a message lists before it stops.
_LISTED = 12
# What functions of R's formulas are called here, in formulas and in names.
FUNCTIONS_OF_R = {
    "factor": "C",
    "as.factor": "C",
    "as.numeric": "as_numeric",
    "as.double": "as_numeric",
    "as.integer": "as_integer",
    "as.character": "as_character",
    "as.logical": "as_logical",
    "is.na": "is_na",
}
_CALL = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, FUNCTIONS_OF_R))})(?=\()")
# Colons that join the parts of an interaction, not those in brackets.
_COLON = re.compile(r":(?![^\[(]*[\])])")
# A column that C() makes a factor, whatever its contrasts, of a term or before a level.
_NAME = r"(?:`[^`]*`|[^\W\d][\w.]*)"
_FACTOR = re.compile(rf"^C\(({_NAME})(?:,.*)?\)(?=\[|$)")
# The same without arguments, which is the column itself where that is a factor.
_COLUMN = re.compile(rf"^C\(({_NAME})\)(?=\[|$)")
# Parts of an interaction that are tried in every order.
_MOST_PARTS = 5
# Parts of an interaction that are called by their columns or as factors one by one.
_MOST_CALLED = 3


def suggestion(name: Any, known: Iterable[Any]) -> str:
    """``; did you mean 'Days'?``, or nothing where no name resembles what was given."""
    if not isinstance(name, str):
        same = [k for k in known if str(k) == str(name)]
    else:
        folded = {str(k).lower(): k for k in known}
        same = [folded[k] for k in get_close_matches(name.lower(), list(folded), 3)]
    return f"; did you mean {' or '.join(label_shown(k) for k in same)}?" if same else ""


def unquoted(name: Any) -> Any:
    """A name as it is called that may stand between backticks, as in formulas."""
    quoted = isinstance(name, str) and len(name) > 2 and name[0] == name[-1] == "`"
    return name[1:-1] if quoted and "`" not in name[1:-1] else name


def as_named(text: str) -> str:
    """A name, or text with names, whose functions are called as in names of terms here.

    Examples
    --------
    >>> as_named("factor(temp)[T.185] = 0")
    'C(temp)[T.185] = 0'
    """
    return _CALL.sub(lambda call: FUNCTIONS_OF_R[call[1]], text)


def spellings(names: Iterable[str], coefficients: Iterable[str] = ()) -> dict[str, str]:
    """Terms and coefficients by their names, and by what else they may be called.

    The parts of an interaction have any order; powers are R's, and blanks are left out of calls:
    ``I(x^2)`` and ``I(x**2)`` for ``I(x ** 2)``. A factor may be called by its column, ``f`` for
    ``C(f)``, or ``C(f)[T.b]`` for ``f[T.b]``, where one name alone can be meant; of terms their
    ``coefficients`` say which columns are factors. What is asked for goes through
    :func:`as_named`.
    """
    names = tuple(names)
    out = {name: name for name in names}
    for name in names:
        for text in _written(name):
            out.setdefault(text, name)
    parts = {part for name in (*names, *coefficients) for part in _COLON.split(name)}
    factors = {part.split("[")[0] for part in parts if "[" in part}
    factors = {column for column in factors if re.fullmatch(_NAME, column)}
    meant: dict[str, set[str]] = {}
    for name in names:
        for text in {t for other in _called(name, factors) for t in _written(other)} - out.keys():
            meant.setdefault(text, set()).add(name)
    return out | {text: of.pop() for text, of in meant.items() if len(of) == 1}


def _written(name: str) -> list[str]:
    """A name with its parts in every order, with R's powers, and without blanks in calls."""
    parts = _COLON.split(name)
    orders = permutations(parts) if 1 < len(parts) <= _MOST_PARTS else [parts]
    out = []
    for order in map(":".join, orders):
        out.append(order)
        if "(" in name:
            for text in (order.replace(" ** ", "^"), order.replace(" ", "")):
                out += [text, text.replace("**", "^")]
    return out


def _called(name: str, factors: Collection[str]) -> list[str]:
    """A name with its factors called otherwise, one by one: ``f:x`` and ``C(f):x``."""
    parts = _COLON.split(name)
    others = [_otherwise(part, factors) for part in parts]
    if len(parts) > _MOST_CALLED:
        return [":".join(others)]
    return [":".join(some) for some in product(*zip(parts, others, strict=True))][1:]


def _otherwise(part: str, factors: Collection[str]) -> str:
    """``f[T.b]`` for ``C(f)[T.b]``, and the other way round where f is one of the factors."""
    bare = _FACTOR.sub(r"\1", part)
    column, bracket, level = part.partition("[")
    called = f"C({column}){bracket}{level}" if column in factors else part
    return bare if bare != part else called


def parts_of(name: Any) -> tuple[str, ...]:
    """The parts of a coefficient or of a grouping factor, the same ones in every spelling.

    Examples
    --------
    >>> parts_of("x:C(f)[T.b]") == parts_of("f[T.b]:x") == ("f[T.b]", "x")
    True
    """
    parts = _COLON.split(as_named(str(name)))
    return tuple(sorted(_COLUMN.sub(r"\1", part) for part in parts))


def one_spelling(
    lists: Sequence[Sequence[str]], keys: Sequence[Sequence[Hashable]]
) -> list[list[str]]:
    """Names spelled as in the first list that has their key.

    A list in which two names have one key keeps its own.

    Examples
    --------
    >>> lists = [["x", "x:f[T.b]"], ["C(f)[T.b]:x", "x"]]
    >>> one_spelling(lists, [[parts_of(name) for name in names] for names in lists])[1]
    ['x:f[T.b]', 'x']
    """
    first: dict[Hashable, str] = {}
    out = []
    for names, own in zip(lists, keys, strict=True):
        found = [first.setdefault(key, name) for name, key in zip(names, own, strict=True)]
        out.append(found if len(set(found)) == len(found) else list(names))
    return out


def meant(name: Any, names: Iterable[str]) -> str | None:
    """The one of some names that a user means, who may spell it as a formula does.

    Examples
    --------
    >>> meant("factor(a):x", ["x", "x:C(a)"])
    'x:C(a)'
    """
    names = tuple(names)
    if not isinstance(name, str):
        return None
    if name in names:
        return name
    return spellings(names).get(as_named(unquoted(name)))


def chosen_name(name: Any, what: str, names: Sequence[str]) -> str:
    """The one of some names that is meant; any other is refused."""
    found = meant(name, names)
    return choice(name, what, names) if found is None else found


def refuse(name: Any, known: Sequence[Any], what: str) -> NoReturn:
    """Raise for a label that is not among those known."""
    some = ", ".join(label_shown(k) for k in known[:_LISTED])
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    raise UnknownLabel(
        f"{what} has no {label_shown(name)}: it has {some or 'no entries'}{more}"
        f"{suggestion(name, known)}"
    )


class Labelled(dict[str, V]):
    """A dictionary that says which keys it has where it is asked for another."""

    def __missing__(self, key: Any) -> NoReturn:
        for name, value in self.items():
            index = getattr(value, "index", None)
            if isinstance(index, pd.Index) and isinstance(key, Hashable) and key in index:
                raise UnknownLabel(
                    f"{label_shown(key)} is a level of {name!r}: it is in [{name!r}].loc[{key!r}]"
                )
        refuse(key, list(self), "the result")


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Names of which none occurs twice: a repeated one gets ``.1``, ``.2``, as in R.

    Examples
    --------
    >>> unique(["a", "b", "a", "a", "a.1"])
    ('a', 'b', 'a.2', 'a.3', 'a.1')
    """
    given = tuple(names)
    taken = set(given)
    if len(taken) == len(given):
        return given
    out: list[str] = []
    seen: set[str] = set()
    for name in given:
        label, i = name, 0
        while label in seen or (i and label in taken):
            i += 1
            label = f"{name}.{i}"
        seen.add(label)
        out.append(label)
    return tuple(out)


def merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names, each behind the one that it follows in the first list that has it.

    Examples
    --------
    >>> merged([["a", "b"], ["a", "c", "b"]])
    ['a', 'c', 'b']
    """
    out: list[str] = []
    for names in lists:
        at = 0
        for name in names:
            if name in out:
                at = out.index(name) + 1
            else:
                out.insert(at, name)
                at += 1
    return out


def merged_terms(lists: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Coefficients of several models, interactions behind what they are of; and their new names.

    A coefficient that two models spell in two ways is one, with the first one's name.

    Examples
    --------
    >>> merged_terms([["a", "b:a"], ["a", "b", "a:b"]])
    (['a', 'b', 'b:a'], [['a', 'b:a'], ['a', 'b', 'b:a']])
    """
    spelled = one_spelling(lists, [list(map(parts_of, names)) for names in lists])
    return sorted(merged(spelled), key=lambda name: len(parts_of(name))), spelled
