"""How long a call takes, in units of another that does what it cannot do without.

Seconds differ tenfold between machines and between hours of one; two calls in turns feel the same
machine.
"""

from collections.abc import Callable
from time import process_time


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call, of all its threads."""
    start = process_time()
    call()
    return process_time() - start


def ratio(ours: Callable[[], object], yardstick: Callable[[], object], turns: int = 5) -> float:
    """The least seconds of `ours` over the least of `yardstick`."""
    pairs = [(seconds(ours), seconds(yardstick)) for _ in range(turns)]
    return min(first for first, _ in pairs) / min(second for _, second in pairs)
