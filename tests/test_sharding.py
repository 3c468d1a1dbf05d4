"""A layout divided over eight devices, and over two processes, fits as one on a single device."""

import doctest
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm

RTOL = 1e-10  # the same sums in another order; the optimum squares its last error
HERE = Path(__file__).parent
TIMEOUT = 200  # seconds for processes that take ten: a hang must not stop the tests

FORMULAS = ("y ~ x + (x | g)", "y ~ x + (1 | m) + (1 | h)")  # the second has buckets

COMMON = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import lmm_jax as lmm
from test_sharding import FORMULAS, THETA, THETAS, data, numbers

jax.config.update("jax_enable_x64", True)

def mesh_of(shape, names, devices=None):
    auto = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=auto, devices=devices)
"""

EIGHT_DEVICES = (
    COMMON
    + """
assert len(jax.devices()) == 8
mesh = mesh_of((8,), ("groups",))
slopes, buckets = (lmm.design(formula, data()).layout for formula in FORMULAS)
layouts = {  # 64 groups on three devices: two of padding; an axis beside the groups
    "8": lmm.shard(slopes, mesh, "groups"),
    "3": lmm.shard(slopes, mesh_of((3,), ("g",), jax.devices()[:3]), "g"),
    "2x4": lmm.shard(slopes, mesh_of((2, 4), ("other", "g")), "g"),
    "buckets": lmm.shard(buckets, mesh, "groups"),
}
value = jax.jit(lmm.profile_loglike)
values = {name: float(value(jnp.array(THETAS[name]), at)) for name, at in layouts.items()}
derivatives = jax.jit(lambda t, at: (jax.grad(value)(t, at), jax.hessian(value)(t, at)))
program = derivatives.lower(jnp.array(THETA), layouts["8"]).compile()
places = [{str(s.index) for s in b.T.addressable_shards} for b in layouts["buckets"].buckets]
print(json.dumps({
    "fit": numbers(jax.jit(lmm.fit_params)(layouts["8"])),
    "values": values,
    "derivatives": [a.tolist() for a in program(jnp.array(THETA), layouts["8"])],
    "groups": {name: [b.T.shape[2] for b in at.buckets] for name, at in layouts.items()},
    "parts": [len(part) for part in places],
    "sums": "all-reduce(" in program.as_text(),
    "gathers": "all-gather(" in program.as_text(),
}))
"""
)

TWO_PROCESSES = (
    COMMON
    + """
number, port = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
assert jax.process_count() == 2 and len(jax.local_devices()) == 1
layout = lmm.shard(lmm.design(FORMULAS[0], data()).layout, mesh_of((2,), ("groups",)), "groups")
own = [s.data.shape[2] for s in layout.buckets[0].T.addressable_shards]
print(json.dumps({"fit": numbers(jax.jit(lmm.fit_params)(layout)), "own": own}))
jax.distributed.shutdown()
"""
)

THETA = [0.9, 0.3, 0.6]
THETAS = {"8": THETA, "3": THETA, "2x4": THETA, "buckets": [0.5, 0.8]}
UNEVEN = np.repeat([f"m{i}" for i in range(9)], [2, 2, 12, 8, 34, 2, 2, 4, 4])
SIZES = np.repeat(np.arange(35), 2)


def data():
    """Ten groups of seven rows; 35 of two rows, nested in nine of very different size."""
    frame = samples.frame(groups=10, rows=7)
    return frame.assign(m=UNEVEN, h=SIZES)


def numbers(out):
    p = out.params
    parts = [p.fe_params, np.ravel(p.cov_re), p.vcomp, [out.scale, out.llf, out.converged]]
    return np.concatenate([np.asarray(part, float) for part in parts]).tolist()


def start(program, *args, devices=1):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(processes):
    """What each process has printed; none of them outlives a failure."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]


def expected_fit(formula):
    """From ``lmm.fit`` on one device."""
    res = lmm.fit(formula, data())
    covariances = np.ravel(res.cov_re_unscaled)
    return [*res.fe_params, *covariances, *(res.vcomp / res.scale), res.scale, res.llf, 1.0]


@pytest.mark.slow
def test_eight_devices(x64):
    (found,) = answers([start(EIGHT_DEVICES, devices=8)])
    assert [found["groups"][name] for name in ("8", "3", "2x4")] == [[64], [66], [64]]
    assert len(found["parts"]) > 1  # buckets, each of them on all devices
    assert set(found["parts"]) == {8}
    assert found["sums"]  # put in by the compiler
    assert not found["gathers"]  # no device ever sees all groups
    assert_close(found["fit"], expected_fit(FORMULAS[0]), RTOL, 1e-2)
    value, theta = lmm.profile_loglike, jnp.array(THETA)
    slopes, buckets = (lmm.design(formula, data()).layout for formula in FORMULAS)
    for name, actual in found["values"].items():
        layout = buckets if name == "buckets" else slopes
        assert_close(actual, jax.jit(value)(jnp.array(THETAS[name]), layout), RTOL)
    for actual, derivative in zip(found["derivatives"], (jax.grad, jax.hessian), strict=True):
        expected = jax.jit(derivative(value))(theta, slopes)
        assert_close(actual, expected, RTOL, np.abs(expected).max())


@pytest.mark.slow
def test_two_processes():
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no sockets on the loopback interface: {error}")
    found = answers([start(TWO_PROCESSES, number, port) for number in (0, 1)])
    expected = expected_fit(FORMULAS[0])
    for answer in found:
        assert answer["own"] == [32]  # half of the groups, rounded up to 64
        assert_close(answer["fit"], expected, RTOL, 1e-2)


def mesh(name="groups", kind=jax.sharding.AxisType.Auto):
    return jax.make_mesh((1,), (name,), axis_types=(kind,))


@pytest.mark.device
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_dtype_stays(dtype):
    layout = jax.tree.map(
        lambda a: np.asarray(a, dtype), lmm.design(FORMULAS[0], samples.frame()).layout
    )
    placed = lmm.shard(layout, mesh(), "groups")
    assert {leaf.dtype for leaf in jax.tree.leaves(placed)} == {np.dtype(dtype)}
    for new, old in zip(jax.tree.leaves(placed), jax.tree.leaves(layout), strict=True):
        assert_close(new, old, 0)


def test_bad_meshes_and_layouts():
    frame = samples.frame()
    layout = lmm.design("y ~ x + (1 | g)", frame).layout
    with pytest.raises(lmm.DataError, match="has the axes"):
        lmm.shard(layout, mesh("rows"), "groups")
    with pytest.raises(lmm.DataError, match="of type Explicit"):
        lmm.shard(layout, mesh(kind=jax.sharding.AxisType.Explicit), "groups")
    with pytest.raises(lmm.DataError, match="independent groups"):
        lmm.shard(lmm.design("y ~ x + (1 | g) + (1 | f)", frame).layout, mesh(), "groups")
    with pytest.raises(lmm.DataError, match="traced by JAX: call it before jit"):
        jax.jit(lambda at: lmm.shard(at, mesh(), "groups").S0)(layout)


def test_examples_on_the_page():
    page = HERE.parent / "docs" / "sharding.md"
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, None, 0)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert test.examples
    assert doctest.DocTestRunner(optionflags=options).run(test).failed == 0
