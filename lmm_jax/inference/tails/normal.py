"""Survival functions of the largest of several correlated standard normal variables.

Each function here returns ``H(x) = P(max_i |Z_i| > x)`` (or of ``max_i Z_i``) as a function
of an array x. All are sums of positive terms: the far tail keeps its digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

Tail = Callable[[np.ndarray], np.ndarray]

# Where the normal density has fallen below the rounding of a sum of order one.
_REACH = 8.5
# Step of the trapezoidal rule in units of the narrowest Gaussian of the integrand: the rule's
# error is exp(-2 pi^2 / step^2), here 3e-18 (Trefethen & Weideman 2014, doi:10.1137/130932132).
_STEP = 0.7
# Spread of a product correlation's own parts below which the quadrature would need thousands of
# nodes; the general integration does not mind.
_NARROW = 0.02
# Polynomials of this degree stand for log H on stretches of this width, out to where a tail leaves
# the range of floats.
_DEGREE, _WIDTH, _STRETCHES = 22, 0.25, 156
# Correlations of product form come from standard errors with rounding of this order.
_PRODUCT_TOL = 1e-8


def range_tail(means: float) -> Tail:
    """Range of k independent normals over sqrt(2): all differences of balanced means.

        H(x) = k int phi(z) {Phi(z)^(k-1) - [Phi(z) - Phi(z - w)]^(k-1)} dz,   w = sqrt(2) x

    which is Tukey's studentized range at infinite degrees of freedom.

    Parameters
    ----------
    means : float
        Number k of means, at least 2. The formula has a meaning for a k that is not whole.

    Returns
    -------
    callable
        H, for an array of x >= 0 of any shape.

    References
    ----------
    Copenhaver & Holland (1988), doi:10.1080/00949658808811082.

    Examples
    --------
    >>> H = range_tail(3)
    >>> float(H(np.array([3.314493 / np.sqrt(2)])).round(6)[0])  # the table's 5 % value
    0.05
    """
    step = _STEP / 4  # the peak is as narrow as 1 / sqrt(2), and high powers of Phi are steep
    reach = np.ceil(_REACH / step)
    offset = np.arange(-reach, reach + 1) * step

    def tail(x: np.ndarray) -> np.ndarray:
        w = np.sqrt(2.0) * np.asarray(x)[..., None]
        z = w / 2 + offset  # in the far tail the integrand peaks at w / 2
        below = special.ndtr(z)
        with np.errstate(divide="ignore"):  # w = 0: log1p(-1)
            part = np.minimum(special.ndtr(z - w) / below, 1.0)
            lost = -np.expm1((means - 1) * np.log1p(-part))
        return means * step * np.sum(_density(z) * below ** (means - 1) * lost, axis=-1)

    return tail


def tabulated(tail: Tail, *, smooth: bool = True) -> Tail:
    """A tail of x >= 0 that costs a few products at every x, to 1e-11 relative.

    Polynomials stand for its logarithm, one a stretch of x. ``smooth`` says whether it has all
    derivatives at zero; that of the range of k means has ``x^(k - 1)`` there.

    Examples
    --------
    >>> H, x = range_tail(20), np.array([0.1, 2.0, 30.0])
    >>> bool(np.allclose(tabulated(H)(x), H(x), rtol=1e-12, atol=0))
    True
    """
    n = _DEGREE + 1
    angle = (np.arange(n) + 0.5) * np.pi / n
    stretches = np.arange(_STRETCHES)
    x = _WIDTH * (stretches + 0.5 * (np.cos(angle)[:, None] + 1.0))
    with np.errstate(divide="ignore"):
        values = np.log(tail(x))
    last = int(np.argmin(np.isfinite(values).all(axis=0))) or _STRETCHES
    basis = np.cos(np.arange(n)[:, None] * angle) * (2.0 / n)
    basis[0] *= 0.5
    coefficients = basis @ values[:, :last]  # of Chebyshev's polynomials, a column a stretch
    start, end = _WIDTH * (not smooth), _WIDTH * last

    def table(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        inside = np.clip(x / _WIDTH, 0.0, last - 0.5)
        place = inside.astype(np.int64)
        at = 2.0 * (inside - place) - 1.0
        after, before = np.zeros_like(at), np.zeros_like(at)  # Clenshaw's recurrence
        for own in coefficients[:0:-1]:
            after, before = own[place] + 2.0 * at * after - before, after
        out = np.minimum(np.exp(coefficients[0][place] + at * after - before), 1.0)
        beyond = (x < start) | (x > end)
        if beyond.any():
            out[beyond] = tail(x[beyond])
        return out

    return table


def product_tail(loadings: np.ndarray, *, two_sided: bool) -> Tail:
    """Largest of normals with correlations ``lambda_i lambda_j``: comparisons with a control.

        H(x) = int phi(w) {1 - prod_i [1 - q_i(w)]} dw,
        q_i(w) = Q((x - lambda_i w) / tau_i) [+ Q((x + lambda_i w) / tau_i)]

    with ``Q = 1 - Phi`` and ``tau_i^2 = 1 - lambda_i^2``; the second term if two sided.

    Parameters
    ----------
    loadings : ndarray, shape (m,)
        The lambda_i, all less than 1 in size.
    two_sided : bool
        Of ``max |Z_i|`` or of ``max Z_i``.

    Returns
    -------
    callable
        H, for an array of x of any shape.

    References
    ----------
    Dunnett & Sobel (1955), doi:10.1093/biomet/42.1-2.258.

    Examples
    --------
    >>> H = product_tail(np.sqrt([0.5, 0.5]), two_sided=True)
    >>> float(H(np.array([2.212])).round(4)[0])  # Dunnett's 5 % value, two treatments
    0.05
    """
    lone, count = np.unique(np.abs(loadings) if two_sided else loadings, return_counts=True)
    spread = np.sqrt(1.0 - lone**2)
    step = _STEP * min(0.5, float(spread.min()))

    def tail(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)[..., None]
        # Given Z_i = x the common part lies around lambda_i x.
        far = _REACH + float(np.abs(lone).max()) * float(np.abs(x).max(initial=0.0))
        reach = np.ceil(far / step)
        w = np.arange(0.0 if two_sided else -reach, reach + 1) * step
        weight = _density(w) * step
        if two_sided:  # the integrand is even
            weight[1:] *= 2.0
        kept = np.zeros(np.broadcast_shapes(x.shape, w.shape))
        with np.errstate(divide="ignore"):  # x = 0: log1p(-1)
            for part, own, number in zip(lone, spread, count, strict=True):
                over = special.ndtr((part * w - x) / own)
                if two_sided:
                    over += special.ndtr((-part * w - x) / own)
                kept += number * np.log1p(-np.minimum(over, 1.0))
        return -np.expm1(kept) @ weight

    return tail


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)


def product_loadings(correlation: np.ndarray) -> np.ndarray | None:
    """The lambda of a correlation ``lambda_i lambda_j`` off the diagonal, if it is one.

    Parameters
    ----------
    correlation : ndarray, shape (m, m)

    Returns
    -------
    ndarray, shape (m,), or None
        None also where a lambda is too close to 1 for `product_tail`.

    Examples
    --------
    >>> product_loadings(np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]])).round(4)
    array([0.7071, 0.7071, 0.7071])
    """
    off = correlation - np.diag(np.diagonal(correlation))
    size = np.abs(off)
    if not off.size or size.max() <= _PRODUCT_TOL:
        return np.zeros(len(off))
    j, k = np.unravel_index(size.argmax(), off.shape)
    third = size[j] * size[k]  # a third variable that is far from independent of both
    third[[j, k]] = 0.0
    i = third.argmax()
    square = off[j, k] * off[j, i] / off[k, i] if third[i] > _PRODUCT_TOL else size[j, k]
    if square <= 0:
        return None
    loadings = off[j] / np.sqrt(square)
    loadings[j] = np.sqrt(square)
    product = np.outer(loadings, loadings)
    np.fill_diagonal(product, 0.0)
    fits = np.abs(product - off).max() <= _PRODUCT_TOL
    wide = np.abs(loadings).max() <= np.sqrt(1.0 - _NARROW**2)
    return loadings if fits and wide else None
