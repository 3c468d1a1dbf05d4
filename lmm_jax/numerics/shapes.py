"""The grid of sizes that arrays are padded to: data sets of similar size share a program."""

from __future__ import annotations

# Groups up to this many share a program where a group is no wider than this; and rows.
_FEW_GROUPS, _NARROW_GROUP = 256, 4
_FEW_ROWS = 4096
# The smallest data sets, which are many, have a size of their own.
VERY_FEW, _VERY_FEW_ROWS = 64, 512
# Rows of one group that cost as much as a dozen small ones.
_TALL = 256
# Columns of X: few enough to be cheap, and apart enough that one covariate more mostly has room.
_COLUMNS = (2, 4, 6, 8, 12, 16)


def round_up(n: int, least: int = 16) -> int:
    """Smallest size of the shape grid that holds ``n``: least, powers of 2, then steps of 1/8."""
    if n <= least:
        return least
    bits = (n - 1).bit_length()
    step = 1 << (bits if n <= 256 else bits - 4)
    return -(-n // step) * step


def round_up_groups(n: int, columns: int, rows: int) -> int:
    """The same for groups: one size for small data sets whose groups are narrow."""
    if columns > _NARROW_GROUP:
        return round_up(n)
    return round_up(n, least=VERY_FEW if rows <= _VERY_FEW_ROWS else _FEW_GROUPS)


def round_up_tall(n: int, rows: int) -> int:
    """The same for groups whose matrices have so many rows: tall ones cost more than a program."""
    return round_up(n, least=max(1, min(16, _TALL // max(rows, 1))))


def round_up_few(n: int) -> int:
    """The same for groups that are evaluated many times over."""
    return VERY_FEW if n <= VERY_FEW else round_up(n, least=_FEW_GROUPS)


def round_up_columns(p: int) -> int:
    """The same for columns of X; many cost more than programs of their own."""
    return next((size for size in _COLUMNS if size >= p), p)


def round_up_rows(n: int, groups: int = _FEW_GROUPS) -> int:
    """The same for rows: two sizes for all small data sets."""
    if n <= _VERY_FEW_ROWS and groups <= VERY_FEW:
        return _VERY_FEW_ROWS
    return round_up(n, least=_FEW_ROWS)
