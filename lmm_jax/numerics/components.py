"""Connected components of a graph, by its edges."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph


def connected(left: np.ndarray, right: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """How many components n nodes have, and the component of each.

    Parameters
    ----------
    left, right : ndarray of int, shape (E,)
        Nodes that an edge connects.
    n : int

    Returns
    -------
    count : int
    label : ndarray of int, shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> connected(np.array([0, 0, 3]), np.array([1, 2, 4]), 5)
    (2, array([0, 0, 0, 1, 1], dtype=int32))
    """
    if _meet_in_one(left, right, n):
        return 1, np.zeros(n, dtype=np.int32)
    edges = np.ones(left.size, dtype=np.int8), (left, right)
    graph = scipy.sparse.coo_array(edges, shape=(n, n))
    count, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return int(count), label


def _meet_in_one(left: np.ndarray, right: np.ndarray, n: int) -> bool:
    """Whether one node meets the right end of every edge, as in a design of complete crossing.

    A graph takes ten times as long to make as this to see.
    """
    if not left.size:
        return False
    near, seen = np.zeros((2, n), dtype=bool)
    near[right[left == left[0]]] = True
    seen[left] = seen[right] = True
    return bool(near[right].all() and seen.all())
