"""``python -m lmm_jax``, and the script ``lmm``: see :mod:`lmm_jax.api.command`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .imports import load


def main(argv: Sequence[str] | None = None) -> int:
    """See :func:`lmm_jax.api.command.main`."""
    status: int = load("lmm_jax.api.command").main(argv)
    return status


if __name__ == "__main__":
    sys.exit(main())
