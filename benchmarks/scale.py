"""Many rows in Parquet files, summed up and fitted by every engine that is installed.

    python benchmarks/scale.py [--rows 10000000 100000000] [--groups 1000000] [--engines ...]
        [--memory 64]

Every call runs in a process of its own, with two threads for the library that reads. Peak memory
is that of the process that asks; workers of Dask, Spark and Ray have theirs besides. Writes
``docs/benchmarks/scale.json`` and ``scale.md``; a run replaces what it measures again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, in_words, machine, worker_environment
from measure import Limits, run_worker

FORMULA = "y ~ x + (1 | g)"
_FILE = 2_000_000  # rows of a file


# ------------------------------------------------------------ engines


@contextmanager
def parquet(folder: str) -> Iterator[Any]:
    yield f"{folder}/*.parquet"


@contextmanager
def pyarrow(folder: str) -> Iterator[Any]:
    from pyarrow import dataset

    yield dataset.dataset(folder)


@contextmanager
def polars(folder: str) -> Iterator[Any]:
    import polars

    yield polars.scan_parquet(f"{folder}/*.parquet")


@contextmanager
def duckdb(folder: str) -> Iterator[Any]:
    import duckdb

    yield duckdb.sql(f"select * from '{folder}/*.parquet'")


@contextmanager
def dask(folder: str) -> Iterator[Any]:
    import dask.dataframe
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as processes,
        Client(processes),
    ):
        yield dask.dataframe.read_parquet(folder)


@contextmanager
def spark(folder: str) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False)
    session = builder.config("spark.driver.memory", "4g").getOrCreate()
    yield session.read.parquet(folder)
    session.stop()


@contextmanager
def ray(folder: str) -> Iterator[Any]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.data.read_parquet(folder)
    ray.shutdown()


@contextmanager
def pandas(folder: str) -> Iterator[Any]:
    import pandas

    yield partial(pandas.read_parquet, folder)


ENGINES: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "parquet": ("duckdb", "pattern of Parquet files, `GROUP BY` of DuckDB", parquet),
    "duckdb": ("duckdb", "relation of DuckDB, `GROUP BY`", duckdb),
    "pyarrow": ("pyarrow", "dataset of pyarrow, or a pattern without DuckDB, in batches", pyarrow),
    "polars": ("polars", "lazy frame of polars, in batches", polars),
    "dask": ("distributed", "Dask, two processes", dask),
    "spark": ("pyspark", "Spark, `local[2]`, `GROUP BY`", spark),
    "ray": ("ray", "Ray, two processors", ray),
    "pandas": ("pandas", "pandas, all rows in memory", pandas),
}


def work(engine: str, folder: str) -> None:
    """Sums, or rows in memory, and fit, reported in a line of JSON."""
    import lmm_jax as lmm

    with ENGINES[engine][2](folder) as data:
        start = time.perf_counter()
        held = data() if callable(data) else lmm.summarize(FORMULA, data)
        middle = time.perf_counter()
        result = lmm.fit(held) if isinstance(held, lmm.RowSums) else lmm.fit(FORMULA, held)
        end = time.perf_counter()
    found = {"sums_s": middle - start, "fit_s": end - middle, "nobs": int(result.nobs),
             "criterion": -2 * result.llf, "converged": bool(result.converged)}  # fmt: skip
    print(json.dumps(found), flush=True)


# ------------------------------------------------------------ the asker


def write_rows(folder: Path, rows: int, groups: int) -> None:
    """Files of rows in random order."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    rng = np.random.default_rng(0)
    effect = rng.normal(size=groups)
    for i, start in enumerate(range(0, rows, _FILE)):
        n = min(_FILE, rows - start)
        g, x = rng.integers(0, groups, n), rng.normal(size=n) + 3.0
        y = 10.0 + 0.5 * x + effect[g] + rng.normal(size=n)
        pq.write_table(pa.table({"y": y, "x": x, "g": g}), folder / f"{i:04d}.parquet")


def measure(engine: str, folder: Path, limits: Limits) -> dict[str, Any]:
    """What one engine takes."""
    call = [sys.executable, __file__, "--worker", engine, str(folder)]
    ended = run_worker(call, worker_environment(2), limits)
    if ended.over_time or not ended.lines:
        over = f"more than {limits.seconds:g} s"
        return {"failed": over if ended.over_time else ended.stderr.strip()[-300:]}
    return {**ended.lines[-1], "peak_mb": ended.peak_mb}


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "# Many rows",
        "",
        f"`{FORMULA}`, rows in random order in Parquet files of {_FILE:,} rows. One call in a "
        "process of its own; memory is that of the process that asks, with interpreter and imports;"
        " workers of Dask, Spark and Ray have theirs besides. pandas reads the rows in the place of"
        " sums, and fits them. [From a laptop to a cluster](../scale.md) says what each engine "
        "does.",
        "",
        in_words(report["machine"]),
        "",
        "| rows | groups | engine | sums, s | fit, s | peak, MB |",
        "|" + "---|" * 6,
    ]
    for run in report["runs"]:
        head = f"| {run['rows']:,} | {run['groups']:,} | {ENGINES[run['engine']][1]} "
        if "failed" in run:
            lines.append(f"{head}| {run['failed'].splitlines()[-1]} | | |")
        else:
            lines.append(
                f"{head}| {run['sums_s']:.1f} | {run['fit_s']:.1f} | {run['peak_mb']:,.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of a call")
    parser.add_argument("--memory", type=float, default=64.0, help="GB of a worker")
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    limits = Limits(seconds=args.limit, memory_gb=args.memory)
    here = [engine for engine in args.engines if find_spec(ENGINES[engine][0])]
    kept = json.loads(args.output.read_text("utf-8"))["runs"] if args.output.exists() else []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), rows, args.groups)
            for engine in here:
                key = {"engine": engine, "rows": rows, "groups": args.groups}
                kept = [run for run in kept if {k: run[k] for k in key} != key]
                kept.append({**key, **measure(engine, Path(folder), limits)})
                print(kept[-1], flush=True)
                kept.sort(key=lambda run: (run["rows"], list(ENGINES).index(run["engine"])))
                report = {"machine": machine(), "runs": kept}
                args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                args.output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
