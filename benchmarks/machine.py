"""The machine, and the environment in which every worker runs."""

from __future__ import annotations

import os
import platform
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"  # the numbers, and pages of them

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "NUMEXPR_NUM_THREADS",
)

# how a process is told where to keep compiled programs ({folder} is filled in), and to keep none
CACHE_VARIABLES = {
    "JAX_COMPILATION_CACHE_DIR": "{folder}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
NO_CACHE: dict[str, str] = {}


def worker_environment(threads: int, cache: str | None = None) -> dict[str, str]:
    """The caller's environment with so many threads in every library, and a cache or none."""
    environment = {k: v for k, v in os.environ.items() if k not in CACHE_VARIABLES}
    if cache is None:
        environment |= NO_CACHE
    else:
        environment |= {key: text.format(folder=cache) for key, text in CACHE_VARIABLES.items()}
    environment |= {name: str(threads) for name in THREAD_VARIABLES}
    if threads == 1:  # XLA has a flag instead of a number
        flags = (environment.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false")
        environment["XLA_FLAGS"] = " ".join(flags).strip()
    return environment


def cpu_model() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_gb() -> float:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def machine() -> dict[str, str | int | float]:
    """What a stored time depends on."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(memory_gb(), 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def in_words(found: dict[str, str | int | float]) -> str:
    """A sentence of what :func:`machine` has found."""
    return (
        f"Measured on {found['cpu']} with {found['cores']} cores and {found['memory_gb']:g} GB of "
        f"memory, under {found['system']}, with Python {found['python']}."
    )
