"""Residual covariances as the textbook writes them: n x n matrices of natural parameters.

    cov(e_i, e_j) = s_i s_j C(places of i and j)    within a subject, otherwise 0

Slow on purpose and independent of the library; parameters go by the names that a result gives
them (``sd[v1]``, ``rho``, ``corr[v1,v2]``, ``range``, ``power``, ...).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from helpers import Array
from numpy.typing import NDArray

Values = Mapping[str, float]


def ar1(at: Values, i: Array, j: Array) -> Array:
    return at["rho"] ** np.abs(i - j)


def cs(at: Values, i: Array, j: Array) -> Array:
    return np.where(i == j, 1.0, at["rho"])


def arma11(at: Values, i: Array, j: Array) -> Array:
    phi, theta = at["phi"], at["theta"]
    first = (1 + phi * theta) * (phi + theta) / (1 + theta**2 + 2 * phi * theta)
    lag = np.abs(i - j)
    return np.where(lag == 0, 1.0, first * phi ** np.maximum(lag - 1, 0))


def arma(at: Values, i: Array, j: Array) -> Array:
    """By ``a_t`` of which e_t consists, psi_k of those k before; 4,000 of them."""
    phi, theta = ([at[k] for k in at if k.partition("[")[0] == name] for name in ("phi", "theta"))
    psi = np.zeros(4000)
    for k in range(4000):
        own = 1.0 if k == 0 else theta[k - 1] if k <= len(theta) else 0.0
        psi[k] = own + sum(phi[m] * psi[k - m - 1] for m in range(min(len(phi), k)))
    lags = np.abs(i - j).astype(int)
    by_lag = np.array([psi[: 4000 - k] @ psi[k:] for k in range(int(lags.max()) + 1)])
    return by_lag[lags] / by_lag[0]


def toep(at: Values, i: Array, j: Array) -> Array:
    lags = np.abs(i - j).astype(int)
    by_lag = [1.0, *(at[f"rho[{k}]"] for k in range(1, int(lags.max()) + 1))]
    return np.array(by_lag)[lags]


def exponential(at: Values, d: Array) -> Array:
    return np.exp(-d / at["range"])


def gaussian(at: Values, d: Array) -> Array:
    return np.exp(-((d / at["range"]) ** 2))


def rational(at: Values, d: Array) -> Array:
    return 1 / (1 + (d / at["range"]) ** 2)


def spherical(at: Values, d: Array) -> Array:
    t = d / at["range"]
    return np.where(t < 1, 1 - 1.5 * t + 0.5 * t**3, 0.0)


def continuous(at: Values, d: Array) -> Array:
    return at["phi"] ** d


OF_VISITS = {"ar1": ar1, "cs": cs, "arma11": arma11, "arma": arma, "toep": toep}
OF_DISTANCE = {
    "sp_exp": exponential,
    "sp_gau": gaussian,
    "sp_rat": rational,
    "sp_sph": spherical,
    "car1": continuous,
}


def of_levels(name: str, at: Values, levels: Sequence[str]) -> Array:
    """Correlations of all visits, (T, T): free ones, or products of those of neighbours."""
    T = len(levels)
    C = np.eye(T)
    for b in range(T):
        for a in range(b):
            if name == "symm":
                C[a, b] = at[f"corr[{levels[a]},{levels[b]}]"]
            else:
                near = [at[f"corr[{levels[k]},{levels[k + 1]}]"] for k in range(a, b)]
                C[a, b] = np.prod(near)
            C[b, a] = C[a, b]
    return C


@dataclass(frozen=True, kw_only=True)
class DenseResidual:
    """What the residual covariance of n rows depends on.

    ``correlation`` is "", "symm", "ad" or a name of the two tables above; ``places`` are visit
    numbers or coordinates, (d, n), and ``visits`` the labels that "symm" and "ad" number.
    ``spread`` is "one", "levels" (with labels of the rows in ``by``), "power" or "expo" (with
    numbers in ``by``), ``of`` and ``x`` a power or exponential beside it; ``arm`` are labels of
    the rows where every arm has parameters of its own.
    """

    correlation: str
    subject: NDArray[np.int64]
    places: Array
    visits: Sequence[str] = ()
    nugget: bool = False
    spread: str = "one"
    by: NDArray[np.str_] | Array | None = None
    of: str = ""
    x: Array | None = None
    arm: NDArray[np.str_] | None = None

    def matrix(self, at: Values) -> Array:
        """Covariance of the residuals, (n, n), in the units of y."""
        if self.arm is None:
            sd = self._deviations(at)
            return sd[:, None] * sd * self._correlations(at)
        out = np.zeros((self.subject.size, self.subject.size))
        for arm in np.unique(self.arm):
            mine = self.arm == arm
            own = replace(self, arm=None).matrix(_of_arm(at, str(arm)))
            out += own * (mine[:, None] & mine)
        return out

    def _deviations(self, at: Values) -> Array:
        if self.of:
            x = np.log(np.abs(self.x)) if self.of == "power" else self.x
            return replace(self, of="")._deviations(at) * np.exp(at[self.of] * x)
        if self.spread == "levels":
            return np.array([at[f"sd[{level}]"] for level in self.by])
        if self.spread == "power":
            return at["sd"] * np.abs(self.by) ** at["power"]
        if self.spread == "expo":
            return at["sd"] * np.exp(at["expo"] * self.by)
        return np.full(self.subject.size, at["sd"])

    def _correlations(self, at: Values) -> Array:
        same = self.subject[:, None] == self.subject
        own = np.eye(self.subject.size)
        if not self.correlation:
            return own
        if self.correlation in OF_VISITS:
            i, j = self.places[0][:, None], self.places[0][None]
            return same * OF_VISITS[self.correlation](at, i, j)
        if self.correlation in OF_DISTANCE:
            gaps = self.places[:, :, None] - self.places[:, None]
            C = OF_DISTANCE[self.correlation](at, np.sqrt((gaps**2).sum(axis=0)))
            share = 1.0 - at["nugget"] if self.nugget else 1.0
            return same * np.where(own > 0, 1.0, share * C)
        visit = self.places[0].astype(int)
        return same * of_levels(self.correlation, at, self.visits)[np.ix_(visit, visit)]


def _of_arm(at: Values, arm: str) -> Values:
    """Parameters of an arm under the names that one covariance would give them."""
    out = {}
    for name, value in at.items():
        kind, _, rest = name.rstrip("]").partition("[")
        first, comma, more = rest.partition(",")
        if first == arm:
            out[f"{kind}[{more}]" if comma else kind] = value
    return out
