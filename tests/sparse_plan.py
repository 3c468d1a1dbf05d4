"""Small designs laid out as large ones whose levels meet few others."""

import numpy as np
import pytest

from lmm_jax.layouts import plan


def make_sparse(patch: pytest.MonkeyPatch) -> None:
    """Crossed factors are kept sparse, whatever that costs."""
    for name, value in (("_LARGE_CORE", 0), ("_CROWDED", np.inf), ("_DENSE", np.inf)):
        patch.setattr(plan, name, value)
