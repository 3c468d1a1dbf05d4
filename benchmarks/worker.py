"""The Python worker: one problem, one system, a process of its own.

    python benchmarks/worker.py FOLDER SYSTEM RUNS LONG [--ml]

Prints a line of JSON once the data are loaded and one for every call, the first of which is
the warm-up. No further call is made after one of more than LONG seconds; ``--ml`` adds the
unrestricted criterion, outside of every measurement.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from fits import FITS, ours_ml


class Compilations:
    """Programs that JAX compiled and the seconds it took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def listen(self) -> None:
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self.seconds.append(duration)


def peak_mb() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def version(system: str) -> str:
    """Version of a system, and of JAX with this library."""
    package = system.rsplit("-", 1)[0]
    if package == "lmm_jax":
        return f"{metadata.version('lmm-jax')}, jax {metadata.version('jax')}"
    return metadata.version(package)


def say(**report: Any) -> None:
    print(json.dumps(report), flush=True)


def main() -> None:
    folder, system, runs, long = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    warnings.simplefilter("ignore")
    compilations = Compilations()
    if system.startswith("lmm_jax"):
        compilations.listen()
    call, size = FITS[system](folder)
    say(loaded=True, version=version(system), input_mb=size / 2**20, start_mb=peak_mb())
    for _ in range(runs + 1):
        before = len(compilations.seconds)
        start, cpu = time.perf_counter(), time.process_time()
        outcome = call()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        new = compilations.seconds[before:]
        memory = {"peak_mb": peak_mb(), "programs": len(new), "compile_s": sum(new)}
        say(seconds=seconds, cpu_s=cpu, **memory, **outcome._asdict())
        if seconds > float(long):
            break
    if "--ml" in sys.argv:
        say(criterion_ml=ours_ml(folder))


if __name__ == "__main__":
    main()
