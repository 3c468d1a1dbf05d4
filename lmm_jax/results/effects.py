"""Random effects given y: conditional means and covariances of every level of every factor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.design import Design
from ..designs.labels import factor_names, term_labels
from ..designs.terms import RandomTerm
from ..errors import DataError
from ..inference.effects.joint_effects import EffectSets, GroupEffects, effects_of, set_covariances
from ..inputs.names import Labelled, refuse, unique
from ..numerics.read_only import read_only
from ..tables.cells import of_users
from ..tables.page import table

# Numbers of joint covariances up to which a result without its data keeps them.
_MOST_KEPT = 1 << 24


def terms_of_factors(terms: Sequence[RandomTerm]) -> dict[str, list[int]]:
    """Numbers of the terms that share a grouping factor, by its name."""
    out: dict[str, list[int]] = {}
    for t, name in enumerate(factor_names(terms)):
        out.setdefault(name, []).append(t)
    return out


def coefficient_names(terms: Sequence[RandomTerm], members: Sequence[int]) -> tuple[str, ...]:
    """Names of the coefficients of some terms on the same levels."""
    return unique(name for t in members for name in terms[t].names)


def effect_frames(
    terms: Sequence[RandomTerm], effects: Sequence[np.ndarray]
) -> dict[str, pd.DataFrame]:
    """Effects of every factor: levels in the rows, coefficients in the columns."""
    out = Labelled[pd.DataFrame]()
    for group, members in terms_of_factors(terms).items():
        values = np.concatenate([effects[t] for t in members], axis=1)
        columns = list(coefficient_names(terms, members))
        frame = pd.DataFrame(values, index=terms[members[0]].levels, columns=columns)
        out[group] = table(frame, f"Random effects of {group}", **of_users(frame))
    return out


# ------------------------------------------------------------ covariances


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class JointCovariances:
    """Covariances of all effects of every group; groups differ in how many they have."""

    names: np.ndarray  # (N,)  names of the effects, group after group
    which: EffectSets
    compute: Callable[[EffectSets], np.ndarray] | None  # matrices of groups, one after the other
    values: np.ndarray | None = None  # (sum K_i^2,)  those of all groups, where they are kept

    def frame(self, i: int) -> pd.DataFrame:
        """Covariance of the effects of group i."""
        K = int(self.which.counts[i])
        if self.compute is not None:
            values = self.compute(self.which.one(i))
        elif self.values is not None:
            start = int(np.sum(self.which.counts[:i] ** 2))
            values = self.values[start : start + K * K]
        else:
            raise DataError(
                "the joint covariances of this result were too many to be saved without its data: "
                "save it with keep_data=True, or fit the model again"
            )
        names = list(self.names[self.which.starts[i] : self.which.starts[i + 1]])
        return pd.DataFrame(values.reshape(K, K), index=names, columns=names)

    def kept(self) -> JointCovariances:
        """The same without the way back to the data; too many numbers are left out."""
        few = np.sum(self.which.counts**2) <= _MOST_KEPT
        values = self.compute(self.which) if few and self.compute is not None else self.values
        return replace(self, compute=None, values=values)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LevelCovariances(Mapping[Any, pd.DataFrame]):
    """Conditional covariance of the random effects of every level of one factor.

    A mapping from level to a DataFrame, which is made when it is asked for; the arrays
    hold all levels at once. Where the model has variance components within the groups of
    the factor, the frame of a group is the joint covariance of all of its effects: the
    coefficients, then every column of every component, named ``component[column]``.

    Attributes
    ----------
    levels : pandas.Index, length L
    names : tuple of str, length k
        Coefficients of the factor's terms; empty where it has components only.
    array : ndarray, shape (L, k, k)
        Covariances of the coefficients of a level, in the units of the data.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> cov = res.random_effects_cov["Subject"]
    >>> cov.array.shape, cov["308"].shape
    ((18, 2, 2), (2, 2))
    >>> cov.std_errors.loc["308"].round(2).to_dict()
    {'Intercept': 12.07, 'Days': 2.3}
    """

    levels: pd.Index[Any]
    names: tuple[str, ...]
    array: np.ndarray
    joint: JointCovariances | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "joint": None if self.joint is None else self.joint.kept()}

    def __getitem__(self, level: Any) -> pd.DataFrame:
        try:
            at = self.levels.get_loc(level)
        except (KeyError, TypeError, pd.errors.InvalidIndexError):
            at = None
        if not isinstance(at, int | np.integer):
            refuse(level, list(self.levels), "the factor")
        if self.joint is not None:
            return self.joint.frame(int(at))
        names = list(self.names)
        return pd.DataFrame(self.array[at], index=names, columns=names)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.levels)

    def __len__(self) -> int:
        return len(self.levels)

    def __repr__(self) -> str:
        more = " and those of components" if self.joint is not None else ""
        return f"<LevelCovariances: {len(self)} levels, {', '.join(self.names) or 'none'}{more}>"

    @property
    def std_errors(self) -> pd.DataFrame:
        """Conditional standard deviations of the coefficients, levels in the rows, (L, k)."""
        sd = np.sqrt(np.diagonal(self.array, axis1=1, axis2=2))
        return pd.DataFrame(sd, index=self.levels, columns=list(self.names))

    def to_frame(self) -> pd.DataFrame:
        """All of ``array`` with labels: rows (level, coefficient), a column a coefficient."""
        k = len(self.names)
        rows = self.levels.repeat(k)
        labels = [rows.get_level_values(i) for i in range(rows.nlevels)]
        names = pd.Index(list(self.names) * len(self), dtype=object)
        index = pd.MultiIndex.from_arrays([*labels, names])
        return pd.DataFrame(self.array.reshape(-1, k), index=index, columns=list(self.names))


def covariance_tables(
    design: Design, effects: GroupEffects, scale: float
) -> dict[str, LevelCovariances]:
    """Conditional covariances of the effects of every level of every factor.

    The groups that components lie in have an entry in any case.
    """
    compute = partial(set_covariances, effects, design, scale=scale)
    groups = component_groups(design.terms)
    factors = terms_of_factors(design.terms)
    levels_of = {factor: design.terms[members[0]].levels for factor, members in factors.items()}
    if groups is not None:
        factors = {groups.factor: [], **factors}
        levels_of = {groups.factor: groups.levels, **levels_of}
    out = Labelled[LevelCovariances]()
    for factor, members in factors.items():
        levels = levels_of[factor]
        names, L = coefficient_names(design.terms, members), len(levels)
        array = np.zeros((L, 0, 0))
        if members:
            sizes = [design.sizes[t] for t in members]
            own = compute(effects_of(members, sizes, [np.arange(L)] * len(members), L))
            array = own.reshape(L, len(names), len(names))
        joint = None
        if groups is not None and factor == groups.factor:
            joint = _joint(design, members, names, groups, compute)
        out[factor] = LevelCovariances(
            levels=levels, names=names, array=read_only(array), joint=joint
        )
    return out


def joint_table(
    design: Design,
    effects: GroupEffects,
    scale: float,
    levels: Mapping[str, Any],
    moved: Sequence[np.ndarray] | None = None,
) -> pd.DataFrame:
    """Joint conditional covariance of the effects of some levels of some factors.

    With the rows ``moved`` of a term, (L, k, p), whose products are added.
    """
    if not isinstance(levels, Mapping) or not levels:
        raise DataError(f"levels={levels!r}: pass a mapping such as {{'subject': ['308', '309']}}")
    factors = terms_of_factors(design.terms)
    terms, owners = [], []
    for factor, wanted in levels.items():
        if factor not in factors:
            refuse(factor, list(factors), "the result")
        index = design.terms[factors[factor][0]].levels
        known = dict(zip(index, range(len(index)), strict=True))
        chosen = np.full(len(index), -1)
        for level in wanted if isinstance(wanted, list | pd.Index | np.ndarray) else [wanted]:
            if not isinstance(level, Hashable) or level not in known:
                refuse(level, list(index), f"the factor {factor!r}")
            chosen[known[level]] = 0
        terms += factors[factor]
        owners += [chosen] * len(factors[factor])
    which = effects_of(terms, [design.sizes[t] for t in terms], owners, 1)
    names = {}
    for factor, members in factors.items():
        own = [(t, j) for t in members for j in range(design.sizes[t])]
        for key, name in zip(own, coefficient_names(design.terms, members), strict=True):
            names[key] = factor, name
    labels = []
    for t, level, j in zip(which.term, which.level, which.coefficient, strict=True):
        factor, name = names[t, j]
        labels.append((factor, design.terms[t].levels[level], name))
    rows = pd.MultiIndex.from_tuples(labels, names=["factor", "level", "coefficient"])
    K = len(rows)
    matrix = set_covariances(effects, design, which, scale).reshape(K, K)
    if moved is not None:
        places = zip(which.term, which.level, which.coefficient, strict=True)
        rows_of = np.array([moved[t][level, j] for t, level, j in places])
        matrix = matrix + rows_of @ rows_of.T
    return pd.DataFrame(matrix, index=rows, columns=rows)


class ComponentGroups(NamedTuple):
    """The factor in whose levels the components lie, and those levels."""

    factor: str
    levels: pd.Index[Any]


def component_groups(terms: Sequence[RandomTerm]) -> ComponentGroups | None:
    """The groups of the variance components, if there are any; they need no term of their own."""
    names = factor_names(terms)
    components = [term for term in terms if term.is_component]
    if not components:
        return None
    for name, term in zip(names, terms, strict=True):
        if not term.is_component:
            return ComponentGroups(name, term.levels)
    source = components[0].source.group
    name = source[0].strip("`") if source else "groups"
    levels = components[0].levels.get_level_values(0).unique()
    return ComponentGroups(unique([*names, name])[-1], levels)


def _joint(
    design: Design,
    members: Sequence[int],
    names: Sequence[str],
    groups: ComponentGroups,
    compute: Callable[[EffectSets], np.ndarray],
) -> JointCovariances:
    """All effects of every group: the coefficients, then the columns of every component."""
    L = len(groups.levels)
    components = [t for t, term in enumerate(design.terms) if term.is_component]
    levels = [design.terms[t].levels for t in components]
    owners = [groups.levels.get_indexer(index.get_level_values(0)) for index in levels]
    chosen = [*members, *components]
    which = effects_of(
        chosen, [design.sizes[t] for t in chosen], [np.arange(L)] * len(members) + owners, L
    )
    labels = term_labels(design.terms)
    out = np.empty(which.term.size, dtype=object)
    first = which.starts[:-1][:, None] + np.arange(len(names))
    out[first] = np.array(names, dtype=object)
    for t, index in zip(components, levels, strict=True):
        at = which.term == t
        columns = index.get_level_values(1).astype(str)[which.level[at]]
        out[at] = labels[t].group + "[" + columns + "]"
    return JointCovariances(names=out, which=which, compute=compute)
