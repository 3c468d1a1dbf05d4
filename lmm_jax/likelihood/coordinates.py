"""Parameters of the data in the coordinates of a layout, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..capabilities import require
from ..covariance.params import Params, check_blocks, check_shapes, real_array, unpack
from ..covariance.theta import stack_theta, theta_size
from ..errors import DataError
from ..inputs.arguments import instance
from ..layouts.contract import Layout
from ..numerics.linalg import psd_cholesky
from ..numerics.namespace import JAX, namespace


def whiten_factors(blocks: tuple[Array, ...], layout: Layout) -> tuple[Array, ...]:
    """Relative covariance factors of the data brought to the layout's coordinates.

    Of the terms: residual covariances come after them, and have none.
    """
    xp = namespace(blocks, layout.S0)
    return tuple(
        xp.solve_triangular(A, block, lower=True)
        for A, block in zip(layout.whiteners, blocks, strict=False)
    )


def theta_of(blocks: Sequence[Array], layout: Layout) -> Array:
    """The layout's theta, (m,), of relative covariances of the data, (k, k) a term."""
    return stack_theta(whiten_factors(tuple(psd_cholesky(block) for block in blocks), layout))


def inverse_whiteners(layout: Layout) -> tuple[Array, ...]:
    """``A_t^-1`` of every term, (k, k)."""
    xp = namespace(layout.S0)
    return whiten_factors(tuple(xp.eye(k, dtype=layout.S0.dtype) for k in layout.sizes), layout)


def inner_beta(beta: Array, layout: Layout) -> Array:
    """Fixed effects of the data in the layout's coordinates."""
    xp = namespace(beta, layout.S0)
    low = beta - layout.beta_shift - layout.beta_origin
    return xp.linalg.solve(layout.beta_map, low) / layout.y_scale


def outer_beta(beta: Array, layout: Layout) -> Array:
    """Fixed effects of the layout in the coordinates of the data."""
    return layout.beta_shift + layout.beta_origin + layout.y_scale * (layout.beta_map @ beta)


def correlated_sizes(layout: Layout) -> tuple[int, ...]:
    """Block sizes of ``cov_re``."""
    sizes = tuple(k for k in layout.sizes if k)  # residual covariances have no coefficients
    return sizes[: len(sizes) - layout.n_components]


def check_layout(layout: Layout) -> Layout:
    """A layout: what designs are compressed to.

    Where JAX computes in 32 bits one of 64, as designs give it out, is brought down to that.
    """
    where = "pass design.layout; " if hasattr(layout, "layout") else ""
    needed = f"{where}a layout (design.layout, or made by lmm.compress)"
    instance(layout, "layout", Layout, needed)
    return layout if namespace(layout) is not JAX else jax.tree.map(as_wide_as_jax, layout)


def as_wide_as_jax(array: Any) -> Any:
    """An array of JAX with 64 bits as one of 32 where JAX computes in these."""
    if isinstance(array, jax.Array) and array.dtype == np.float64:
        widest = jax.dtypes.canonicalize_dtype(np.float64)
        return array if widest == np.float64 else array.astype(widest)
    return array


def check_theta(theta: Any, layout: Layout) -> Array:
    """Theta as an array of the length that the layout's terms need."""
    array = real_array(theta, "theta")
    m = theta_size(layout.structures)
    if array.shape != (m,):
        raise DataError(
            f"theta has the shape {array.shape}: ({m},) is needed, {_parts_of_theta(layout)}"
        )
    return _given(array, layout)


def _given(values: Any, layout: Layout) -> Any:
    """Arrays as the layout takes them: of JAX, or of NumPy where that alone works it off."""
    values = jax.tree.map(as_wide_as_jax, values)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))
    return jax.tree.map(np.asarray if layout.on_host and not traced else jnp.asarray, values)


def _parts_of_theta(layout: Layout) -> str:
    """What theta is made of, in words."""
    terms, parts = [s for s in layout.structures if s.k], []
    if terms:
        sizes = ", ".join(str(s.k) for s in terms)
        own = [s for s in terms if not s.unrestricted][:1]
        its = "".join(f", of {s.spelled('x | g')} its {s.n_params} parameters" for s in own)
        parts.append(f"the lower triangles of terms with {sizes} coefficients{its}")
    if len(terms) < len(layout.structures):
        n = theta_size([s for s in layout.structures if not s.k])
        parts.append(f"{n} parameters of the residual covariance")
    return ", then ".join(parts)


def check_params(params: Any, layout: Layout, *, with_fe: bool, what: str = "params") -> Params:
    """Parameters of the shapes that the layout needs; without ``with_fe`` beta may be any."""
    require(layout, "functions of Params")
    instance(params, what, Params, "a Params")
    p = layout.beta_origin.size if with_fe else None
    sizes = correlated_sizes(layout)
    read = check_shapes(params, sizes, p, layout.n_components, what)
    return _given(check_blocks(read, sizes, what), layout)


def as_params(
    params: Params | Array, layout: Layout, *, with_fe: bool, sqrt: bool = False
) -> Params:
    """Read a packed vector; a ``Params`` goes through."""
    if isinstance(params, Params):
        return check_params(params, layout, with_fe=with_fe)
    require(layout, "functions of Params")
    k_fe = layout.beta_origin.size if with_fe else 0
    read = unpack(params, correlated_sizes(layout), k_fe, layout.n_components, sqrt=sqrt)
    return _given(read, layout)


def relative_blocks(params: Params, layout: Layout) -> tuple[Array, ...]:
    """Psi of every term in the layout's coordinates."""
    pairs = zip(inverse_whiteners(layout), covariance_blocks(params, layout), strict=True)
    return tuple(Ai @ block @ Ai.T for Ai, block in pairs)


def covariance_blocks(params: Params, layout: Layout) -> tuple[Array, ...]:
    """Relative covariance of every term, (k, k)."""
    blocks = []
    offset = 0
    for k in correlated_sizes(layout):
        blocks.append(params.cov_re[offset : offset + k, offset : offset + k])
        offset += k
    return (*blocks, *(params.vcomp[i].reshape(1, 1) for i in range(layout.n_components)))
