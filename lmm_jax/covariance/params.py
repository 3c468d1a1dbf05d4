"""Parameters of a mixed model as a pytree, and their packed vector.

Three parameterizations are in use:

- user: covariances of the data;
- profile: divided by the residual variance, which is profiled out of the likelihood;
- square root: Cholesky factor of the profile covariance, square roots of the components.

A :class:`Params` holds profile values; :func:`pack` writes profile or square-root
vectors, and :meth:`Params.rescaled` multiplies by a residual variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..errors import DataError
from ..inputs.arguments import flag, hinted, instance, items, number, numbers, shown, whole_number
from ..numerics.linalg import psd_cholesky
from ..numerics.namespace import namespace
from ..numerics.processes import check_process
from ..reprs import brief, public

# Coefficients per level that a term can have at all.
_MOST_COEFFICIENTS = 2**15
# Negative eigenvalues of a covariance up to this, relative to the largest, are rounding.
_NEGATIVE_TOL = 1e-10
# Bytes of the shortest numbers that linear algebra has.
_LEAST_BYTES = 4


class Names(NamedTuple):
    """By which names parameters were given; None for what has the order of a design."""

    fixed: tuple[str, ...] | None
    terms: tuple[tuple[str, int, tuple[str, ...]], ...] | None  # sizes, coefficients of a frame
    components: tuple[str, ...] | None
    by_index: bool = False  # of a Series: functions of arrays take it as it is


@public
@hinted
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Params:
    """Parameters of a linear mixed model, a pytree.

    ``cov_re`` and ``vcomp`` are relative to the residual variance unless a
    function says otherwise; :meth:`from_components` fills in what is left out, and takes names.

    Examples
    --------
    >>> import numpy as np
    >>> p = Params.from_components(fe_params=np.zeros(2), cov_re=np.eye(2))
    >>> pack(p).shape, pack(p, with_fe=False).shape
    ((5,), (3,))
    """

    fe_params: Array  # (p,)      fixed effects
    cov_re: Array  # (k_re, k_re)  covariance of the correlated terms, block diagonal
    vcomp: Array  # (k_vc,)    variances of the components
    names: Names | None = field(default=None, repr=False, metadata={"static": True})

    __repr__ = brief

    @staticmethod
    def from_components(
        fe_params: Any = None, cov_re: Any = None, cov_re_sqrt: Any = None, vcomp: Any = None
    ) -> Params:
        """Parameters from a covariance or from its lower triangular square root.

        Parameters
        ----------
        fe_params : array, shape (p,), mapping or Series, optional
            In the order of the columns, or by their names; those of a Series are its index.
        cov_re : array, shape (k_re, k_re), or mapping, optional
            Block diagonal, term after term in the order of a design, which depends on the numbers
            of levels; or the variance, or covariance (k, k), of every term by the name of its
            grouping factor or as the formula has it, ``"x | g"``. Names are for
            :func:`lmm_jax.simulate`, :func:`lmm_jax.power` and ``start_params=``; functions of
            arrays take what :meth:`Design.ordered` makes of them.
        cov_re_sqrt : array, shape (k_re, k_re), optional
            ``L`` with ``cov_re = L L'``; instead of ``cov_re``.
        vcomp : array, shape (k_vc,), or mapping, optional

        Raises
        ------
        DataError
            Both ``cov_re`` and ``cov_re_sqrt``, a matrix that is not square, or what
            is no array of real numbers.

        Examples
        --------
        >>> named = Params.from_components(cov_re={"item": 0.01, "subject": [[4, 1], [1, 2]]})
        >>> named.cov_re.shape
        (3, 3)
        """
        by_index = getattr(getattr(fe_params, "index", None), "inferred_type", "") == "string"
        fe_params, fixed = _by_name(dict(fe_params.items()) if by_index else fe_params, "fe_params")
        vcomp, components = _by_name(vcomp, "vcomp")
        cov_re, terms = _blocks_by_name(cov_re)
        named = (fixed, terms, components) != (None, None, None)
        by_index = by_index and (terms, components) == (None, None)
        if cov_re is not None and cov_re_sqrt is not None:
            raise DataError("give cov_re or cov_re_sqrt, not both")
        what = "cov_re" if cov_re_sqrt is None else "cov_re_sqrt"
        given = cov_re if cov_re_sqrt is None else cov_re_sqrt
        cov = real_array(np.zeros((0, 0)) if given is None else given, what)
        if cov.ndim != 2 or cov.shape[0] != cov.shape[1]:
            raise DataError(f"{what} has the shape {cov.shape}: a square matrix is needed")
        vectors = {"fe_params": fe_params, "vcomp": vcomp}
        read = {k: real_array(np.zeros(0) if v is None else v, k) for k, v in vectors.items()}
        for name, array in read.items():
            if array.ndim != 1:
                raise DataError(f"{name} has the shape {array.shape}: one dimension is needed")
        return Params(
            cov_re=cov if cov_re_sqrt is None else cov @ cov.T,
            names=Names(fixed, terms, components, by_index) if named else None,
            **read,
        )

    def rescaled(self, factor: Any) -> Params:
        """Covariances times ``factor``: the residual variance leads from profile to user."""
        if isinstance(factor, jax.Array | np.ndarray) and factor.shape == ():
            factor = real_array(factor, "factor")
        else:
            factor = number(factor, "factor")
        return replace(self, cov_re=self.cov_re * factor, vcomp=self.vcomp * factor)


def _by_name(given: Any, what: str) -> tuple[Any, tuple[str, ...] | None]:
    """Numbers and their names, of a mapping."""
    if not isinstance(given, Mapping):
        return given, None
    read = dict(_entries(given, what))
    wrong = [name for name, value in read.items() if np.ndim(value)]
    if wrong:
        raise DataError(f"{what}[{wrong[0]!r}] is an array: one number is needed")
    xp = namespace(*read.values())
    return xp.stack([xp.asarray(value) for value in read.values()]), tuple(read)


def _entries(given: Mapping[Any, Any], what: str) -> Iterator[tuple[str, Any]]:
    """Names as text, and numbers: all of them there, or arrays of JAX, which may have none yet."""
    seen = set[str]()
    for key, value in given.items():
        name = str(key)
        if name in seen:
            raise DataError(f"{what} has the name {name!r} twice")
        seen.add(name)
        read = real_array if isinstance(value, jax.Array) else numbers
        yield name, read(value, f"{what}[{name!r}]")


def _blocks_by_name(given: Any) -> tuple[Any, tuple[tuple[str, int, tuple[str, ...]], ...] | None]:
    """A block-diagonal matrix, and of its blocks names, sizes and coefficients, of a mapping."""
    if not isinstance(given, Mapping):
        return given, None
    blocks, terms = [], []
    for (name, block), value in zip(_entries(given, "cov_re"), given.values(), strict=True):
        block = block.reshape(1, 1) if np.ndim(block) == 0 else block
        if block.ndim != 2 or block.shape[0] != block.shape[1]:
            raise DataError(
                f"cov_re[{name!r}] has the shape {block.shape}: a variance or a square matrix is "
                "needed"
            )
        named = getattr(getattr(value, "columns", None), "inferred_type", "") == "string"
        if named and list(value.index) != list(value.columns):
            raise DataError(f"cov_re[{name!r}] has other names of rows than of columns")
        blocks.append(block)
        terms.append((name, len(block), tuple(value.columns) if named else ()))
    return (namespace(*blocks).block_diag(*blocks) if blocks else None), tuple(terms)


def real_array(values: Any, what: str) -> Any:
    """Arrays of floats and tracers as they are, NumPy arrays of everything else."""
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if isinstance(values, jax.Array):
        if jnp.issubdtype(values.dtype, jnp.floating):
            if values.dtype.itemsize < _LEAST_BYTES:
                raise DataError(f"{what} is an array of {values.dtype}: float32 is the least")
            return values
        if kind not in ("i", "u", "b"):
            raise DataError(f"{what} is an array of {values.dtype}: real numbers are needed")
        return values.astype(float)
    if isinstance(values, np.ndarray) and kind == "f":
        return values
    return numbers(values, what, finite=False)


def check_shapes(
    params: Any, sizes: Sequence[int], n_fixed: int | None, n_components: int, what: str
) -> Params:
    """Parameters of the shapes that a model needs.

    Shapes are static, so that this works while a program is traced.

    Parameters
    ----------
    params : Params
    sizes : sequence of int
        Block sizes of ``cov_re``.
    n_fixed : int or None
        Fixed effects; None where those of ``params`` are not looked at.
    n_components : int
    what : str
        Name of the argument.

    Returns
    -------
    Params
        The same, its leaves as arrays.

    Raises
    ------
    DataError
        With the shapes that were got and those that are needed.
    """
    _check_unnamed(params, what)
    leaves = [(name, getattr(params, name)) for name in ("fe_params", "cov_re", "vcomp")]
    arrays = {name: real_array(leaf, f"{what}.{name}") for name, leaf in leaves}
    k = sum(sizes)
    fixed = arrays["fe_params"].shape if n_fixed is None else (n_fixed,)
    needed = {"fe_params": fixed, "cov_re": (k, k), "vcomp": (n_components,)}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    wrong = [name for name in needed if found[name] != needed[name]]
    if wrong:
        raise DataError(
            f"{what} has {_listed(wrong, found)}: {_listed(wrong, needed)} is needed (fe_params "
            "the fixed effects, cov_re the covariance of the correlated terms, vcomp the "
            "components)"
        )
    return Params(**arrays)


def check_blocks(params: Params, sizes: Sequence[int], what: str) -> Params:
    """Refuse a covariance between coefficients of two terms, which no model has.

    Of arrays of NumPy alone, whose values are there.
    """
    if not isinstance(params.cov_re, np.ndarray):
        return params
    term = np.repeat(np.arange(len(sizes)), sizes)
    between = params.cov_re[term[:, None] != term]
    if np.any(between != 0):
        raise DataError(
            f"{what}.cov_re has {between[between != 0][0]:g} between two terms, which have "
            f"{tuple(sizes)} coefficients: it is block diagonal"
        )
    return params


def _check_unnamed(params: Params, what: str) -> None:
    """Refuse names where there is no design to say their order."""
    if params.names is not None and not params.names.by_index:
        raise DataError(f"{what} has names: {what}=design.ordered({what}) has the design's order")


def _listed(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} of shape {shapes[name]}" for name in names)


def check_covariance(S: np.ndarray, what: str) -> np.ndarray:
    """A covariance: finite, symmetric, without negative eigenvalues (singular ones pass)."""
    S = np.asarray(S, dtype=np.float64)
    if not np.isfinite(S).all() or not np.allclose(S, S.T, rtol=1e-8, atol=0.0):
        raise DataError(f"{what}={shown(S.tolist())}: a covariance must be finite and symmetric")
    e = np.linalg.eigvalsh(S) if S.size else np.zeros(1)
    if e[0] < -_NEGATIVE_TOL * max(abs(e[-1]), np.finfo(float).tiny):
        raise DataError(f"{what}: a covariance cannot have the negative eigenvalue {e[0]:.3g}")
    return S


def cov_indices(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Entries of ``cov_re`` that are parameters: lower triangles of the blocks, row by row."""
    rows, columns = [np.zeros(0, int)], [np.zeros(0, int)]
    offset = 0
    for k in sizes:
        i, j = np.tril_indices(k)
        rows.append(offset + i)
        columns.append(offset + j)
        offset += k
    return np.concatenate(rows), np.concatenate(columns)


@hinted
def pack(
    params: Params,
    sizes: Sequence[int] | None = None,
    *,
    with_fe: bool = True,
    sqrt: bool = False,
) -> Array:
    """Flat vector: fixed effects, lower triangle of ``cov_re`` row by row, components.

    Parameters
    ----------
    params : Params
        Profile parameterization.
    sizes : sequence of int, optional
        Block sizes of ``cov_re``; one block if not given.
    with_fe : bool
        Whether the fixed effects come first.
    sqrt : bool
        Square-root parameterization: the Cholesky factor of ``cov_re`` and the
        square roots of ``vcomp``.

    Returns
    -------
    Array, shape (p + n_cov + k_vc,)
    """
    check_process()
    instance(params, "params", Params, "a Params")
    _check_unnamed(params, "params")
    with_fe, sqrt = flag(with_fe, "with_fe"), flag(sqrt, "sqrt")
    sizes = _block_sizes(params, sizes)
    cov, vcomp = jnp.asarray(params.cov_re), jnp.asarray(params.vcomp)
    if sqrt:
        cov, vcomp = psd_cholesky(cov) if cov.size else cov, jnp.sqrt(vcomp)
    parts = [jnp.asarray(params.fe_params)] if with_fe else []
    return jnp.concatenate([*parts, cov[cov_indices(sizes)], vcomp])


@hinted
def unpack(
    vector: Any, sizes: Sequence[int], k_fe: int, k_vc: int | None = None, *, sqrt: bool = False
) -> Params:
    """Inverse of :func:`pack`.

    Parameters
    ----------
    vector : Array, shape (k_fe + n_cov + k_vc,)
    sizes : sequence of int
        Block sizes of ``cov_re``.
    k_fe : int
        Fixed effects at the start of the vector; 0 for a vector without them.
    k_vc : int, optional
        Number of components, to check the length.
    sqrt : bool
        The vector is in the square-root parameterization.

    Returns
    -------
    Params
        Profile parameterization.

    Raises
    ------
    DataError
        The vector has another length.
    """
    check_process()
    vector = jnp.asarray(real_array(vector, "vector"))
    sizes = _read_sizes(sizes)
    k_fe = whole_number(k_fe, "k_fe")
    k_vc = None if k_vc is None else whole_number(k_vc, "k_vc")
    sqrt = flag(sqrt, "sqrt")
    rows = cov_indices(sizes)[0]
    cut = k_fe + rows.size
    if vector.ndim != 1 or vector.size < cut or (k_vc is not None and vector.size != cut + k_vc):
        last = "the" if k_vc is None else k_vc
        parts = f"{k_fe} fixed effects, {rows.size} covariances and {last} components"
        raise DataError(f"a vector of {parts} is needed, not one of shape {vector.shape}")
    return unpack_array(vector, sizes, k_fe, sqrt=sqrt)


def unpack_array(vector: Any, sizes: Sequence[int], k_fe: int, *, sqrt: bool = False) -> Params:
    """:func:`unpack` of an array of the right length, in NumPy or JAX."""
    xp, (rows, columns) = namespace(vector), cov_indices(sizes)
    k, cut = sum(sizes), k_fe + rows.size
    lower, vcomp = vector[k_fe:cut], vector[cut:]
    cov = xp.at(xp.zeros((k, k), vector.dtype))[rows, columns].set(lower)
    if sqrt:
        cov, vcomp = cov @ cov.T, vcomp**2
    else:
        cov = xp.at(cov)[columns, rows].set(lower)
    return Params(fe_params=vector[:k_fe], cov_re=cov, vcomp=vcomp)


def _block_sizes(params: Params, sizes: Sequence[int] | None) -> Sequence[int]:
    k = params.cov_re.shape[0]
    sizes = ((k,) if k else ()) if sizes is None else _read_sizes(sizes)
    if sum(sizes) != k:
        raise DataError(f"block sizes {tuple(sizes)} do not add up to the {k} rows of cov_re")
    return sizes


def _read_sizes(sizes: Any) -> tuple[int, ...]:
    """Block sizes of ``cov_re``."""
    given = items(sizes, "sizes", "a list of the block sizes of cov_re is needed")
    return tuple(whole_number(size, "sizes", least=1, most=_MOST_COEFFICIENTS) for size in given)
