"""Responses with all of their rows, compressed: what drawn responses are tested against."""

import jax
import jax.numpy as jnp
import numpy as np

from lmm_jax.layouts.compress import compress
from lmm_jax.layouts.crossed.layout import CrossedLayout
from lmm_jax.layouts.moments import MomentLayout, equal_groups
from lmm_jax.layouts.response import Response

AT_A_TIME = 250  # responses compressed in one program


def padded(values, rows):
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]))])


def compress_rows(design, base, Y):
    """Responses (rows, R) in the form of ``base``, and where their beta is measured from."""
    rows = design.plan.index.n_rows
    X, w = design.exog, np.ones(design.nobs) if design.weights is None else design.weights
    Y = Y if design.offset is None else Y - design.offset[:, None]
    if design.held is not None:
        fixed = ~np.isnan(design.held)
        Y, X = Y - (X[:, fixed] @ design.held[fixed])[:, None], X[:, ~fixed]
    Z = tuple(padded(term.values, rows) for term in design.terms)

    def one(y):
        at = compress(y, padded(X, rows), Z, padded(w, rows), design.plan.index)
        unit = at.y_scale
        c = [bucket.c[:, -1] * unit for bucket in at.buckets]
        S0 = jnp.append(at.S0[-1, :-1] * unit, at.S0[-1, -1] * unit**2)
        core = None
        if isinstance(at, CrossedLayout):
            core = (at.core.s[:, -1] * unit, at.core.origin[:, 0] * unit)
        return Response(y=tuple(c), S0=S0, core=core), at.beta_origin + at.beta_shift

    many = jax.jit(jax.vmap(one))
    parts = [many(padded(Y[:, i : i + AT_A_TIME], rows).T) for i in range(0, Y.shape[1], AT_A_TIME)]
    responses, origin = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return responses._replace(y=in_form(design.layout, base, responses.y)), origin


def in_form(layout, base, rows):
    """c_y of all groups as the groups that ``base`` keeps, or as sums of products."""
    out = []
    for bucket, c_y in zip(layout.buckets, rows, strict=True):
        T, c = np.asarray(bucket.T), np.asarray(bucket.c)
        if isinstance(base, CrossedLayout):
            out.append(c_y)
        elif isinstance(base, MomentLayout):
            classes = equal_groups(bucket)
            q, C, _ = c.shape
            B = np.zeros((len(c_y), q, C, q, classes.padded))
            for d in range(classes.first.size):
                at = classes.members(d)
                B[:, :, :-1, :, d] = np.einsum("rag,nsg->nras", c[:, :-1, at], c_y[:, :, at])
                B[:, :, -1, :, d] = np.einsum("nrg,nsg->nrs", c_y[:, :, at], c_y[:, :, at])
            out.append(B)
        else:
            there = np.flatnonzero(np.any(T != 0, axis=(0, 1)))
            kept = base.buckets[len(out)].T.shape[2]
            out.append(padded(c_y[:, :, there].T, kept).T)
    return tuple(out)
