"""Random variates of replicates, each of which depends on the seed and on its own number alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Replicates that share a generator: one for each of them would take longer than small draws.
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Stream:
    """Variates by a counter: NumPy's Philox generator, a stretch of its numbers for every block.

    Examples
    --------
    >>> import numpy as np
    >>> stream = Stream(1)
    >>> z, _ = stream.variates(np.arange(40), 2, np.zeros(1))
    >>> again, _ = stream.variates(np.arange(30, 33), 2, np.zeros(1))
    >>> bool((z[30:33] == again).all())
    True
    """

    seed: int
    branch: tuple[int, ...] = ()  # streams of one seed that have nothing to do with one another

    def variates(
        self, index: np.ndarray, count: int, df: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Standard normal and chi-square variates.

        Parameters
        ----------
        index : ndarray of int, shape (R,)
            Numbers of the replicates, one after another.
        count : int
            Normal variates of each.
        df : ndarray, shape (D,)
            Degrees of freedom; a variate is 0 where they are.

        Returns
        -------
        normal : ndarray, shape (R, count)
        squares : ndarray, shape (R, D)
        """
        entropy = np.random.SeedSequence(self.seed, spawn_key=self.branch)
        key = entropy.generate_state(2, np.uint64)
        some = df > 0
        first, last = int(index[0]) // _BLOCK, int(index[-1]) // _BLOCK
        blocks = range(first, last + 1)
        z = np.empty((len(blocks), _BLOCK, count))
        squares = np.zeros((len(blocks), _BLOCK, df.size))
        for at, block in enumerate(blocks):
            own = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, block]))
            own.standard_normal(out=z[at])
            squares[at, :, some] = own.chisquare(df[some], (_BLOCK, int(some.sum()))).T
        rows = slice(int(index[0]) - first * _BLOCK, int(index[-1]) + 1 - first * _BLOCK)
        R = len(blocks) * _BLOCK
        return z.reshape(R, count)[rows], squares.reshape(R, df.size)[rows]
