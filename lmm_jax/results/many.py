"""What many fits say: arrays with a row a response, and the way to the full result of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.residuals.parameters import residual_names, residual_values
from ..inference.tails.student import two_sided_quantile
from ..inputs.arguments import coverage, hinted, is_whole, shown
from ..reprs import inside, public
from ..tables.cells import Kind
from ..tables.frames import as_frame
from ..tables.page import Summary
from ..tables.shown import Shown, first_rows
from .lmm import LMMResults
from .many_tested import ManyTested
from .refits import NO_DATA
from .saving import Saved


@inside("source", "residual", "adjusted")
@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ManyResults(ManyTested, Shown, Saved):
    """Linear mixed models of R responses with one design.

    A row of every array is a response; a response without a fit has NaN and
    ``converged`` False. Variances are variances of the data. A pickle leaves the data
    out, so that :meth:`select` and :meth:`random_effects` are not available from it;
    :meth:`save` can keep them.

    Attributes
    ----------
    response_names : tuple of str, length R
    fixed_names : tuple of str, length p
    term_labels : tuple of TermLabel
        Names of the random-effects terms.
    fe_params : ndarray, shape (R, p)
        Fixed effects.
    bse_fe : ndarray, shape (R, p)
        Their standard errors.
    df : ndarray, shape (R, p)
        Satterthwaite's degrees of freedom, or Kenward and Roger's, whose standard errors go with
        them; infinite for ``df_method="normal"``.
    df_method : {"satterthwaite", "kenward-roger", "normal"}
    cov_beta : ndarray, shape (R, p, p)
        Covariance of the fixed effects, relative to the residual variance; not adjusted.
    dcov_beta, joint_cov : ndarray
        Its derivatives in the relative covariances, and what those are uncertain by.
    theta : ndarray, shape (R, m)
        lme4's theta.
    covariances : tuple of ndarray, shape (R, k, k)
        Covariance of the random effects of every term.
    scale : ndarray, shape (R,)
        Residual variance.
    llf : ndarray, shape (R,)
        Log-likelihood, restricted if the fits are by REML.
    nobs : ndarray of int, shape (R,)
        Rows used.
    converged, singular : ndarray of bool, shape (R,)
    n_iter : ndarray of int, shape (R,)
    reml : bool

    Notes
    -----
    Members by subject:

    - Responses: response_names, number, nobs, n_iter, converged, singular, reml
    - Estimates: fixed_names, fe_params, term_labels, cov_re, vcomp, covariances, theta, scale,
      residual_params, llf
    - Tests: bse_fe, df, df_method, tvalues, pvalues, fdr, t_test, wald_test, emmeans, moderation
    - What tests are made of: cov_beta, dcov_beta, joint_cov
    - One response: select, random_effects
    - Tables and files: tidy, output, to_latex, to_html, to_markdown, to_gt, save
    """

    def _state(self, *, keep_data: bool) -> dict[str, Any]:
        state = super()._state(keep_data=keep_data)
        return state if keep_data else {**state, "source": None}

    def __len__(self) -> int:
        return len(self.response_names)

    def _page(self) -> Summary:
        kinds: dict[str, Kind] = {"response": "label", "term": "label", "statistic": "statistic"}
        kind, lost = "REML" if self.reml else "ML", len(self) - int(self.converged.sum())
        title = f"Linear mixed models of {len(self)} responses fitted by {kind}"
        page = first_rows(self.tidy(output="pandas"), title, "tidy()", kinds)
        rows = " to ".join(map(str, sorted({int(self.nobs.min()), int(self.nobs.max())})))
        counts = f"{int(self.singular.sum())} singular, {lost} not converged; {rows} rows used"
        notes = (counts, f"Degrees of freedom: {self.df_method}", *page.notes)
        return replace(page, notes=notes, method=f"Fitted by {kind}")

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        return (
            f"<ManyResults by {kind}: {len(self)} responses, {int(self.converged.sum())} "
            f"converged, {int(self.singular.sum())} singular>"
        )

    @property
    def cov_re(self) -> np.ndarray:
        """Covariance of the correlated terms, block diagonal over terms, (R, q, q)."""
        blocks = [
            S
            for label, S in zip(self.term_labels, self.covariances, strict=True)
            if not label.is_component
        ]
        size = sum(S.shape[1] for S in blocks)
        out = np.zeros((len(self), size, size))
        start = 0
        for S in blocks:
            stop = start + S.shape[1]
            out[:, start:stop, start:stop] = S
            start = stop
        return out

    @property
    def vcomp(self) -> np.ndarray:
        """Variances of the components, (R, n_components)."""
        parts = [
            S[:, 0, 0]
            for label, S in zip(self.term_labels, self.covariances, strict=True)
            if label.is_component
        ]
        return np.stack(parts, axis=1) if parts else np.zeros((len(self), 0))

    @property
    def residual_params(self) -> pd.DataFrame:
        """Parameters of a residual covariance, a row a response; see ``LMMResults``."""
        if self.residual is None:
            return pd.DataFrame(index=list(self.response_names))
        values = residual_values(self.theta, self.scale, self.residual)
        names = residual_names(self.residual)
        return pd.DataFrame(values, index=list(self.response_names), columns=list(names))

    def tidy(
        self, *, conf_level: float = 0.95, level: float | None = None, output: str | None = None
    ) -> Any:
        """One row a response and fixed effect, with broom.mixed's columns.

        Parameters
        ----------
        conf_level, level : float
            Coverage of the intervals, by either of both words.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Returns
        -------
        DataFrame
            response, term, estimate, std_error, statistic, df, p_value,
            conf_low, conf_high, converged, singular.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.tidy().shape
        (12, 11)
        """
        level = coverage(level, conf_level=conf_level)
        half = two_sided_quantile(level, self.df) * self.bse_fe
        half = np.where(self.bse_fe == 0, 0.0, half)
        p = len(self.fixed_names)
        made = pd.DataFrame(
            {
                "response": np.repeat(np.array(self.response_names, dtype=object), p),
                "term": np.tile(np.array(self.fixed_names, dtype=object), len(self)),
                "estimate": self.fe_params.ravel(),
                "std_error": self.bse_fe.ravel(),
                "statistic": self.tvalues.ravel(),
                "df": self.df.ravel(),
                "p_value": self.pvalues.ravel(),
                "conf_low": (self.fe_params - half).ravel(),
                "conf_high": (self.fe_params + half).ravel(),
                "converged": np.repeat(self.converged, p),
                "singular": np.repeat(self.singular, p),
            }
        )
        return as_frame(made, output, self.output)

    def number(self, response: int | str) -> int:
        """Row of a response given by its number or its name.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.number(many.response_names[2])
        2
        """
        if isinstance(response, str):
            if response not in self.response_names:
                raise DataError(f"no response {response!r} among the {len(self)} that were fitted")
            return self.response_names.index(response)
        if not is_whole(response):
            raise DataError(f"response={shown(response)}: its name or number is needed")
        if not -len(self) <= response < len(self):
            raise DataError(f"no response {shown(response)}: there are {len(self)}, from 0 on")
        return int(response) % len(self)

    def select(self, response: int | str) -> LMMResults:
        """The full result of one response, fitted by itself.

        Parameters
        ----------
        response : int or str
            Its number, or its name.

        Raises
        ------
        DataError
            A result without its data; no such response.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> bool(abs(many.select(1).llf - many.llf[1]) < 1e-6)
        True
        """
        if self.source is None:
            raise DataError(NO_DATA)
        return self.source.fit_one(self.number(response))

    def random_effects(self, response: int | str) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects (BLUPs) of one response.

        Examples
        --------
        >>> import numpy as np, lmm_jax as lmm
        >>> data = lmm.load_dataset("machines")
        >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
        >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
        >>> many.random_effects(0)["Worker"].shape
        (6, 1)
        """
        return self.select(response).random_effects
