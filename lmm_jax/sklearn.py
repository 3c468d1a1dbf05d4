"""A mixed model as an estimator of scikit-learn (``pip install "lmm-jax[sklearn]"``)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from .api.fit import fit
from .designs.from_arrays import design_from_arrays
from .inputs.arguments import flag, is_whole, items, shown
from .inputs.arrays import numbers, vector
from .inputs.frames import read_frame
from .inputs.matching import find
from .inputs.names import unique

__all__ = ["MixedRegressor"]


class MixedRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Linear regression with random intercepts and slopes of groups, fitted by :func:`lmm_jax.fit`.

        y = intercept + X coef + b_0 + X[:, slopes] b + e        (b_0, b) ~ N(0, Psi) in a group

    The groups are metadata, an array beside X and y: ``fit``, ``predict`` and ``score`` ask for
    them, so that pipelines and searches hand them on once metadata routing is switched on.

    Parameters
    ----------
    slopes : sequence of str or int, or "all", optional
        Columns of X, by name or place, whose coefficients vary between groups.
    random_intercept : bool
        Whether the level varies between groups.
    correlated : bool
        Whether the random effects of a group are correlated: ``(1 + x | g)``, or ``(1 + x || g)``.
    fit_intercept : bool
        Whether to add an intercept to X.
    reml : bool
        Restricted maximum likelihood or maximum likelihood.
    method, max_iter
        Optimizer and limit on its steps, ``method`` and ``maxiter`` of :func:`lmm_jax.fit`.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features_in_,)
        Fixed effects; 0 of a column that others determine.
    intercept_ : float
    random_effects_ : DataFrame, shape (n_groups, k)
        What a group has beside the fixed effects, the intercept first; its index are the groups.
    results_ : LMMResults
        The fit: summary, tests, intervals, variances.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> from lmm_jax.sklearn import MixedRegressor
    >>> sleep = lmm.load_dataset("sleepstudy")
    >>> X, y, groups = sleep[["Days"]], sleep["Reaction"], sleep["Subject"]
    >>> model = MixedRegressor(slopes=["Days"]).fit(X, y, groups=groups)
    >>> model.coef_.round(3).tolist(), round(float(model.intercept_), 3)
    ([10.467], 251.405)
    >>> model.predict(X[:2], groups=["308", "a new one"]).round(1).tolist()
    [253.7, 261.9]
    """

    # What pipelines and searches hand on without a word of the user.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}
    __metadata_request__predict: ClassVar[dict[str, bool]] = {"groups": True}
    __metadata_request__score: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        slopes: Sequence[str | int] | str | None = None,
        *,
        random_intercept: bool = True,
        correlated: bool = True,
        fit_intercept: bool = True,
        reml: bool = True,
        method: str | Sequence[str] = "newton",
        max_iter: int = 200,
    ) -> None:
        self.slopes = slopes
        self.random_intercept = random_intercept
        self.correlated = correlated
        self.fit_intercept = fit_intercept
        self.reml = reml
        self.method = method
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array or data frame, shape (n, p)
        y : array, shape (n,)
        groups : array, shape (n,)
            The group of each row.
        sample_weight : array, shape (n,), optional
            Prior weights: the residual variance of a row is ``sigma^2 / w``. They are no
            frequencies: a row of weight 2 is one of half the variance, not two. A row of weight
            zero is left out.

        Raises
        ------
        ValueError
            No groups, or data that cannot carry the model.
        """
        X = _plain(X)
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        if groups is None:
            raise ValueError(
                "groups is missing: pass the group of each row, fit(X, y, groups=...); pipelines "
                "and searches hand it on after sklearn.set_config(enable_metadata_routing=True)"
            )
        labels = vector(groups, "groups", n=len(y))
        weights = _weights(sample_weight, len(y))
        if weights is not None and not weights.all():  # a row without weight is no row
            rows = weights != 0
            X, y, labels, weights = X[rows], y[rows], labels[rows], weights[rows]
        chosen = _places(self.slopes, self._names(), "slopes")
        X = pd.DataFrame(X, columns=self._names())
        exog = _with_intercept(X, flag(self.fit_intercept, "fit_intercept"))
        Z = _with_intercept(X.iloc[:, chosen], flag(self.random_intercept, "random_intercept"))
        joint = flag(self.correlated, "correlated") or not len(Z.columns)
        parts = None if joint else {name: Z[[name]].to_numpy() for name in Z}
        model = design_from_arrays(y, exog, labels, Z if joint else None, parts, weights=weights)
        self.results_ = fit(model, reml=self.reml, method=self.method, maxiter=self.max_iter)
        fixed = self.results_.fe_params.reindex(exog.columns, fill_value=0.0).to_numpy()
        self.intercept_ = float(fixed[0]) if self.fit_intercept else 0.0
        self.coef_ = fixed[int(self.fit_intercept) :]
        self.random_effects_ = _effects_of_groups(
            self.results_.random_effects, [str(name) for name in Z]
        )
        self.n_iter_ = self.results_.n_iter
        return self

    def predict(self, X: Any, groups: Any = None) -> np.ndarray:
        """Predicted means.

        Parameters
        ----------
        X : array or data frame, shape (n, p)
        groups : array, shape (n,), optional
            Rows of a group that the fit has seen get its random effects; all others, and all rows
            without ``groups``, the population's mean.

        Returns
        -------
        ndarray, shape (n,)
        """
        check_is_fitted(self)
        X = validate_data(self, _plain(X), dtype=np.float64, reset=False)
        mean = X @ self.coef_ + self.intercept_
        if groups is None:
            return mean
        Z = X[:, _places(self.slopes, self._names(), "slopes")]
        if self.random_intercept:
            Z = np.column_stack([np.ones(len(X)), Z])
        effects = np.vstack([self.random_effects_.to_numpy(), np.zeros(Z.shape[1])])
        levels = self.random_effects_.index
        places = find(levels, vector(groups, "groups", n=len(X)), "groups")  # -1: the last row
        return mean + np.einsum("ij,ij->i", Z, effects[places])

    def score(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> float:
        """R squared of the predictions, conditional on the groups where they are passed.

        Parameters
        ----------
        X : array or data frame, shape (n, p)
        y : array, shape (n,)
        groups, sample_weight : array, shape (n,), optional
        """
        return float(r2_score(y, self.predict(X, groups=groups), sample_weight=sample_weight))

    def _names(self) -> list[str]:
        """Columns of X; ``x0``, ``x1``, ... where they have no names."""
        if hasattr(self, "feature_names_in_"):
            return [str(name) for name in self.feature_names_in_]
        return [f"x{j}" for j in range(self.n_features_in_)]


def _plain(X: Any) -> Any:
    """Frames of any kind as pandas', whose names every scikit-learn reads; anything else as it is.

    Of polars, for one, only the newest does.
    """
    if isinstance(X, pd.DataFrame) and not X.columns.is_unique:
        twice = shown(X.columns[X.columns.duplicated()][0])
        raise ValueError(f"X has several columns named {twice}: rename them")
    if isinstance(X, np.ndarray | pd.DataFrame):
        return X
    frame = read_frame(X, lambda name: True)
    return X if frame is None else frame


def _weights(given: Any, n: int) -> np.ndarray | None:
    """Weights of the rows; one number for all of them is none."""
    if given is None or isinstance(given, Real):
        return None
    weights = numbers(vector(given, "sample_weight", n=n), "sample_weight")
    if not weights.any():
        raise ValueError("all entries of sample_weight are zero: no row is left")
    return weights


def _with_intercept(X: pd.DataFrame, wanted: bool) -> pd.DataFrame:
    """Columns behind an intercept."""
    if not wanted:
        return X
    names = unique(["Intercept", *map(str, X.columns)])
    return pd.DataFrame(np.column_stack([np.ones(len(X)), X.to_numpy()]), columns=list(names))


def _places(chosen: Any, names: list[str], what: str) -> list[int]:
    """Places of columns that are given by name or place."""
    if chosen is None:
        return []
    if isinstance(chosen, str):
        chosen = names if chosen == "all" and "all" not in names else [chosen]
    out = []
    for one in items(chosen, what, "pass names or places of columns"):
        if is_whole(one) and -len(names) <= one < len(names):
            out.append(int(one) % len(names))
        elif isinstance(one, str) and one in names:
            out.append(names.index(one))
        else:
            raise ValueError(f"{what} has {shown(one)}: X has the columns {', '.join(names)}")
    return list(dict.fromkeys(out))


def _effects_of_groups(frames: dict[str, pd.DataFrame], names: list[str]) -> pd.DataFrame:
    """Random effects with a row a group; those of components stand in frames of their own."""
    if "groups" in frames:
        return frames["groups"]
    parts = [frames[name][name].droplevel("column") for name in names]
    return pd.concat(parts, axis=1, keys=names).fillna(0.0)  # a column of zeros has no effect
