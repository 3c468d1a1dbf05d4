"""All parameters of a fit, a row each, under the names that its intervals have."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..inputs.names import unique
from .residual_reference import residual_reference

_NUMBERS = ["estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"]


def parameter_rows(res: Any, level: float = 0.95) -> pd.DataFrame:
    """A row a parameter: fixed effects, standard deviations and correlations, residual ones.

    Columns estimate, std_error, statistic, p_value, conf_low, conf_high; NaN where a parameter
    has no test.
    """
    random = res.conf_int(scale="sdcor", parm="theta").index
    residual = list(res.residual_params.index)
    frame = res.tidy(("fixed", "ran_pars"), conf_level=level, output="pandas")[_NUMBERS]
    frame = pd.DataFrame(frame.set_axis(list(unique([*res.fixed_names, *random, *residual]))))
    if residual_reference(res) is None:  # that of the first level stands among the residual ones
        frame = frame.drop(index=random[-1])
    return frame
