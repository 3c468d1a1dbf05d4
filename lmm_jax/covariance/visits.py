"""Correlations of visits: any of them, one number for all, or products of neighbours'."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, constant, expit, stack, tanh, variables
from .correlations import Correlation, arctanh, at_visits, cell
from .triangles import lower_rows

# Share of independence in a correlation that challenges an optimum.
_LOOSENED = 0.2


def _spread_over(rho: Taylor, shape: Any, like: Any) -> Taylor:
    """Ones on the diagonal and rho elsewhere."""
    xp = namespace(like)
    one = xp.broadcast_to(xp.eye(shape[0], dtype=like.dtype)[:, :, None], shape)
    other = 1.0 - one
    return rho.through(one + other * rho.value, other, xp.zeros_like(one))


class General(Correlation):
    """Any correlation of T visits: ``C = L L'`` with rows ``(u_i1, .., 1, 0, ..) / norm``."""

    __slots__ = ()
    name = "symm"
    linear = True
    levels_are_codes = True

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        T = len(self.levels)
        return T * (T - 1) // 2

    def _rows(self, c: Any) -> tuple[Any, Any, Any]:
        """L, the rows before their norms are taken, and the norms."""
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        v = xp.at(xp.eye(T, dtype=c.dtype))[i, j].set(c)
        norm = xp.sqrt(xp.sum(v * v, axis=1))
        return v / norm[:, None], v, norm

    def _visits(self, c: Any) -> Any:
        """Correlations of all visits, (T, T)."""
        L = self._rows(c)[0]
        return L @ L.T

    def matrix(self, c: Any, places: Any) -> Any:
        """See :meth:`Correlation.matrix`."""
        return self._visits(c)[at_visits(places)]

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        return stack([stack(row) for row in self._bent(variables(c))])[at_visits(places)]

    def _bent(self, c: list[Taylor]) -> list[list[Taylor]]:
        """Correlations of all visits with two derivatives, number by number."""
        rows: list[list[Taylor]] = []
        first = c[0] * 0.0 + 1.0
        for i in range(len(self.levels)):
            own = c[i * (i - 1) // 2 : i * (i + 1) // 2]
            size = first
            for x in own:
                size = size + x * x
            n = size.value
            inverse = size.through(n**-0.5, -0.5 * n**-1.5, 0.75 * n**-2.5)
            rows.append([*(x * inverse for x in own), inverse])
        out = [[first] * len(rows) for _ in rows]
        for i, row in enumerate(rows):
            for j in range(i):
                pairs = [a * b for a, b in zip(row, rows[j], strict=False)]
                out[i][j] = out[j][i] = sum(pairs[1:], pairs[0])
        return out

    def _factor_tangents(self, c: Any) -> Any:
        """Derivative of its row of L in every parameter, (m, T)."""
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        _, v, norm = self._rows(c)
        unit = xp.asarray(np.eye(T)[j], c.dtype)
        return unit / norm[i][:, None] - v[i] * (c / norm[i] ** 3)[:, None]

    def _visit_tangents(self, c: Any) -> Any:
        """Derivatives of the correlations of all visits, (m, T, T)."""
        xp, T = namespace(c), len(self.levels)
        i, _ = _below(T)
        row = self._factor_tangents(c) @ self._rows(c)[0].T  # (m, T)
        at = xp.asarray(np.eye(T)[i], c.dtype)
        half = at[:, :, None] * row[:, None]
        out = half + xp.swapaxes(half, 1, 2)
        return out * (1.0 - xp.eye(T, dtype=c.dtype))[None]

    def with_tangents(self, c: Any, places: Any) -> tuple[Any, Any]:
        """See :meth:`Correlation.with_tangents`."""
        at = at_visits(places)
        return self._visits(c)[at], self._visit_tangents(c)[(slice(None), *at)]

    def _slope_of_visits(self, places: Any, slope: Any) -> Any:
        """Sums of a slope, (r, r, g), over the rows of every two visits, (T, T)."""
        xp, T = namespace(places, slope), len(self.levels)
        visits = xp.asarray(np.arange(T), places.dtype)
        at = (places[0][None] == visits[:, None, None]).astype(slope.dtype)  # (T, r, g)
        if at.shape[-1] == 1:
            return at[..., 0] @ xp.sum(slope, axis=-1) @ at[..., 0].T
        return xp.einsum("tag,aug->tu", at, xp.einsum("abg,ubg->aug", slope, at))

    def with_bend(self, c: Any, places: Any, slope: Any) -> tuple[Any, Any, Any]:
        """See :meth:`Correlation.with_bend`."""
        return (*self.with_tangents(c, places), self._bend(c, places, slope))

    def _bend(self, c: Any, places: Any, slope: Any) -> Any:
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        H = self._slope_of_visits(places, slope) * (1.0 - xp.eye(T, dtype=c.dtype))
        L, v, norm = self._rows(c)
        dL = self._factor_tangents(c)
        across = 2.0 * H[i][:, i] * (dL @ dL.T)  # different rows; H is zero for one row
        w = (H @ L)[i]  # (m, T): of the row of every parameter
        own, n = w[np.arange(len(i)), j], norm[i]
        both = own[:, None] * c[None]
        along = xp.sum(w * v[i], axis=1)
        same = -(both + both.T) / n[:, None] ** 3
        same = same + 3.0 * (along / n**5)[:, None] * (c[:, None] * c[None])
        same = same - xp.diag(along / n**3)
        return across + 2.0 * xp.where(i[:, None] == i[None], same, 0.0)

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`: one correlation."""
        xp, T = namespace(rho), len(self.levels)
        i, j = _below(T)
        rho = self._bounded(rho)
        L = xp.linalg.cholesky((1.0 - rho) * xp.eye(T, dtype=rho.dtype) + rho)
        return L[i, j] / xp.diagonal(L)[i]

    def turned(self, c: Any) -> Any:
        """See :meth:`Correlation.turned`: with L of C and signs D it is ``D L D`` of ``D C D``."""
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        eye, k = xp.eye(T, dtype=c.dtype), np.arange(T)[:, None]
        L = xp.linalg.cholesky((1.0 - _LOOSENED) * self._visits(c) + _LOOSENED * eye)
        signs = np.where((i == k) != (j == k), -1.0, 1.0)
        return xp.asarray(signs, c.dtype) * (L[i, j] / xp.diagonal(L)[i])[None]

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`; first derivatives alone, since V is linear in it."""
        at = stack(c)
        xp, T = namespace(at.value), len(self.levels)
        i, j = _below(T)
        C = self._visits(at.value)
        first = xp.einsum("kab,zk->zab", self._visit_tangents(at.value), at.first)
        m = at.first.shape[0]
        return {
            self._name(a, b): Taylor(C[a, b], first[:, a, b], xp.zeros((m, m), C.dtype))
            for a, b in zip(i.tolist(), j.tolist(), strict=True)
        }

    def natural_bent(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural_bent`."""
        i, j = _below(len(self.levels))
        C = self._bent(c)
        return {self._name(a, b): C[a][b] for a, b in zip(i.tolist(), j.tolist(), strict=True)}

    def untold(self, together: np.ndarray) -> list[str]:
        """See :meth:`Correlation.untold`."""
        i, j = _below(len(self.levels))
        apart = ~together[i, j]
        return [self._name(a, b) for a, b in zip(i[apart].tolist(), j[apart].tolist(), strict=True)]

    def _name(self, a: int, b: int) -> str:
        return f"corr[{self.levels[b]},{self.levels[a]}]"


def _below(T: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the entries below the diagonal, row by row."""
    i, j = lower_rows(T)
    return i[i > j], j[i > j]


class Symmetric(Correlation):
    """One correlation between any two rows, from ``-1 / (width - 1)`` to 1."""

    __slots__ = ()
    name = "cs"
    linear = True
    to_one = True

    @property
    def lowest(self) -> float:
        """See :attr:`Correlation.lowest`: that of equal correlations of all rows."""
        return -1.0 / max(self.width - 1, 1)

    def _rho(self, c: Taylor) -> Taylor:
        least = self.lowest
        return least + (1.0 - least) * expit(c)

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        _, r, g = places.shape
        return _spread_over(self._expanded(c), (r, r, g), c)

    def _expanded(self, c: Any) -> Taylor:
        return cell(self._rho(variables(c)[0]))

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        xp, least = namespace(rho), self.lowest
        share = (self._bounded(rho) - least) / (1.0 - least)
        return xp.log(share / (1.0 - share))[None]

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        return {"rho": self._rho(c[0])}

    def of_other(self, c: np.ndarray, other: Any) -> np.ndarray:
        """See :meth:`Correlation.of_other`: the same rho, whose least value is another."""
        least = self.lowest
        share = (other._rho(variables(c)[0]).value - least) / (1.0 - least)
        with np.errstate(all="ignore"):
            return np.log(share) - np.log1p(-share) + np.zeros(1)


class Antedependent(Correlation):
    """Products of the correlations of neighbouring visits."""

    __slots__ = ()
    name = "ad"
    levels_are_codes = True
    ordered = in_line = True
    to_one = False

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return len(self.levels) - 1

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp, T = namespace(c), len(self.levels)
        near = [tanh(x) for x in variables(c)]
        one = constant(xp.ones((), c.dtype), c.shape[0])
        rows: list[list[Taylor]] = [[one] * T for _ in range(T)]
        for i in range(T):
            for j in range(i + 1, T):
                rows[i][j] = rows[j][i] = rows[i][j - 1] * near[j - 1]
        return stack([stack(row) for row in rows])[at_visits(places)]

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        return namespace(rho).broadcast_to(arctanh(self._bounded(rho)), (self.n_params,))

    def turned(self, c: Any) -> Any:
        """See :meth:`Correlation.turned`: the correlations with both neighbours."""
        xp, T = namespace(c), len(self.levels)
        visit, link = np.arange(T)[:, None], np.arange(T - 1)
        signs = np.where((link == visit - 1) | (link == visit), -1.0, 1.0)
        return xp.asarray(signs, c.dtype) * arctanh((1.0 - _LOOSENED) * xp.tanh(c))[None]

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        names = zip(self.levels, self.levels[1:], strict=False)
        return {f"corr[{a},{b}]": tanh(x) for (a, b), x in zip(names, c, strict=True)}

    def untold(self, together: np.ndarray) -> list[str]:
        """See :meth:`Correlation.untold`: a pair depends on all neighbours between its visits."""
        names = zip(self.levels, self.levels[1:], strict=False)
        return [
            f"corr[{a},{b}]"
            for k, (a, b) in enumerate(names)
            if not together[: k + 1, k + 1 :].any()
        ]
