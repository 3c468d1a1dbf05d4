"""Random small models with several optima, singular ones and lost digits; and a search.

Few groups of unequal size, weights over orders of magnitude, random effects from a thousandth to a
million times the residual, correlations near one, columns of very different scale. The criterion
here is a QR factorization of the rows themselves, in NumPy, and knows nothing of layouts:

    [ W^1/2 Z Lambda   W^1/2 X   W^1/2 y ]   =  Q R        log|V| and r^2 are read off R
    [       I             0         0    ]
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import lmm_jax as lmm
from lmm_jax.covariance.structures import Unstructured
from lmm_jax.covariance.triangles import lower_indices
from lmm_jax.likelihood.profile import profile_jet, profile_waist
from lmm_jax.optimize.newton import newton

# Coefficients of the term and columns of X: few combinations, since each is a program of its own.
SHAPES = ((1, 2), (2, 1), (2, 3), (3, 3))
SHARES = (0.1, 0.35, 0.35, 0.2)
# Starts that are looked at, and those of them that Newton runs from.
LOOKED_AT, RUNS = 600, 24


class HardModel(NamedTuple):
    """One data set, drawn from a seed."""

    y: np.ndarray  # (n,)
    X: np.ndarray  # (n, p)
    Z: np.ndarray  # (n, k)
    groups: np.ndarray  # (n,)
    weights: np.ndarray  # (n,)
    Lambda: np.ndarray  # (k, k)  what y was drawn with
    reml: bool
    kind: str


def draw(seed):
    """A model of the hard kinds."""
    rng = np.random.default_rng(seed)
    k, p = SHAPES[rng.choice(len(SHAPES), p=SHARES)]
    n, G = int(rng.integers(20, 61)), int(rng.integers(3, 9))
    share = rng.dirichlet(np.full(G, rng.choice([0.5, 2.0, 20.0])))
    groups = np.concatenate([np.arange(G), rng.choice(G, size=n - G, p=share)])
    columns = rng.normal(size=(n, 3)) + rng.choice([0.0, 0.0, 3.0, 30.0], size=3)
    columns = columns * 10.0 ** rng.choice([0.0, 0.0, 2.0, -2.0], size=3)
    Z = np.column_stack([np.ones(n), columns])[:, :k]
    if k > 1 and rng.random() < 0.15:
        Z = columns[:, :k]  # no intercept among the coefficients
    X = np.column_stack([np.ones(n), columns])[:, :p]
    if rng.random() < 0.2:
        X = columns[:, :p]
    weighted = rng.choice(["even", "wide", "extreme"], p=[0.5, 0.3, 0.2])
    spread = {"even": 0.0, "wide": 1.5, "extreme": 3.0}[weighted]
    weights = 10.0 ** rng.uniform(-spread, spread, size=n)
    ratio = rng.choice(["small", "even", "large", "huge"], p=[0.2, 0.3, 0.3, 0.2])
    low, high = {"small": (-3, 0), "even": (-1, 1), "large": (1, 3.5), "huge": (3.5, 6)}[ratio]
    sd = 10.0 ** rng.uniform(low, high, size=k)
    if k > 1 and rng.random() < 0.3:
        sd[rng.integers(k)] = 0.0
    related = "alone"
    L = np.diag(sd)
    if k > 1:
        related = rng.choice(["apart", "any", "near one", "one"], p=[0.25, 0.35, 0.2, 0.2])
        A = np.eye(k) if related == "apart" else rng.normal(size=(k, k))
        if related in ("near one", "one"):
            away = 0.0 if related == "one" else 10.0 ** rng.uniform(-4, -1)
            A = np.outer(rng.choice([-1.0, 1.0], size=k), np.eye(k)[0]) + away * A
        A = A / np.linalg.norm(A, axis=1, keepdims=True)
        L = sd[:, None] * A
    size = np.sqrt(np.mean(Z**2, axis=0))
    L = L / size[:, None]
    b = rng.normal(size=(G, k)) @ L.T
    y = X @ rng.normal(size=p) + np.sum(Z * b[groups], axis=1)
    y = y + rng.normal(size=n) / np.sqrt(weights)
    kind = f"k={k} {ratio} {weighted} {related}"
    return HardModel(y, X, Z, groups, weights, L, bool(rng.random() < 0.5), kind)


def deviance(Lambda, model):
    """-2 log-likelihood (restricted, if the model says so) at a relative factor, by QR of rows."""
    y, X, Z, groups, weights, _, reml, _ = model
    n, p, k = len(y), X.shape[1], Z.shape[1]
    G, root = groups.max() + 1, np.sqrt(weights)
    ZL = np.zeros((n, G, k))
    ZL[np.arange(n), groups] = Z @ Lambda
    rows = np.column_stack([ZL.reshape(n, -1), X, y]) * root[:, None]
    order = np.argsort(-np.abs(rows[:, : G * k]).max(axis=1))  # large rows first keep their digits
    below = np.eye(G * k, rows.shape[1])
    R = np.linalg.qr(np.vstack([rows[order], below]), mode="r")
    logs, q = np.log(np.abs(np.diag(R))), G * k
    nu = n - p if reml else n
    value = 2 * logs[:q].sum() - np.log(weights).sum() + nu * (1 + np.log(2 * np.pi / nu))
    return value + 2 * nu * logs[-1] + (2 * logs[q:-1].sum() if reml else 0.0)


def random_starts(k, count, seed=0):
    """Thetas all over: many sizes, no correlation, any, or that of a matrix of rank one."""
    rng = np.random.default_rng(seed)
    rows, columns = lower_indices(k)
    thetas = np.zeros((count, Unstructured(k).n_params))
    for i in range(count):
        sd = 10.0 ** rng.uniform(-2, 6.5, size=k)
        A = np.eye(k) if i % 3 == 0 else rng.normal(size=(k, k))
        if i % 3 == 2:
            A = np.outer(np.ones(k), np.eye(k)[0]) * rng.choice([-1.0, 1.0], size=(k, 1))
            A = A + 10.0 ** rng.uniform(-6, -1) * np.eye(k)
        L = sd[:, None] * A
        if i % 2:  # one size for all, in any direction
            L = sd[0] * rng.normal(size=(k, k)) * 10.0 ** -rng.uniform(0, 5, size=(1, k))
        L = np.linalg.qr(L.T, mode="r").T
        thetas[i] = L[rows, columns]
    return thetas


@partial(jax.jit, static_argnames="reml")
def _search(layout, starts, *, reml):
    def value(theta: Array) -> Array:
        return profile_waist(layout.waist_at(theta), layout, reml=reml).deviance

    values = jax.vmap(value)(starts)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argsort(values)
    # the lowest, and a spread of others
    layout = layout.measured_from(
        profile_waist(layout.waist_at(starts[best[0]]), layout, reml=reml).beta
    )
    chosen = jnp.concatenate([best[: RUNS // 2], best[RUNS // 2 :: LOOKED_AT // RUNS][: RUNS // 2]])
    jet = lambda t: profile_jet(t, layout, reml=reml)  # noqa: E731
    run = lambda t: newton(t, jet, layout.structures, maxiter=200)  # noqa: E731
    found = jax.vmap(run)(starts[chosen])
    return found.theta, found.jet.value


def search(model, design):
    """Lowest deviance over runs from many starts, and its relative factor."""
    k = model.Z.shape[1]
    with jax.enable_x64(True):
        layout = jax.tree.map(jnp.asarray, design.layout)
        truth = np.linalg.solve(np.asarray(layout.whiteners[0]), model.Lambda)
        truth = np.linalg.qr(truth.T, mode="r").T[lower_indices(k)]
        starts = np.vstack([truth, random_starts(k, LOOKED_AT - 1)])
        few = layout  # padded alike for all models
        thetas, values = _search(few, jnp.asarray(starts), reml=model.reml)
    A, best = np.asarray(layout.whiteners[0]), (np.inf, None)
    for i in np.argsort(np.asarray(values))[:6]:
        L = np.zeros((k, k))
        L[lower_indices(k)] = thetas[i]
        value = deviance(A @ L, model)
        if value < best[0]:
            best = value, A @ L
    return best


def design_of(model):
    return lmm.design_from_arrays(
        model.y, model.X, model.groups, exog_re=model.Z, weights=model.weights
    )


def factor_of(result):
    """Relative factor of the only term of a result, (k, k)."""
    k = result.cov_re.shape[0]
    L = np.zeros((k, k))
    L[lower_indices(k)] = result.theta
    return L


def response(model, rng, scale):
    """Another response of the same design, its random effects multiplied."""
    k = model.Z.shape[1]
    b = scale * rng.normal(size=(model.groups.max() + 1, k)) @ model.Lambda.T
    return np.sum(model.Z * b[model.groups], axis=1) + rng.normal(size=len(model.y)) / np.sqrt(
        model.weights
    )
