"""Dask, Spark and Ray as they are installed: sums of what they hold, whatever happens to a task.

A campaign: `pip install lmm-jax[engines]`, Java for Spark, LMM_JAX_CAMPAIGN=1.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from engine_data import COMPUTED, DATA, MODELS, PLAIN
from sum_checks import assert_equal_sums, assert_same

import lmm_jax as lmm
from lmm_jax.engines.push_down import pushed_down
from lmm_jax.engines.spark_frames import SparkFrame

# their own warnings are not ours to answer for
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
SLOPE, WHOLE = PLAIN["slope"][0], COMPUTED["computed"][0]
FOLDERS = [str(Path(lmm.__file__).parents[1]), str(Path(__file__).parent)]  # for workers
PARTS = [DATA[i * 75 : (i + 1) * 75] for i in range(8)]  # sorted by f: parts lack levels


def once(folder):
    """Whether this is the first call with the folder, in any process."""
    try:
        os.mkdir(Path(folder) / "was here")
    except FileExistsError:
        return False
    return True


# ------------------------------------------------------------ Dask


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as processes,
        distributed.Client(processes) as client,
    ):
        yield client


def dask_frame():
    import dask.dataframe as dd

    return dd.from_pandas(DATA, npartitions=11, sort=False)


@pytest.mark.parametrize("name", MODELS)
def test_dask(name, cluster):
    formula, options = MODELS[name]
    assert_same(lmm.fit(formula, dask_frame(), **options), lmm.fit(formula, DATA, **options))


def part_of_a_dying_worker(i, folder):
    if i == 5 and once(folder):
        os.kill(os.getpid(), signal.SIGKILL)
    return PARTS[i]


def test_dask_when_a_worker_is_killed(cluster, tmp_path):
    import dask.dataframe as dd

    frame = dd.from_map(part_of_a_dying_worker, range(8), folder=str(tmp_path), meta=DATA[:0])
    schema = lmm.schema(SLOPE, DATA)
    got = lmm.summarize(SLOPE, frame, schema=schema)
    assert (tmp_path / "was here").exists()
    assert_equal_sums(got, lmm.summarize(SLOPE, DATA, schema=schema))


@pytest.mark.parametrize("known", [True, False])
def test_categories_of_dask(known, cluster):
    """A partition has categories of its own where Dask does not know them."""
    frame = dask_frame().assign(day=lambda rows: rows["school"] % 4)
    frame = frame.astype(dict.fromkeys(["f", "day", "school"], "category"))
    want = DATA.assign(day=(DATA["school"] % 4).astype("category"))
    if known:
        order = {"f": ["c", "a", "b"], "day": [3, 1, 0, 2], "school": range(25)}
        frame = frame.assign(**{n: frame[n].cat.set_categories(order[n]) for n in order})
        want = want.assign(**{n: pd.Categorical(want[n], order[n]) for n in order})
    assert frame["f"].cat.known == known
    formula = "y ~ x + f + day + (1 | school)"
    assert_same(lmm.fit(formula, frame), lmm.fit(formula, want))


def test_dask_when_a_worker_is_lost_with_the_sums_that_it_holds(cluster, tmp_path):
    """These are made again on the other worker, from the same rows."""
    import dask.dataframe as dd

    ours = min(cluster.run(os.getpid).values())

    def last_of_a_worker(i):
        if i == 30 and once(tmp_path):
            time.sleep(1)  # the others are done
            os.kill(ours, signal.SIGKILL)
        return DATA[i * 20 : (i + 1) * 20]

    frame = dd.from_map(last_of_a_worker, range(31), meta=DATA[:0])
    schema = lmm.schema(SLOPE, DATA)
    got = lmm.summarize(SLOPE, frame, schema=schema)
    assert ours not in cluster.run(os.getpid).values()
    assert_equal_sums(got, lmm.summarize(SLOPE, DATA, schema=schema))


def test_dask_sends_functions_of_a_script(cluster):
    double = lambda x: 2 * x  # noqa: E731
    formula = "y ~ double(x) + (1 | school)"
    assert_same(lmm.fit(formula, dask_frame()), lmm.fit(formula, DATA, context={"double": double}))


# ------------------------------------------------------------ Spark


@pytest.fixture(scope="module")
def spark():
    sql = pytest.importorskip("pyspark.sql")
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    session = (
        sql.SparkSession.builder.master("local[2, 3]")  # two processes, three tries of a task
        .config("spark.ui.enabled", False)
        .config("spark.sql.shuffle.partitions", 4)
        .config("spark.sql.execution.arrow.pyspark.enabled", True)
        .config("spark.executorEnv.PYTHONPATH", os.pathsep.join(FOLDERS))
        .getOrCreate()
    )
    yield session
    session.stop()


def spark_frame(spark):
    return spark.createDataFrame(DATA).repartition(5)


@pytest.mark.parametrize("name", MODELS)
def test_spark(name, spark):
    formula, options = MODELS[name]
    got = lmm.fit(formula, spark_frame(spark), **options)
    assert_same(got, lmm.fit(formula, DATA, **options))


@pytest.mark.parametrize("name", COMPUTED)
def test_spark_is_not_asked_for_what_is_computed(name, spark):
    formula, options = COMPUTED[name]
    base = SparkFrame(spark_frame(spark))._database()
    assert pushed_down(lmm.schema(formula, DATA, **options), base) is None


@pytest.mark.parametrize("name", PLAIN)
def test_spark_by_group_by_and_by_partition(name, spark):
    formula, options = PLAIN[name]
    schema = lmm.schema(formula, DATA, **options)
    source = SparkFrame(spark_frame(spark))
    want = lmm.summarize(formula, DATA, schema=schema)
    assert_equal_sums(pushed_down(schema, source._database()), want)
    assert_equal_sums(source.by_partition(schema), want)


def test_spark_with_strange_names(spark):
    names = {"x": 'x.1 {a} "b"', "school": "of a school"}
    formula = 'y ~ `x.1 {a} "b"` + f + (1 | `of a school`)'
    frame = DATA.rename(columns=names)
    got = lmm.fit(formula, spark.createDataFrame(frame))
    assert_same(got, lmm.fit(formula, frame))


def test_spark_when_a_worker_dies(spark, tmp_path):
    folder = str(tmp_path)

    def dying(batches):
        for batch in batches:
            if once(folder):
                os._exit(1)
            yield batch

    frame = spark_frame(spark)
    schema = lmm.schema(WHOLE, DATA)
    got = lmm.summarize(WHOLE, frame.mapInArrow(dying, frame.schema), schema=schema)
    assert (tmp_path / "was here").exists()
    assert_equal_sums(got, lmm.summarize(WHOLE, DATA, schema=schema))


# ------------------------------------------------------------ Ray


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(FOLDERS)}},
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.mark.parametrize("name", MODELS)
def test_ray(name, ray):
    formula, options = MODELS[name]
    got = lmm.fit(formula, ray.data.from_pandas(PARTS), **options)
    assert_same(got, lmm.fit(formula, DATA, **options))


def test_ray_when_a_worker_dies(ray, tmp_path):
    folder = str(tmp_path)

    def dying(rows):
        if once(folder):
            os._exit(1)
        return rows

    schema = lmm.schema(SLOPE, DATA)
    rows = ray.data.from_pandas(PARTS).map_batches(dying, batch_format="pyarrow")
    got = lmm.summarize(SLOPE, rows, schema=schema)
    assert (tmp_path / "was here").exists()
    assert_equal_sums(got, lmm.summarize(SLOPE, DATA, schema=schema))


# ------------------------------------------------------------ all of them


def engines(cluster, spark, ray):
    return dask_frame(), spark_frame(spark), ray.data.from_pandas(PARTS)


def test_a_level_outside_of_the_schema_is_named(cluster, spark, ray):
    schema = lmm.schema(SLOPE, DATA[DATA["f"] != "c"])
    for frame in engines(cluster, spark, ray):
        with pytest.raises(lmm.DataError, match="'c'"):
            lmm.summarize(SLOPE, frame, schema=schema)


def test_parts_of_all_engines_add_up(cluster, spark, ray):
    schema = lmm.schema(SLOPE, DATA)
    one = lmm.summarize(SLOPE, DATA, schema=schema)
    got = sum(lmm.summarize(SLOPE, frame, schema=schema) for frame in engines(cluster, spark, ray))
    assert_equal_sums(got, one + one + one)


def test_the_page_on_scale(tmp_path):
    """In a process of its own, as a reader has it."""
    for package in ("dask", "pyspark", "ray", "duckdb"):
        pytest.importorskip(package)
    code = "from examples import check_page; check_page('docs/scale.md')"
    found = {"PYTHONPATH": os.pathsep.join(FOLDERS), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True,
        env=os.environ | found,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
