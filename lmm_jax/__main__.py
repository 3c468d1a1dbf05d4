"""``python -m lmm_jax``, and the script ``lmm``: see :mod:`lmm_jax.command`."""

from __future__ import annotations

import sys

from .imports import load


def main() -> int:
    """Run the command line of this process; its exit status."""
    status: int = load("lmm_jax.command").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
