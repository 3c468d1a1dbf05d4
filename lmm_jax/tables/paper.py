"""What a paper asks of a table: words for headings, digits, a choice of columns, other names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple, TypedDict

from ..errors import DataError
from ..inputs.arguments import flag, instance, items, mapping, whole_number
from ..inputs.names import as_named, meant, suggestion
from .cells import Cells

# What stands above columns that a screen shows by their names.
_WORDS = {
    **{"bias": "Bias", "deviance": "Deviance", "eliminated": "Eliminated", "model": "Model"},
    **{"intercept": "Intercept", "part": "Part", "parameter": "Parameter"},
    **{"hypothesis": "Hypothesis", "p_bootstrap": "P (bootstrap)"},
    **{"conditional_cooks": "Conditional Cook's D"},
    **{"aic": "AIC", "bic": "BIC", "caic": "cAIC", "chisq": "Chisq", "cooks_distance": "Cook's D"},
    **{"conf_high": "Upper", "conf_low": "Lower", "converged": "Converged", "contrast": "Contrast"},
    **{"correction": "Correction", "df": "df", "df_denom": "Den. df", "df_num": "Num. df"},
    **{"df_residual": "Residual df", "effect": "Effect", "emmean": "Mean", "estimate": "Estimate"},
    **{"f": "F", "factor": "Factor", "group": "Group", "grp": "Group", "hat_value": "Hat value"},
    **{"icc": "ICC", "level": "Level", "llf": "Log-likelihood", "loglik": "Log-likelihood"},
    **{"lower": "Lower", "mc_error": "MC error", "mean_sq": "Mean Sq", "n_failed": "Failed"},
    **{"n_obs": "Observations", "nobs": "Observations", "npar": "Parameters", "null": "Null"},
    **{"p_boundary": "P (boundary)", "p_value": "P", "power": "Power", "q_value": "Q"},
    **{"r2_conditional": "R2 (conditional)", "r2_marginal": "R2 (marginal)", "ratio": "Ratio"},
    **{"reml_crit": "REML criterion", "response": "Response", "scaled": "Scaled"},
    **{"sdcor": "Std. dev. or corr.", "se_factor": "SE factor", "share": "Share"},
    **{"sigma": "Sigma", "singular": "Singular", "size": "Size", "statistic": "Statistic"},
    **{"std_dev": "Std. dev.", "std_error": "Std. error", "sum_sq": "Sum Sq", "term": "Term"},
    **{"tolerance": "Tolerance", "tolerance_high": "Upper tol.", "tolerance_low": "Lower tol."},
    **{"trace": "Trace", "upper": "Upper", "value": "Value", "var1": "Term", "var2": "With"},
    **{"variance": "Variance", "vcov": "Variance or cov.", "vif": "VIF"},
}
_MOST_DIGITS = 15
LABEL = re.compile(r"[\w:.+/ -]+")  # what may stand in \\label
# Methods, which screens show as the arguments that ask for them.
_DF_METHODS = {
    "satterthwaite": "Satterthwaite",
    "kenward-roger-linear": "Kenward-Roger, linear",
    "kenward-roger-expected": "Kenward-Roger, expected information",
    "kenward-roger": "Kenward-Roger",
    "between-within": "between and within subjects",
    "residual": "residual",
    "normal": "normal approximation",
}
_METHODS = {
    **_DF_METHODS,
    **{"tukey": "Tukey"},
    **{"sidak": "Sidak", "bonferroni": "Bonferroni", "holm": "Holm", "hochberg": "Hochberg"},
    **{"scheffe": "Scheffe", "dunnett": "Dunnett", "dunnettx": "Dunnett (approximate)"},
    **{"mvt": "the multivariate t distribution", "fdr": "Benjamini-Hochberg"},
    "hommel": "Hommel",
}
_METHOD = re.compile(rf"\b({'|'.join(_METHODS)})\b")
# Where they stand: not everywhere, a factor may have the name of one.
_MADE = re.compile(
    rf"adjusted by .* within each family|^Degrees of freedom: .*|, (?:{'|'.join(_DF_METHODS)})$"
)
# What stands between the names in a cell such as ``a[T.b]:x`` and ``sd(x|g)``.
_BETWEEN = r"(?:\[T\.|[:,|()\[\]])"
_PARTS = re.compile(rf"\s*{_BETWEEN}\s*")
_LISTED = 12  # names that a message lists


class PaperOptions(TypedDict, total=False):
    """Options of exports; see :meth:`lmm_jax.tables.page.Summary.to_markdown`."""

    caption: str | None
    digits: int | None
    columns: Sequence[str] | None
    rename: Mapping[str, str] | None
    notes: bool | str | Sequence[str]


class LatexOptions(PaperOptions, total=False):
    """Options of LaTeX; see :meth:`lmm_jax.tables.page.Summary.to_latex`."""

    label: str | None
    width: int | None


class Paper(NamedTuple):
    """How tables are to stand in a paper."""

    caption: str | None = None  # None: the title that they have
    digits: int | None = None  # decimals of estimates and statistics; None: as on a screen
    columns: tuple[str, ...] | None = None
    rename: Mapping[str, str] = {}
    notes: tuple[str, ...] | None = None  # None: those that they have
    inside: frozenset[str] = frozenset()  # keys of rename that cells have: names of the user's

    def words(self, title: str, method: str, notes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """What stands above and below; of a title that gives way to a caption the method stays."""
        how = (method[0].upper() + method[1:],) if method and self.caption is not None else ()
        small = tuple(map(in_words, (*how, *notes))) if self.notes is None else self.notes
        return in_words(title) if self.caption is None else self.caption, small

    def heading(self, name: str, given: Mapping[str, str]) -> str:
        """What stands above a column."""
        called = _called(name, given)
        keys = [key for key in called if key == called[-1] or key not in self.inside]
        return next((self.rename[key] for key in keys if key in self.rename), called[-1])

    def columns_of(self, frame: Any, given: Mapping[str, str], kinds: Mapping[str, str]) -> Any:
        """The frame with the columns that are asked for, those that label its rows first."""
        if self.columns is None:
            return frame
        names = list(map(str, frame.columns))
        labels = [name for name in names if kinds.get(name) == "label"]
        asked = [n for key in self.columns for n in names if key in _called(n, given)]
        return frame[[*labels, *dict.fromkeys(n for n in asked if n not in labels)]]

    def has(self, frame: Any, given: Mapping[str, str]) -> bool:
        """Whether a table has one of the columns that are asked for, and not errors alone."""
        if self.columns is None:
            return True
        asked = {key for key in self.columns if key not in _called("std_error", given)}
        names = [_called(str(n), given) for n in frame]
        return any(key in called for called in names for key in asked or self.columns)

    def renamed(self, shown: Cells) -> Cells:
        """The table with other names in the cells that say what a row is."""
        if not self.rename:
            return shown
        rows = [
            tuple(self.name(cell) if j < shown.labels else cell for j, cell in enumerate(row))
            for row in shown.rows
        ]
        return shown._replace(rows=tuple(rows))

    def name(self, cell: str) -> str:
        """A cell with the names in it, ``a[T.b]:x`` and ``sd(x|g)``, by other names."""
        if not self.rename:
            return cell
        pattern = named(self.rename)
        return pattern.sub(lambda found: found[1] + self.rename[found[2]], cell)


def named(names: Iterable[str]) -> re.Pattern[str]:
    """Pattern of names in a cell, with what stands before; the longest where several begin."""
    longest = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(^\s*|{_BETWEEN}\s*)({longest})(?=\s*(?:{_BETWEEN}|$))")


@contextmanager
def of_pandas(package: str, own: type, options: Mapping[str, Any]) -> Iterator[None]:
    """Context of an export by pandas, whose own packages may not be there."""
    mine = own.__annotations__
    others = [name for name in options if name not in mine]
    near = [(name, *found) for name in others if (found := get_close_matches(name, mine, 1))]
    try:
        yield
    except TypeError as error:
        hint = f": did you mean {near[0][1]!r}?" if near else ""
        raise TypeError(f"{error}{hint}") from None
    except ImportError as error:
        if near:
            typo, right = near[0]
            raise TypeError(f"there is no option {typo!r}: did you mean {right!r}?") from None
        asked = ", ".join(others) or "positional arguments"
        raise ImportError(
            f"with {asked} pandas writes the table, which needs {package}; the "
            f"table's own options, {', '.join(mine)}, need nothing"
        ) from error


def method_name(method: str) -> str:
    """A method as papers spell it.

    >>> method_name("dunnettx"), method_name("custom")
    ('Dunnett (approximate)', 'custom')
    """
    return _METHODS.get(method, method)


def in_words(text: str) -> str:
    """Small print or a title with methods as papers spell them."""

    def spelled(made: re.Match[str]) -> str:
        return _METHOD.sub(lambda found: method_name(found[0]), made[0])

    return _MADE.sub(spelled, text)


def _called(name: str, given: Mapping[str, str]) -> tuple[str, ...]:
    """What a column may be asked for by: its name, and what stands above it."""
    own = given.get(name)
    if own == name:  # a name of the user's
        return (name,)
    shown = name if own is None else own
    return name, shown, _WORDS.get(shown, shown)


def read_paper(
    tables: Sequence[Any],
    *,
    caption: str | None,
    digits: int | None,
    columns: Sequence[str] | None,
    rename: Mapping[str, str] | None,
    notes: bool | str | Sequence[str],
) -> Paper:
    """The options of an export, checked against the tables that it is of.

    Raises
    ------
    DataError
        A column that no table has, or an option of a wrong kind.
    """
    if caption is not None:
        instance(caption, "caption", str, "a string")
    if digits is not None:
        digits = whole_number(digits, "digits", most=_MOST_DIGITS)
        if tables and not any(_numeric(one) for one in tables):
            raise DataError("digits: the cells are text; ask for digits where the table is made")
    asked = None if columns is None else tuple(map(str, items(columns, "columns")))
    if asked == ():
        raise DataError("columns has no names: name some, or leave it out")
    called = [_called(str(n), one.headings) for one in tables for n in one]
    words, inside = _names(rename, tables)
    found = Paper(caption, digits, asked, words, _notes(notes), inside)
    for key in asked or ():
        if not any(key in names for names in called):
            known = ", ".join(dict.fromkeys(names[0] for names in called))
            raise DataError(f"columns: there is no {key!r}; there are {known}")
    return found


def _numeric(one: Any) -> list[Any]:
    """Types of the columns of a table that hold numbers, of objects as well."""
    frame = one.infer_objects()
    return [dtype for dtype in frame.dtypes if getattr(dtype, "kind", "") in "iuf"]


def _names(
    rename: Mapping[str, str] | None, tables: Sequence[Any]
) -> tuple[Mapping[str, str], frozenset[str]]:
    """Other words by the names that tables have, however spelled, and names that are in cells."""
    if rename is None:
        return {}, frozenset()
    headings, cells = dict[str, None](), dict[str, None]()
    for one in tables:
        shown = one._cells(None)
        names = [str(n) for n in (*one, *one.index.names, *shown.header) if n is not None]
        headings |= dict.fromkeys(word for n in names for word in _called(n, one.headings))
        cells |= dict.fromkeys(cell.strip() for row in shown.rows for cell in row[: shown.labels])
    words = read_rename(rename, cells, headings)
    return words, frozenset(name for name in words if any(map(named([name]).search, cells)))


def read_rename(
    rename: Mapping[str, str] | None, cells: Collection[str], headings: Collection[str] = ()
) -> Mapping[str, str]:
    """Other words by the names that stand in cells or above them; none if not given."""
    given = {} if rename is None else mapping(rename, "rename")
    words = {str(k): instance(v, f"rename[{k!r}]", str, "a string") for k, v in given.items()}
    return {_resolved(key, headings, cells): value for key, value in words.items()}


def _resolved(key: str, headings: Collection[str], cells: Collection[str]) -> str:
    """A key of ``rename`` as a heading, or what stands in a cell, has the name."""
    for name in (key, as_named(key), meant(key, (*headings, *cells))):
        if name and (name in headings or any(map(named([name]).search, cells))):
            return name
    within = (part for cell in cells for part in (cell.partition("[")[0], *_PARTS.split(cell)))
    known = dict.fromkeys(name for name in (*cells, *within, *headings) if name)
    near = suggestion(as_named(key), known) or f"; there are {', '.join([*known][:_LISTED])}"
    raise DataError(f"rename: there is no {key!r}{near}")


def _notes(notes: Any) -> tuple[str, ...] | None:
    if isinstance(notes, str):
        return (notes,)
    if isinstance(notes, list | tuple):
        return tuple(instance(note, "notes", str, "a string") for note in notes)
    return None if flag(notes, "notes") else ()
