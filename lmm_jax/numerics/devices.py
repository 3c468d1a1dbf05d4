"""Numbers that depend on where JAX computes: measured on a processor, and on accelerators."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar, cast

import jax
import numpy as np

T = TypeVar("T")


def on_processor() -> bool:
    """Whether JAX computes on the processor, whose memory NumPy shares, and not on a GPU."""
    return jax.default_backend() == "cpu"


def to_host(tree: T) -> T:
    """A tree of arrays of JAX as arrays of NumPy.

    From an accelerator all at once; what lies in the memory of the host is only looked at, and
    ``jax.device_get`` would spend more on that than on waiting for a small program.
    """
    if on_processor():
        return cast(T, jax.tree.map(np.asarray, tree))
    return cast(T, jax.device_get(tree))


class ByDevice(NamedTuple, Generic[T]):
    """A size for each of them.

    Examples
    --------
    >>> import jax
    >>> size = ByDevice(processor=4, accelerator=1024)
    >>> size.here() == (4 if jax.default_backend() == "cpu" else 1024)
    True
    """

    processor: T
    accelerator: T

    def here(self) -> T:
        """The one of the device that JAX computes on."""
        return self.processor if on_processor() else self.accelerator
