"""Components of graphs, against SciPy's own and by hand."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from lmm_jax.numerics.components import connected

CROSSED = np.divmod(np.arange(12), 4)  # 3 levels by 4
EDGES = {
    "complete": (CROSSED[0], 3 + CROSSED[1], 7),
    "a cell is empty": (CROSSED[0][1:], 3 + CROSSED[1][1:], 7),
    "a node apart": (CROSSED[0], 3 + CROSSED[1], 8),
    "two parts": (np.array([0, 0, 1]), np.array([2, 3, 4]), 5),
    "a chain": (np.arange(5), np.arange(1, 6), 6),
    "nothing": (np.zeros(0, int), np.zeros(0, int), 3),
    "one node": (np.array([0]), np.array([0]), 1),
}


@pytest.mark.parametrize("name", EDGES)
def test_components_are_those_of_scipy(name):
    left, right, n = EDGES[name]
    graph = scipy.sparse.coo_array((np.ones(left.size), (left, right)), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    assert connected(left, right, n)[0] == count
    np.testing.assert_array_equal(connected(left, right, n)[1], label)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    n, edges = rng.integers(2, 12), rng.integers(1, 40)
    left, right = rng.integers(0, n // 2, edges), rng.integers(n // 2, n, edges)
    graph = scipy.sparse.coo_array((np.ones(edges), (left, right)), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    found = connected(left, right, n)
    assert found[0] == count
    np.testing.assert_array_equal(found[1], label)
