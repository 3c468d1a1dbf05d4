"""Residual covariances of a formula: `ar1(visit | id)`, `us(visit | arm / id)`, `diag(site)`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import FormulaError
from ..inputs.names import unquoted
from .expressions import check_source, to_python
from .residual_elsewhere import MEANS
from .tokens import STRUCTURES, Item, depths, lex, split

# Correlations by the name in a formula: their own name, and whether variances differ by visit.
OF_VISITS = {
    "us": ("symm", True),
    "symm": ("symm", False),
    "cs": ("cs", False),
    "csh": ("cs", True),
    "ar1": ("ar1", False),
    "ar1h": ("ar1", True),
    "toep": ("toep", False),
    "toeph": ("toep", True),
    "ad": ("ad", False),
    "adh": ("ad", True),
    "arma11": ("arma11", False),
    "arma": ("arma", False),
}
SPATIAL = ("car1", "sp_exp", "sp_gau", "sp_rat", "sp_sph")
# A product of two `ar1()`, along the rows and the columns of a field.
SEPARABLE = "ar1_ar1"
OF_NUGGETS = (
    f"`nugget=True` belongs to {', '.join(SPATIAL)}, and to a field's "
    "`ar1(row | field) * ar1(column | field, nugget=True)`"
)
SPREADS = ("diag", "power", "expo")
_NAMES = "|".join((*OF_VISITS, *SPATIAL, *SPREADS))
_CALL = re.compile(rf"({_NAMES})\(")
_ONE_SIDED = re.compile(rf"\s*({_NAMES})\(\s*(?:form\s*=\s*)?~")
# What may name the visits: a column, or a column as a factor. More is a term of random effects.
_VISIT = re.compile(
    r"\s*(?:`[^`]*`|[^\W\d]\w*|(?:(?:as\.)?factor|C)\(\s*(?:`[^`]*`|[^\W\d]\w*)\s*\))\s*"
)
_FACTOR = re.compile(r"^C\(\s*(`[^`]*`|\w+)\s*\)$")
_MEANS = re.compile(r"\s*fitted\(\s*\.?\s*\)\s*")
_OPTION = re.compile(r",\s*(nugget|p|q)\s*=\s*([^,]*?)\s*$")
# Orders of autoregressive moving averages that have names of their own, which they go by.
_ORDERS = {"ar1": (1, 0), "arma11": (1, 1)}
# p + q, of which 2^(p + q - 1) rows of starts are looked over.
_MOST_ORDERS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualTerm:
    """The residual covariance that a formula asks for.

    Attributes
    ----------
    correlation : str
        Name of a correlation; empty for residuals that differ in variance alone.
    places : tuple of str
        Expressions of the visit, the time or the coordinates; `row` for the order of the rows.
    by : tuple of str
        Factor whose levels have a covariance each.
    group : tuple of str
        Factor of the subjects; empty where all rows are one.
    nugget : bool
    order : tuple of int
        p and q of an autoregressive moving average; (0, 0) for others, and for independence.
    spread : {"one", "visits", "diag"}
        Levels that have standard deviations of their own.
    strata : tuple of str
        Expressions inside `diag()`, which may have several joined by colons.
    of : {"", "power", "expo"}
        Function of a covariate that standard deviations are multiplied by.
    covariate : str
        The expression inside `power()` or `expo()`; ``MEANS`` for the fitted values.
    steps : bool
        Whether visits are the levels of a factor: numbers as well count by their order.
    text : str
        As written.
    """

    correlation: str = ""
    places: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    nugget: bool = False
    order: tuple[int, int] = (0, 0)
    spread: str = "one"
    strata: tuple[str, ...] = ()
    of: str = ""
    covariate: str = ""
    steps: bool = False
    text: str

    @property
    def counts_rows(self) -> bool:
        """Whether places are the order of the rows of a subject."""
        return self.places == ("row",)

    @property
    def subject(self) -> str:
        """What the subjects are called: the column, or several joined by colons."""
        return ":".join(map(unquoted, self.group))

    @property
    def in_space(self) -> bool:
        """Whether places are coordinates, and no visits."""
        return self.correlation in (*SPATIAL, SEPARABLE)

    @property
    def follows_means(self) -> bool:
        """Whether standard deviations are a function of the fitted values."""
        return self.covariate == MEANS

    @property
    def expressions(self) -> list[str]:
        """All columns that it reads."""
        return [*self.row_expressions, *self.group]

    @property
    def row_expressions(self) -> list[str]:
        """Columns that it reads but for those that name the subject."""
        named = () if self.counts_rows else self.places
        return [*named, *self.by, *self.spread_expressions]

    @property
    def spread_expressions(self) -> list[str]:
        """Columns that it reads for standard deviations other than those of visits."""
        reads_covariate = self.of and not self.follows_means
        return [*self.strata, *([self.covariate] if reads_covariate else [])]


def without_tilde(text: str) -> str | None:
    """A covariance with nlme's one-sided formula as it is here, "" for none; None for no such.

    Examples
    --------
    >>> without_tilde("ar1(form = ~ week | id)"), without_tilde("diag(~ 1 | sex)")
    ('ar1(week | id)', 'diag(sex)')
    """
    match = _ONE_SIDED.match(text)
    if match is None:
        return None
    name, (left, bar, right) = match[1], _cut(text[match.end() :].strip()[:-1])
    left, right = left.strip(), right.strip()
    if name in SPREADS and bar:
        return f"diag({right})" if left == "1" and name == "diag" else ""
    if name in SPREADS:
        return f"{name}({left})"
    plain = f"{name}({'row' if left == '1' else left} | {right})"
    return plain if bar and is_residual(plain) else ""


def incomplete(text: str) -> str | None:
    """What is wrong with a call that has the name of a correlation and no bar, or an unknown one.

    Examples
    --------
    >>> incomplete("ar1(age)")
    '`ar1(age)` names no subjects: write `ar1(age | id)`, or `ar1(age | 1)` for one series'
    """
    match = re.match(r"\s*(\w+)\((.*)\)\s*$", text, re.DOTALL)
    if match is None:
        return None
    name, inside = match[1], match[2].strip()
    if name in OF_VISITS and inside and not _cut(inside)[1]:
        left, comma, options = inside.partition(",")
        of_id, of_one = (f"`{name}({left} | {who}{comma}{options})`" for who in ("id", "1"))
        return f"`{text.strip()}` names no subjects: write {of_id}, or {of_one} for one series"
    if name in SPREADS and _cut(inside)[1]:
        return f"`{name}()` takes a column alone, `{name}(x)`: it is one for all subjects"
    if _cut(inside)[1] and name not in (*OF_VISITS, *SPATIAL, *SPREADS):
        known = ", ".join((*OF_VISITS, *SPATIAL))
        return (
            f"`{name}(… | …)` is no covariance: of residuals there are {known}; of random effects "
            f"{', '.join(STRUCTURES)}, as in `cs(0 + f | g)`, and `(x || g)` without correlations"
        )
    return None


def is_residual(text: str) -> bool:
    """Whether a call is a residual covariance: no bar, or a bar after the visits alone.

    Examples
    --------
    >>> [is_residual(t) for t in ("us(visit | id)", "us(1 + x | id)", "diag(site)", "log(x)")]
    [True, False, True, False]
    """
    match = _CALL.match(text)
    if match is None:
        return False
    name, inside = match[1], text[match.end() : -1]
    left, bar, _ = _cut(inside)
    if not bar:
        return name in (*SPATIAL, *SPREADS)
    return name in SPATIAL or (name in OF_VISITS and _VISIT.fullmatch(left) is not None)


def _cut(inside: str) -> tuple[str, str, str]:
    """What stands before and after the only bar outside of brackets."""
    items = lex(inside) if inside.strip() else []
    bars = [item for item, depth in depths(items) if item.text in ("|", "||") and depth == 0]
    if not bars:
        return inside, "", ""
    return inside[: bars[0].start], bars[0].text, inside[bars[0].stop :]


def with_correlation(term: ResidualTerm, name: str) -> str:
    """The term with another correlation over the same visits and subjects.

    Examples
    --------
    >>> term = ResidualTerm(correlation="symm", text="us(visit | id)", spread="visits")
    >>> with_correlation(term, "ar1h")
    'ar1h(visit | id)'

    Raises
    ------
    FormulaError
        Variances of visits beside others.
    """
    if OF_VISITS[name][1] and term.spread not in ("one", "visits"):
        raise FormulaError(
            f"`{name}` has a variance for every visit, and {term.text} has others already",
            term.text,
        )
    call = re.compile(rf"\b({'|'.join((*OF_VISITS, *SPATIAL))})\(")
    text = re.sub(r",\s*[pq]\s*=\s*\w+", "", term.text)
    return call.sub(f"{name}(", text, count=1)


def read_call(item: Item, text: str) -> ResidualTerm:
    """The residual covariance of one call, `ar1(visit | id)`."""
    match = _CALL.match(item.text)
    assert match is not None
    name, inside = match[1], item.text[match.end() : -1]
    read = _read_spread if name in SPREADS else _read_correlation
    return read(name, inside, item, text)


def _read_spread(name: str, inside: str, item: Item, text: str) -> ResidualTerm:
    apart, what = {i.text for i, depth in depths(lex(inside or "1")) if depth == 0}, ""
    if name == "diag" and "*" in apart:
        what = "several factors are joined by colons, `diag(a:b)`"
    elif "," in apart:
        what = f"`{name}()` takes one column: of a factor beside a covariate `diag(f) * power(x)`"
    elif name != "diag" and _MEANS.fullmatch(inside):
        return ResidualTerm(of=name, covariate=MEANS, text=item.text)
    elif name != "diag" and re.search(r"\bfitted\(\s*\.", inside):
        what = f"the fitted values stand alone, `{name}({MEANS})`"
    if what:
        raise FormulaError(what, text, item.start)
    if name != "diag":
        return ResidualTerm(of=name, covariate=_code(inside, item, text), text=item.text)
    several = split(lex(inside), ":", inside) if inside.strip() else []
    parts = [inside[p[0].start : p[-1].stop] for _, p in several] or [inside]
    strata = tuple(_code(part, item, text) for part in parts)
    return ResidualTerm(spread="diag", strata=strata, text=item.text)


def _read_correlation(name: str, inside: str, item: Item, text: str) -> ResidualTerm:
    inside, options = _without_options(name, inside, item, text)
    left, bar, right = _cut(inside)
    what = ""
    if bar == "||":
        what = f"write one bar, `{name}(… | id)`"
    elif bar and not right.strip():
        what = f"no subjects after the bar: write `{name}(… | id)`"
    elif any(each.text == "," and depth == 0 for each, depth in depths(lex(right or "1"))):
        more = "p= and q=" if name == "arma" else "nugget=" if name in SPATIAL else "nothing"
        what = f"`{name}()` takes {more} behind the subjects"
    if what:
        raise FormulaError(what, text, item.start)
    one = right.strip() in ("", "1")  # nlme's way to say that all rows are one subject
    by, group = ((), ()) if one else _subjects(right, item, text)
    if not left.strip():
        raise FormulaError(f"nothing stands in `{item.text}` before the bar", text, item.start)
    spatial = name in SPATIAL
    correlation, own = (name, False) if spatial else OF_VISITS[name]
    order = _ORDERS.get(correlation, (0, 0))
    if name == "arma":
        order = _order(options, item, text)
        correlation = next((own for own, at in _ORDERS.items() if at == order), name)
    return ResidualTerm(
        correlation=correlation,
        places=tuple(_code(part, item, text) for part in (_sum(left) if spatial else [left])),
        by=by,
        group=group,
        nugget=options.get("nugget", "F").upper() in ("TRUE", "T"),
        order=order,
        spread="visits" if own else "one",
        steps=not spatial and _FACTOR.match(to_python(left.strip())) is not None,
        text=item.text,
    )


def _without_options(name: str, inside: str, item: Item, text: str) -> tuple[str, dict[str, str]]:
    """What stands before `nugget=`, `p=` and `q=`, and what they are."""
    options: dict[str, str] = {}
    while (found := _OPTION.search(inside)) is not None:
        option, value = found.groups()
        what = ""
        if option in options:
            what = f"`{option}=` stands twice"
        elif option != "nugget" and name != "arma":
            what = f"`{option}=` belongs to arma, `arma(visit | id, p=2, q=1)`"
        elif option != "nugget" and not re.fullmatch(r"\d{1,2}L?", value):
            what = f"`{option}={value}`: a whole number from 0 on"
        elif option == "nugget" and name not in (*SPATIAL, "ar1"):
            what = OF_NUGGETS
        elif option == "nugget" and value not in ("True", "False", "TRUE", "FALSE", "T", "F"):
            what = f"`nugget={value}`: True or False; its share is estimated"
        if what:
            raise FormulaError(what, text, item.start)
        options[option], inside = value, inside[: found.start()]
    return inside, options


def _order(options: dict[str, str], item: Item, text: str) -> tuple[int, int]:
    """Orders p and q of an autoregressive moving average."""
    p, q = (int(options.get(name, "0").removesuffix("L")) for name in "pq")
    what = ""
    if not p + q:
        what = "`arma()` needs its orders, p= or q= or both: `arma(visit | id, p=2, q=1)`"
    elif p + q > _MOST_ORDERS:
        what = f"p + q is {p + q}, up to {_MOST_ORDERS} are taken"
    if what:
        raise FormulaError(what, text, item.start)
    return p, q


def _sum(left: str) -> list[str]:
    """Coordinates `lat + lon`, one by one."""
    items = lex(left)
    if any(item.text == "," and depth == 0 for item, depth in depths(items)):
        raise FormulaError("coordinates are added, `sp_exp(lat + lon | id)`", left, left.index(","))
    operands = split(items, "+", left)
    return [left[part[0].start : part[-1].stop] for _, part in operands]


def _subjects(right: str, item: Item, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Arm and subjects of `arm / id` or `id`; factors joined by colons."""
    factors = [
        [items for _, items in split(part, ":", right)] for _, part in split(lex(right), "/", right)
    ]
    if len(factors) > 2:
        raise FormulaError("one `/` at most: `us(visit | arm / id)`", text, item.start)
    if any(len(items) != 1 for part in factors for items in part):
        raise FormulaError(
            "subjects are the levels of one factor, or of several joined by colons: "
            "`us(visit | site:id)`",
            text,
            item.start,
        )
    parts = [tuple(_code(items[0].text, item, text) for items in part) for part in factors]
    return ((), parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _code(part: str, item: Item, text: str) -> str:
    if not part.strip():
        raise FormulaError(f"nothing stands in `{item.text}`", text, item.start)
    code = to_python(part.strip())
    check_source(code)
    return _FACTOR.sub(r"\1", code)
