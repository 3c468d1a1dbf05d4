"""What a fit says of the levels of its factors: random effects, and coefficients with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..inference.effects.joint_effects import GroupEffects
from ..inference.effects.random_effects import effect_slopes, group_effects, level_effects
from ..inputs.arguments import coverage, flag, hinted
from ..numerics.linalg import psd_cholesky
from ..tables.frames import as_frame
from .coefficients import coefficient_frames, effects_table
from .designed import DesignedModel
from .effects import LevelCovariances, covariance_tables, effect_frames, joint_table


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelOfLevels(DesignedModel):
    """A fit and the random effects of its levels."""

    @cached_property
    def _effects(self) -> GroupEffects:
        return group_effects(self.estimates, self._need("random_effects"))

    @cached_property
    def _level_effects(self) -> Sequence[np.ndarray]:
        if self.kept is not None:
            return self.kept.effects
        design = self._need("random_effects")
        return [level_effects(self._effects.means, design, t) for t in range(len(design.terms))]

    @property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects (BLUPs) given y.

        One frame per grouping factor or component: levels in the rows,
        coefficients in the columns.
        """
        return effect_frames(self._known("random_effects").terms, self._level_effects)

    @cached_property
    def random_effects_cov(self) -> Mapping[str, LevelCovariances]:
        """Conditional covariance of the random effects of every level, at known parameters.

        By factor: a mapping from level to DataFrame that also has all levels in one array;
        beside variance components those of a group are joint, see :class:`LevelCovariances`.
        """
        if self.kept is not None:
            return self.kept.covariances
        return covariance_tables(self._need("random_effects_cov"), self._effects, self.scale)

    @cached_property
    def _effect_slopes(self) -> list[np.ndarray]:
        """Derivatives of the random effects in the fixed effects, (L, k, p) a term."""
        return effect_slopes(self.estimates, self._need("given_beta=False"))

    def _moved_by_beta(self) -> list[np.ndarray]:
        """``D R`` with ``R R'`` the covariance of the fixed effects, (L, k, p) a term."""
        cov: Any = self.scale * self.tests.cov_beta
        root = np.asarray(psd_cholesky(cov))
        return [slopes @ root for slopes in self._effect_slopes]

    def joint_effects_cov(
        self, levels: Mapping[str, Any], *, given_beta: bool = True
    ) -> pd.DataFrame:
        """Joint conditional covariance of the random effects of some levels, of any factors.

        Parameters
        ----------
        levels : mapping
            Factor (or component) to one of its levels, or to a list of them, as in
            ``random_effects``.
        given_beta : bool
            At known fixed effects; False: of ``b_hat - b``, as in :meth:`random_effects_frame`.

        Returns
        -------
        pandas.DataFrame, shape (K, K)
            Rows and columns by factor, level and coefficient.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("strength ~ 1 + (1 | batch/cask)", lmm.load_dataset("pastes"))
        >>> cov = res.joint_effects_cov({"batch": "A", "cask:batch": ["a:A", "b:A"]})
        >>> cov.round(4).to_numpy().tolist()
        [[1.0578, -1.0169, -1.0169], [-1.0169, 1.3035, 0.9776], [-1.0169, 0.9776, 1.3035]]
        """
        slopes = None if flag(given_beta, "given_beta") else self._moved_by_beta()
        design = self._need("joint_effects_cov")
        return joint_table(design, self._effects, self.scale, levels, slopes)

    def random_effects_frame(
        self,
        conf_level: float = 0.95,
        *,
        level: float | None = None,
        given_beta: bool = True,
        output: str | None = None,
    ) -> Any:
        """Random effects in one long table, lme4's ``as.data.frame(ranef(m))``.

        The covariance of ``b_hat - b`` is ``C`` at known fixed effects (lme4's ``condVar``), and
        ``C + D Phi D'`` where they are estimated, with Phi their covariance and
        ``D = d b_hat / d beta``: the prediction error variance of animal breeders (Henderson's
        C22, the standard error of prediction of SAS and ASReml), of which reliabilities are made.
        Of a robust fit, and of Kenward and Roger's method, Phi is theirs.

        Parameters
        ----------
        conf_level, level : float
            Coverage of the limits, by either of both words: estimate and normal quantile times
            standard error.
        given_beta : bool
            Standard errors at known fixed effects, or with their errors.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Returns
        -------
        DataFrame
            A row an effect: factor, term, level, estimate, std_error (by default the conditional
            standard deviation of ``random_effects_cov``), conf_low, conf_high.

        References
        ----------
        Henderson (1975), doi:10.2307/2529430.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> print(res.random_effects_frame().head(2).round(2).to_string(index=False))
        factor      term level  estimate  std_error  conf_low  conf_high
         Batch Intercept     A    -17.61      19.59     -56.0      20.78
         Batch Intercept     B      0.39      19.59     -38.0      38.78
        """
        more = None
        if not flag(given_beta, "given_beta"):
            squares = [np.sum(own**2, axis=2) for own in self._moved_by_beta()]
            more = effect_frames(self._known("random_effects").terms, squares)
        covariances = self.random_effects_cov
        level = coverage(level, conf_level=conf_level)
        made = effects_table(self.random_effects, covariances, level, more)
        return as_frame(made, output, self.output)

    def coef(self) -> dict[str, pd.DataFrame]:
        """Coefficients of every level, fixed effects plus random ones: lme4's ``coef``.

        One frame per grouping factor, levels in the rows; a random coefficient without a fixed
        effect stands for itself, and is zero for factors that do not have it. Variance components
        have no coefficient of X and are left out.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> res.coef()["Subject"].loc["308"].round(2).to_dict()
        {'Intercept': 253.66, 'Days': 19.67}
        """
        terms = self._known("coef").terms
        return coefficient_frames(self.fe_params, terms, self.random_effects)
