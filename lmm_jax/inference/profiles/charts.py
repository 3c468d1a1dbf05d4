"""Coordinates in which one parameter of the data is a coordinate that can be held.

The criterion lives at ``y = (theta, tau)``, or ``(theta, tau, b)`` with a fixed effect
(:mod:`lmm_jax.likelihood.joint`). A chart takes coordinates z of the same length, of which
``z[held]`` is the parameter, to y. All are smooth where the parameter ends, at a standard
deviation of zero and a correlation of one: the criterion is even there.

With the term rotated such that rows i and j of ``A Lambda`` are ``u L_11 e_1`` and
``(s L_11 + t L_21) e_1 + t L_22 e_2``,

    sd_i^2 = sigma^2 u^2 L_11^2      cor = cos(phi), with d = sd_j / sigma:
    d cos(phi) = s L_11 + t L_21     d sin(phi) = t L_22

Compound symmetry has the roots ``(a, b)`` of two eigenvalues in polar coordinates,
``a = R sqrt(k / (k - 1)) cos(w)``, ``b = R sqrt(k) sin(w)``: R is the standard deviation over
sigma and the angle w alone has the correlation, ``1 - k / (k - 1) cos(w)^2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Bend(NamedTuple):
    """Second derivative of one entry of y, between two coordinates."""

    entry: int
    first: int
    second: int
    value: float


class Mapped(NamedTuple):
    """A point of a chart with two derivatives."""

    y: np.ndarray  # (M,)
    jacobian: np.ndarray  # (M, M)
    bends: tuple[Bend, ...]


@dataclass(frozen=True)
class Chart:
    """y itself: sigma, by ``tau = log sigma^2``, or a fixed effect is a coordinate of it."""

    held: int  # place in z of the parameter
    tau: int  # place of log sigma^2

    def at(self, z: np.ndarray) -> Mapped:
        """Where z is, with derivatives."""
        return Mapped(z.copy(), np.eye(z.size), ())

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """The z of a y."""
        return y.copy()


@dataclass(frozen=True)
class Reference(Chart):
    """``log sigma^2`` where a covariate of standard deviations is at its reference.

    ``tau = z + 2 c delta``, of which tau is that at the mean of the covariate, c away.
    """

    delta: int  # place of the covariate's parameter
    c: float

    def at(self, z: np.ndarray) -> Mapped:
        """See :meth:`Chart.at`."""
        y, J = z.copy(), np.eye(z.size)
        y[self.tau] += 2.0 * self.c * z[self.delta]
        J[self.tau, self.delta] = 2.0 * self.c
        return Mapped(y, J, ())

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """See :meth:`Chart.inverse`."""
        z = y.copy()
        z[self.tau] -= 2.0 * self.c * y[self.delta]
        return z


@dataclass(frozen=True)
class Size(Chart):
    """``L_11 = z exp(-tau / 2)``: a standard deviation, up to its unit."""

    def at(self, z: np.ndarray) -> Mapped:
        """See :meth:`Chart.at`."""
        h, m, y, J = self.held, self.tau, z.copy(), np.eye(z.size)
        e = np.exp(-0.5 * z[m])
        y[h] = z[h] * e
        J[h, h], J[h, m] = e, -0.5 * y[h]
        return Mapped(y, J, (Bend(h, m, m, 0.25 * y[h]), Bend(h, h, m, -0.5 * e)))

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """See :meth:`Chart.inverse`."""
        z = y.copy()
        z[self.held] *= np.exp(0.5 * y[self.tau])
        return z


@dataclass(frozen=True)
class Pair(Chart):
    """What two coefficients of a term have in common."""

    l11: int
    l21: int
    l22: int
    s: float
    t: float


@dataclass(frozen=True)
class Angle(Pair):
    """A correlation by its angle phi, in the place of L_21; that of L_22 has d."""

    def at(self, z: np.ndarray) -> Mapped:
        """See :meth:`Chart.at`."""
        a, f, n, y, J = self.l11, self.l21, self.l22, z.copy(), np.eye(z.size)
        c, s, d = np.cos(z[f]) / self.t, np.sin(z[f]) / self.t, z[n]
        y[f], y[n] = d * c - self.s / self.t * z[a], d * s
        J[f, f], J[f, n], J[f, a] = -d * s, c, -self.s / self.t
        J[n, f], J[n, n] = d * c, s
        bends = Bend(f, f, f, -d * c), Bend(f, f, n, -s), Bend(n, f, f, -d * s), Bend(n, f, n, c)
        return Mapped(y, J, bends)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """See :meth:`Chart.inverse`."""
        z = y.copy()
        along, across = self.s * y[self.l11] + self.t * y[self.l21], self.t * y[self.l22]
        z[self.l21], z[self.l22] = np.arctan2(across, along), np.hypot(across, along)
        return z


@dataclass(frozen=True)
class Product(Pair):
    """A covariance, ``z = e^tau L_11 (s L_11 + t L_21)`` up to its unit, in the place of L_21."""

    def at(self, z: np.ndarray) -> Mapped:
        """See :meth:`Chart.at`."""
        a, f, m, y, J = self.l11, self.l21, self.tau, z.copy(), np.eye(z.size)
        w1 = np.exp(-z[m]) / (self.t * z[a])
        w = z[f] * w1
        y[f] = w - self.s / self.t * z[a]
        J[f, f], J[f, m], J[f, a] = w1, -w, -w / z[a] - self.s / self.t
        bends = (
            *(Bend(f, m, m, w), Bend(f, a, a, 2.0 * w / z[a] ** 2), Bend(f, f, m, -w1)),
            *(Bend(f, f, a, -w1 / z[a]), Bend(f, m, a, w / z[a])),
        )
        return Mapped(y, J, bends)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """See :meth:`Chart.inverse`."""
        z, a = y.copy(), y[self.l11]
        z[self.l21] = np.exp(y[self.tau]) * a * (self.s * a + self.t * y[self.l21])
        return z


@dataclass(frozen=True)
class Polar(Chart):
    """Compound symmetry of k coefficients: (R, w) in the places of (a, b)."""

    start: int  # place of a
    k: int
    scaled: bool  # R is multiplied by sigma, so that it is the standard deviation

    def at(self, z: np.ndarray) -> Mapped:
        """See :meth:`Chart.at`."""
        r, w, m, y, J = self.start, self.start + 1, self.tau, z.copy(), np.eye(z.size)
        e = np.exp(-0.5 * z[m]) if self.scaled else 1.0
        size = z[r] * e
        bends: list[Bend] = []
        roots = np.sqrt([self.k / (self.k - 1), self.k])
        for i, turn in enumerate((np.cos(z[w]), np.sin(z[w]))):
            slope = (-np.sin(z[w]), np.cos(z[w]))[i] * roots[i]
            turn, at = turn * roots[i], r + i
            y[at], J[at, r], J[at, w] = size * turn, e * turn, size * slope
            bends += [Bend(at, w, w, -size * turn), Bend(at, r, w, e * slope)]
            if self.scaled:
                J[at, m] = -0.5 * size * turn
                bends += [Bend(at, m, m, 0.25 * size * turn), Bend(at, r, m, -0.5 * e * turn)]
                bends += [Bend(at, w, m, -0.5 * size * slope)]
        return Mapped(y, J, tuple(bends))

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """See :meth:`Chart.inverse`."""
        z, at = y.copy(), self.start
        a, b = y[at] * np.sqrt(1.0 - 1.0 / self.k), y[at + 1] / np.sqrt(self.k)
        z[at] = np.hypot(a, b) * (np.exp(0.5 * y[self.tau]) if self.scaled else 1.0)
        z[at + 1] = np.arctan2(b, a)
        return z


@dataclass(frozen=True)
class Difference(Chart):
    """Compound symmetry: a covariance, ``z = e^tau (b^2 - a^2) / k``, in the place of b."""

    start: int  # place of a
    k: int

    def at(self, z: np.ndarray) -> Mapped:
        """See :meth:`Chart.at`."""
        a, f, m, y, J = self.start, self.start + 1, self.tau, z.copy(), np.eye(z.size)
        e = self.k * np.exp(-z[m])
        b = np.sqrt(z[a] ** 2 + z[f] * e)  # NaN where no covariance is so negative
        y[f] = b
        half = np.array([z[a], 0.5 * e, -0.5 * z[f] * e])  # of b^2 / 2, in (a, z, tau)
        places = (a, f, m)
        J[f, list(places)] = half / b
        second = np.array([[1.0, 0, 0], [0, 0, -0.5 * e], [0, -0.5 * e, 0.5 * z[f] * e]])
        second = second / b - np.outer(half, half) / b**3
        pairs = [(i, j) for i in range(3) for j in range(i, 3)]
        return Mapped(y, J, tuple(Bend(f, places[i], places[j], second[i, j]) for i, j in pairs))

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """See :meth:`Chart.inverse`."""
        z, at = y.copy(), self.start
        z[at + 1] = np.exp(y[self.tau]) * (y[at + 1] ** 2 - y[at] ** 2) / self.k
        return z


def pulled_back(
    at: Mapped, gradient: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian in z from those in y, (M,) and (M, M)."""
    J = at.jacobian
    out = J.T @ hessian @ J
    for bend in at.bends:
        value = gradient[bend.entry] * bend.value
        out[bend.first, bend.second] += value
        if bend.first != bend.second:
            out[bend.second, bend.first] += value
    return J.T @ gradient, out
