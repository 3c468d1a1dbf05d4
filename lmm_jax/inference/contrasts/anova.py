"""Hypotheses of an analysis of variance: rows over the fixed effects for every term.

A term is tested beside other terms; which, is what the types I, II and III differ in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...designs.column_moments import known
from ...designs.design import Design
from ...designs.fixed_terms import FullMatrix, Term, fixed_terms, full_matrix

# Directions, at columns of unit size, whose singular values are below this are none.
_RANK_TOL = 1e-8


def hypotheses(design: Design, kind: int) -> dict[str, np.ndarray]:
    """Rows over the fixed effects, (r, p), that a table of type I, II or III tests for each term.

    Rows as lmerTest's: on them depend the degrees of freedom of joint tests by Satterthwaite's
    method. Where there is one term only the types agree, and the rows are those of type I.

    Parameters
    ----------
    design : Design
        Of a formula, or of arrays: there every column is a term.
    kind : {1, 2, 3}
    """
    at, X = fixed_terms(design), design.exog
    if not design.has_rows:
        root = known(design.column_moments(), "anova").exog_root
        assert root is not None  # of sums
        X = root
    if kind == 1 or len(at.terms) == 1:
        found = sequential(X, at.columns)
        return {name: found[name] for name in at.terms}
    if kind == 2:
        return partial(X, at.columns, at.terms)
    return marginal(X, full_matrix(design, at, X), at.terms, at.columns)


def sequential(X: np.ndarray, columns: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Type I: every term beside those before it.

    With ``X = Q R`` the hypothesis of a term are the rows of R that belong to its columns: what
    they explain beyond the columns before them. Each begins with a one, as lmerTest's: degrees
    of freedom of a joint test depend on the lengths of its rows.

    Parameters
    ----------
    X : ndarray, shape (n, p)
        Full column rank.
    columns : mapping
        Term to its columns, in the order of the formula.

    Returns
    -------
    dict
        Term to (r, p).
    """
    order = [j for own in columns.values() for j in own]
    triangle = np.linalg.qr(X[:, order], mode="r")
    R = np.zeros((len(order), X.shape[1]))
    R[:, order] = triangle / np.diagonal(triangle)[:, None]
    out, start = {}, 0
    for name, own in columns.items():
        out[name] = R[start : start + len(own)]
        start += len(own)
    return out


def partial(
    X: np.ndarray, columns: Mapping[str, Sequence[int]], terms: Mapping[str, Term]
) -> dict[str, np.ndarray]:
    """Type II: every term beside all that do not contain it.

    Type I in an order in which the term comes after those and before the terms that contain it.

    Parameters
    ----------
    X : ndarray, shape (n, p)
    columns : mapping
        Term to its columns; the intercept is one.
    terms : mapping
        Term to what it is made of; the intercept is missing.

    Returns
    -------
    dict
        Term to (r, p).
    """
    out = {}
    for name, term in terms.items():
        after = [other for other in terms if term.is_within(terms[other])]
        if not after:  # the same hypothesis; rows as lmerTest's
            out[name] = np.eye(X.shape[1])[columns[name]]
            continue
        first = [other for other in columns if other != name and other not in after]
        ordered = {other: columns[other] for other in [*first, name, *after]}
        out[name] = sequential(X, ordered)[name]
    return out


def marginal(
    X: np.ndarray,
    full: FullMatrix,
    terms: Mapping[str, Term],
    columns: Mapping[str, Sequence[int]],
) -> dict[str, np.ndarray]:
    """Type III: every term averaged over the factors of those that contain it.

    The model with a column for every level of every factor has coefficients b of which only
    the functions ``h b`` with h in the row space of its matrix can be estimated. A basis of
    them has a row for each coefficient that the model has under treatment contrasts. The
    hypothesis of a term are its rows, made orthogonal to those of the terms that contain it.
    It does not depend on the coding of X: ``h b = h G beta`` with ``full G = X``.

    Parameters
    ----------
    X : ndarray, shape (n, p)
        As it was fitted, full column rank.
    full : FullMatrix
        With a column for every level; the same column space.
    terms : mapping
        Term to what it is made of; the intercept is missing.
    columns : mapping
        Term to its columns of X, those that were dropped for dependence left out.

    Returns
    -------
    dict
        Term to (r, p); r is 0 for a term of which empty cells leave nothing to be tested.

    References
    ----------
    Goodnight (1980), doi:10.1080/03610928008827904.
    """
    places = full.places
    scaled = full.values / _units(full.values, places, terms)
    R: np.ndarray = np.linalg.qr(scaled, mode="r")  # type: ignore[assignment]
    chosen = _treatment_columns(R, full, columns)
    functions = np.linalg.lstsq(R[:, chosen], R, rcond=None)[0]  # a row a coefficient
    G = np.linalg.lstsq(scaled, X, rcond=None)[0]
    out = {}
    for name, term in terms.items():
        containing = [places[other] for other in terms if term.is_within(terms[other])]
        inner = functions[[any(at.start <= j < at.stop for at in containing) for j in chosen]]
        own = functions[[places[name].start <= j < places[name].stop for j in chosen]]
        h = own - own @ np.linalg.pinv(inner, rcond=_RANK_TOL) @ inner
        out[name] = h[np.abs(h).max(axis=1, initial=0.0) > _RANK_TOL] @ G
    return out


def _treatment_columns(
    R: np.ndarray, full: FullMatrix, columns: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Independent columns, term by term, of every term those of first levels last.

    A term has no more of them than X has, which has judged what is dependent.
    """
    taken: list[int] = []
    Q = np.zeros((len(R), 0))
    for name, at in full.places.items():
        own, before = np.arange(at.start, at.stop), len(taken)
        for j in own[np.argsort(full.n_first[own], kind="stable")]:
            if len(taken) - before == len(columns.get(name, own)):
                break
            column = R[:, j]
            for _ in range(2):
                column = column - Q @ (Q.T @ column)
            size = np.linalg.norm(column)
            if size > _RANK_TOL * np.linalg.norm(R[:, j]):
                taken.append(j)
                Q = np.column_stack([Q, column / size])
    return np.array(taken, dtype=int)


def _units(full: np.ndarray, places: Mapping[str, slice], terms: Mapping[str, Term]) -> np.ndarray:
    """One size for the columns of all terms with the same covariates, (P,)."""
    largest = np.abs(full).max(axis=0, initial=0.0)
    unit = np.ones(full.shape[1])
    for name, term in terms.items():
        same = [places[other] for other in terms if terms[other].covariates == term.covariates]
        size = max(largest[at].max(initial=0.0) for at in same)
        unit[places[name]] = size if size > 0 else 1.0
    return unit


def conjugate(
    cov: np.ndarray, columns: Mapping[str, Sequence[int]], terms: Mapping[str, Term], kind: int
) -> dict[str, np.ndarray]:
    """Type II of car and type I of nlme: in the metric of the covariance.

    The hypothesis of a term are the combinations of its coefficients and of those of the terms
    *above* it that are uncorrelated with the latter. Above are those that it is marginal to,
    covariates too, for car; for nlme, and lme4 itself, all that come later.

    Parameters
    ----------
    cov : ndarray, shape (p, p)
        Covariance of the fixed effects.
    columns, terms
        As in :func:`partial`.
    kind : {1, 2}

    References
    ----------
    Fox & Weisberg (2019), An R Companion to Applied Regression, section 5.3.4; Pinheiro & Bates
    (2000), doi:10.1007/b98882, section 2.4.2.
    """
    p, out, order = len(cov), {}, list(terms)
    for place, (name, term) in enumerate(terms.items()):
        own = list(columns[name])
        later = order[place + 1 :]
        over = later if kind == 1 else [t for t in order if term.is_marginal_to(terms[t])]
        above = [j for t in over for j in columns.get(t, ())]
        L = np.zeros((len(own), p))
        L[np.arange(len(own)), own] = 1.0
        if above:
            # the best prediction of the term's coefficients by those above is taken out
            L[:, above] = -np.linalg.solve(cov[np.ix_(above, above)], cov[np.ix_(above, own)]).T
        out[name] = L
    return out
