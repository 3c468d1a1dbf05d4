"""Small designs with crossed factors, as formulas and as dense terms."""

import numpy as np
import pandas as pd
from helpers import Term, dense_jet

from lmm_jax.covariance.theta import factor_blocks


def frame(seed=0, n=150, students=14, items=7):
    """Ratings of items by students: two crossed factors, nested ones on both sides, covariates."""
    rng = np.random.default_rng(seed)
    s, d = rng.integers(0, students, n), rng.integers(0, items, n)
    x, z = rng.normal(size=(2, n))
    data = pd.DataFrame(
        {
            "x": x,
            "z": z + 3,
            "s": np.char.add("s", s.astype(str)),
            "d": np.char.add("d", d.astype(str)),
            "visit": np.char.add("v", rng.integers(0, 3, n).astype(str)),
            "dept": np.char.add("k", (d % 3).astype(str)),
            "A": np.array(list("abc"))[rng.integers(0, 3, n)],
            "w": rng.uniform(0.5, 2.0, n),
        }
    )
    effects = rng.normal(size=students)[s] + 0.8 * rng.normal(size=items)[d]
    data["y"] = 2 + x + effects + 0.4 * x * rng.normal(size=students)[s] + rng.normal(size=n)
    return data


def islands(seed=1):
    """Three disconnected designs of very different size; labels do not tell."""
    parts = [frame(seed, 90, 9, 6), frame(seed + 1, 40, 5, 3), frame(seed + 2, 30, 4, 3)]
    for i, part in enumerate(parts):
        part["s"], part["d"] = f"{i}" + part["s"], f"{i}" + part["d"]
    return pd.concat(parts, ignore_index=True)


def intercept(data, *columns):
    labels = data[list(columns)].agg(":".join, axis=1).to_numpy(str)
    return Term(np.ones((len(data), 1)), labels)


def slope(data, column, *columns, alone=False):
    term = intercept(data, *columns)
    x = data[[column]].to_numpy()
    return Term(x if alone else np.hstack([term.Z, x]), term.groups)


def indicators(data, column, *columns):
    levels = np.unique(data[column])
    return Term(
        (data[[column]].to_numpy() == levels).astype(float), intercept(data, *columns).groups
    )


# name: data, random part of the formula, the same as dense terms in the order of theta
DESIGNS = {
    "intercepts": (frame, "(1 | s) + (1 | d)", lambda f: [intercept(f, "s"), intercept(f, "d")]),
    "slopes": (
        frame,
        "(1 + x | s) + (1 + z | d)",
        lambda f: [slope(f, "x", "s"), slope(f, "z", "d")],
    ),
    "weighted": (frame, "(1 | s) + (1 | d)", lambda f: [intercept(f, "s"), intercept(f, "d")]),
    "three": (
        frame,
        "(1 | s) + (1 | d) + (1 | dept:visit)",
        lambda f: [intercept(f, "s"), intercept(f, "dept", "visit"), intercept(f, "d")],
    ),
    "nested in the eliminated": (
        frame,
        "(1 | s/visit) + (1 + x | d)",
        lambda f: [intercept(f, "visit", "s"), intercept(f, "s"), slope(f, "x", "d")],
    ),
    "same factor twice": (
        frame,
        "(1 | s) + (1 | d) + (0 + x | d)",
        lambda f: [intercept(f, "s"), intercept(f, "d"), slope(f, "x", "d", alone=True)],
    ),
    "factor slopes": (
        frame,
        "(0 + A | s) + (1 | d)",
        lambda f: [indicators(f, "A", "s"), intercept(f, "d")],
    ),
    "islands": (
        islands,
        "(1 + x | s) + (1 | d)",
        lambda f: [slope(f, "x", "s"), intercept(f, "d")],
    ),
}
WEIGHTED = {"slopes", "three", "weighted"}


def jet_of_dense_terms(name, theta, layout, data, terms):
    """Of the REML criterion of a design at a theta of its layout, by n x n matrices."""
    w = data["w"].to_numpy() if name in WEIGHTED else np.ones(len(data))
    same = [term.groups[:, None] == term.groups for term in terms]

    def covariance(at):
        V = np.diag(1 / w)
        blocks = factor_blocks(at, layout.structures)
        for term, A, L, mask in zip(terms, layout.whiteners, blocks, same, strict=True):
            half = term.Z @ np.asarray(A) @ L
            V = V + half @ half.T * mask
        return V

    X = np.column_stack([np.ones(len(data)), data["x"]])
    return dense_jet(covariance, theta, X, data["y"].to_numpy(), reml=True)
