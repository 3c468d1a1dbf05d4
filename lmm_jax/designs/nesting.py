"""Whether one model is a special case of another, and models with a part left out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import IdentificationWarning, RankWarning
from ..formulas import matrices as mat
from ..formulas.right_side import part_of, right_side_of
from .assembled import assemble
from .checks import independent_columns
from .design import Design
from .fixed_source import FixedSource
from .fixed_terms import fixed_terms, term_names
from .from_formula import outer_group
from .residual_nesting import residual_ends, without_room
from .term_nesting import added, spans
from .terms import RandomTerm

# Why likelihoods of two models do not compare, as far as saved results tell too.
OTHER_ROWS = "they were fitted to {} and {} rows"
OTHER_RESPONSE = "their responses {!r} and {!r} are not the same"
OTHER_WEIGHTS = "their weights or offsets are not the same"


class Difference(NamedTuple):
    """What a larger model has beyond a smaller one."""

    fixed: bool  # other fixed effects
    random: tuple[tuple[int, int], ...]  # as `added` says
    residual: int = 0  # as `residual_ends` says

    @property
    def ends(self) -> int:
        """Parameters that are at the end of their range in the smaller model."""
        return self.residual + sum(count for count, _ in self.random)


def why_incomparable(small: Design, large: Design) -> str | None:
    """Why two models cannot be compared by their likelihoods; None if they can."""
    if small.nobs != large.nobs:
        found = OTHER_ROWS.format(small.nobs, large.nobs)
        return f"{found}: fit both to the same rows, those without missing values in either"
    if not small.index.equals(large.index):
        return "they were fitted to other rows, or to the same ones in another order"
    if not np.array_equal(small.endog, large.endog):
        return OTHER_RESPONSE.format(small.endog_name, large.endog_name)
    if not _same(small.weights, large.weights, 1.0) or not _same(small.offset, large.offset, 0.0):
        return OTHER_WEIGHTS
    if small.sigma != large.sigma:
        each = " and ".join("estimated" if one.sigma is None else f"{one.sigma:g} by sigma="
                            for one in (small, large))  # fmt: skip
        return f"their residual standard deviations are {each}"
    return None


def _same(a: np.ndarray | None, b: np.ndarray | None, default: float) -> bool:
    """Whether two arrays agree; None stands for a constant."""
    a, b = (np.asarray(default) if v is None else v for v in (a, b))
    return bool((a == b).all())


def difference(small: Design, large: Design) -> Difference | None:
    """What the larger model adds; None if the smaller one is no special case of it."""
    ends = residual_ends(small.residual, large.residual)
    if ends is None or not spans(large.exog, small.exog):
        return None
    fixed = small.exog.shape[1] < large.exog.shape[1]
    new = added(small.terms, large.terms)
    if new is None:
        rest = list(small.terms)
        if _same(small.weights, None, 1.0):  # which scale residuals, and no random effects
            rest = without_room(small.terms, small.residual, large.residual)
        new = added(rest, large.terms)
    return None if new is None else Difference(fixed, tuple(new), ends)


def restriction(small: Design, large: Design) -> np.ndarray:
    """Orthonormal rows R, (q, p), with ``R beta = 0`` where the larger model is the smaller one.

    With ``X = Q S`` and the smaller columns ``X B``, ``Q' X B = S B`` and the rows are those of
    ``N' S`` with N orthogonal to them. Satterthwaite's degrees of freedom of joint tests depend on
    the basis: this is pbkrtest's.
    """
    size = np.linalg.norm(large.exog, axis=0)
    Q, S = np.linalg.qr(large.exog / size)
    inner = Q.T @ (small.exog / np.linalg.norm(small.exog, axis=0))
    N = np.linalg.qr(inner, mode="complete")[0][:, inner.shape[1] :]
    return np.linalg.qr((N.T @ S * size).T)[0].T


def with_terms(design: Design, terms: Sequence[RandomTerm]) -> Design:
    """The design with other random-effects terms on its rows."""
    group, n_groups = design.group_codes, design.n_groups
    if not any(term.is_component for term in terms):
        group, n_groups = outer_group(terms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentificationWarning)  # the design has told
        made = assemble(
            y=design.endog,
            X=design.exog,
            names=design.exog_names,
            endog_name=design.endog_name,
            terms=terms,
            group=group,
            n_groups=n_groups,
            weights=design.weights,
            offset=design.offset,
            index=design.index,
            n_missing=design.n_missing,
            gaps=design.gaps,
            source=None,
            residual=design.residual,
            sigma=design.sigma,
        )
    return replace(made, held=design.held, dropped=design.dropped)


def with_columns(design: Design, columns: Sequence[int]) -> Design:
    """The design with some of the columns of X."""
    places = list(columns)
    return replace(
        design,
        exog=np.ascontiguousarray(design.exog[:, places]),
        exog_names=tuple(design.exog_names[j] for j in places),
        held=None if design.held is None else design.held[places],
        source=None,
    )


def with_fixed_terms(design: Design, names: Sequence[str]) -> Design:
    """The design with its intercept and some of the terms of its fixed effects.

    Its columns are those that these terms have in it (a term goes after what it is part of), and
    those that were left out as they depend on columns that go.
    """
    found, source = fixed_terms(design), design.source  # an intercept is no term
    gone = [j for name in found.terms if name not in names for j in found.columns[name]]
    rest = [j for j in range(design.exog.shape[1]) if j not in gone]
    if source is None:
        return with_columns(design, rest)
    left = [name in (*names, "Intercept") for name in term_names(source.spec)]
    slices = [s for s, stays in zip(source.spec.term_slices.values(), left, strict=True) if stays]
    held = [column for at in slices for column in range(at.start, at.stop)]
    spec = part_of(source.spec, left)
    if design.dropped and source.rows is not None:
        matrix = mat.replay(spec, source.rows, context=source.context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)  # the design has told
            kept = independent_columns(matrix, spec.column_names)
        made = replace(
            design,
            exog=np.ascontiguousarray(matrix[:, list(kept)]),
            exog_names=tuple(spec.column_names[j] for j in kept),
        )
    else:
        kept = tuple(held.index(source.kept[j]) for j in rest)
        made = with_columns(design, rest)
    dropped = tuple(name for j, name in enumerate(spec.column_names) if j not in kept)
    return replace(made, dropped=dropped, source=replace(source, spec=spec, kept=kept))


def with_formula(design: Design, source: FixedSource | None) -> Design:
    """The design with the formula that it has after some of its terms are gone.

    Parameters
    ----------
    design : Design
    source : FixedSource
        That of its fixed effects.
    """
    if source is None:
        return design
    parts = [right_side_of(source.spec)]
    if all(map(_has_text, design.terms)):
        parts += [_written(term) for term in design.terms]
    parts += [] if design.residual is None else [design.residual.text]
    parts += [f"offset({offset})" for offset in source.offsets]
    text = f"{source.response} ~ {' + '.join(parts)}"
    return replace(design, source=replace(source, formula=text))


def can_be_read(design: Design) -> bool:
    """Whether the formula of :func:`with_formula` is that of the whole model."""
    return design.source is not None and all(map(_has_text, design.terms))


def _has_text(term: RandomTerm) -> bool:
    """Whether a formula has the term: no component, nor one column of a factor after `||`."""
    if term.is_component or not term.source.group or term.source.spec is None:
        return False
    own = set(term.source.columns)
    whole = [set(range(s.start, s.stop)) for s in term.source.spec.term_slices.values()]
    return all(columns <= own or not columns & own for columns in whole)


def _written(term: RandomTerm) -> str:
    """A term as a formula reads it, with backticks where names of factors need them."""
    lhs = term.label.removesuffix(f" | {term.group}")
    return term.structure.spelled(f"{lhs} | {':'.join(term.source.group)}")


def coefficients_of(term: RandomTerm) -> dict[str, list[int]]:
    """Coefficients of every term on the left of the bar; each its own without a formula."""
    spec = term.source.spec
    if spec is None or term.is_component:
        return {name: [j] for j, name in enumerate(term.names)}
    place = {column: j for j, column in enumerate(term.source.columns)}
    out = {}
    for name, at in zip(term_names(spec), spec.term_slices.values(), strict=True):
        own = [place[c] for c in range(at.start, at.stop) if c in place]
        if own:
            out[name] = own
    return out


def only(term: RandomTerm, places: Sequence[int]) -> RandomTerm:
    """A term with some of its coefficients, in its own structure."""
    label, source = term.label, term.source
    if source.spec is not None and not term.is_component:
        found = coefficients_of(term)
        left = [name for name, at in found.items() if set(at) <= set(places)]
        every = term_names(source.spec)
        lhs = right_side_of(part_of(source.spec, [name in left for name in every]))
        label = f"{lhs} | {term.group}"
        source = replace(source, columns=tuple(source.columns[i] for i in places))
    return replace(
        term,
        label=label,
        source=source,
        names=tuple(term.names[i] for i in places),
        values=np.ascontiguousarray(term.values[:, :, list(places)]),
        structure=term.structure.of_size(len(places)),
    )
