"""Dask, Spark and Ray as they are installed: sums of what they hold, whatever happens to a task.

A campaign: `pip install lmm-jax[engines]`, Java for Spark, LMM_JAX_CAMPAIGN=1.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_data import COMPUTED, DATA, MODELS, PLAIN
from sum_checks import assert_equal_sums, assert_same

import lmm_jax as lmm

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


@pytest.mark.parametrize("name", PLAIN)
def test_spark_by_group_by_and_by_partition(name, spark):
    from lmm_jax.engines.spark_frames import SparkFrame

    formula, options = PLAIN[name]
    schema = lmm.schema(formula, DATA, **options)
    source = SparkFrame(spark_frame(spark))
    want = lmm.summarize(formula, DATA, schema=schema)
    assert_equal_sums(source.sums(schema), want)
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
