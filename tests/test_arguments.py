"""Wrong arguments of public functions: what is refused, in which words.

Tables, a line each: call, fragment of the message. Everything here is a DataError.
"""
# ruff: noqa: E501

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm

P = lmm.Params.from_components
DATA = samples.frame()
FORMULA = "y ~ x + (1 + x | g)"
RTOL = 1e-12  # the same program on the same numbers


@cache
def design(formula=FORMULA, **options):
    return lmm.design(formula, DATA, **options)


@cache
def fitted(formula=FORMULA, **options):
    return lmm.fit(formula, DATA, **options)


def components():
    """One component beside a random intercept: theta of two numbers, cov_re of one, vcomp of one."""
    return lmm.design(
        "y ~ x", DATA, groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}
    ).layout


# ------------------------------------------------------------ shapes of parameters

LAYOUT = cache(lambda: design().layout)
COMPONENTS = cache(components)
GOOD = P(fe_params=np.ones(2), cov_re=np.eye(2))
# fmt: off
SHAPES = {
    "theta long": (lambda: lmm.profile_loglike(jnp.ones(7), LAYOUT()), r"theta has the shape \(7,\): \(3,\) is needed"),
    "theta short": (lambda: lmm.profile_loglike(jnp.ones(2), LAYOUT()), r"theta has the shape \(2,\)"),
    "theta a number": (lambda: lmm.profile_loglike(1.0, LAYOUT()), r"theta has the shape \(\)"),
    "theta a matrix": (lambda: lmm.profile_loglike(jnp.ones((3, 1)), LAYOUT()), r"theta has the shape \(3, 1\)"),
    "theta of a component": (lambda: lmm.profile_loglike(jnp.ones(3), COMPONENTS()), r"\(2,\) is needed.*terms with 1, 1 coeff"),
    "theta a word": (lambda: lmm.profile_loglike("one", LAYOUT()), "theta='one': numbers are needed"),
    "theta complex": (lambda: lmm.profile_loglike(jnp.ones(3, complex), LAYOUT()), "theta is an array of complex"),
    "theta ragged": (lambda: lmm.profile_loglike([[1], [1, 2]], LAYOUT()), "theta="),
    "a design for a layout": (lambda: lmm.profile_loglike(jnp.ones(3), design()), r"layout is a Design: pass design\.layout"),
    "a number for a layout": (lambda: lmm.loglike(GOOD, 5), "layout is a int"),
    "cov_re large": (lambda: lmm.get_fe_params(jnp.eye(3), jnp.ones(0), LAYOUT()), r"cov_re of shape \(3, 3\): cov_re of shape \(2, 2\) is needed"),
    "cov_re small": (lambda: lmm.get_fe_params(jnp.eye(1), jnp.ones(0), LAYOUT()), r"cov_re of shape \(1, 1\)"),
    "cov_re a vector": (lambda: lmm.get_fe_params(jnp.ones(2), jnp.ones(0), LAYOUT()), r"cov_re of shape \(2,\)"),
    "vcomp where there is none": (lambda: lmm.get_fe_params(jnp.eye(2), jnp.ones(1), LAYOUT()), r"vcomp of shape \(1,\): vcomp of shape \(0,\)"),
    "vcomp missing": (lambda: lmm.get_fe_params(jnp.eye(1), jnp.ones(0), COMPONENTS()), r"vcomp of shape \(0,\): vcomp of shape \(1,\)"),
    "beta long": (lambda: lmm.get_scale(jnp.ones(3), jnp.eye(2), jnp.ones(0), LAYOUT()), r"fe_params of shape \(3,\): fe_params of shape \(2,\)"),
    "beta short": (lambda: lmm.get_scale(jnp.ones(1), jnp.eye(2), jnp.ones(0), LAYOUT()), r"fe_params of shape \(1,\)"),
    "two of them": (lambda: lmm.get_scale(jnp.ones(1), jnp.eye(3), jnp.ones(0), LAYOUT()), r"fe_params of shape \(1,\), cov_re of shape \(3, 3\): fe"),
    "packed": (lambda: lmm.loglike(jnp.ones(7), LAYOUT()), r"0 fixed effects, 3 covariances and 0 comp.*\(7,\)"),
    "packed with beta": (lambda: lmm.loglike(jnp.ones(3), LAYOUT(), profile_fe=False), "2 fixed effects, 3 cov"),
    "Params of another model": (lambda: lmm.loglike(P(cov_re=np.eye(3)), LAYOUT()), r"cov_re of shape \(3, 3\)"),
    "Params without beta": (lambda: lmm.loglike(P(cov_re=np.eye(2)), LAYOUT(), profile_fe=False), r"fe_params of shape \(0,\)"),
    "score": (lambda: lmm.score(jnp.ones(4), LAYOUT()), r"\(4,\)"),
    "hessian": (lambda: lmm.hessian(P(cov_re=np.eye(1)), LAYOUT()), r"\(1, 1\)"),
    "start of fit_params": (lambda: lmm.fit_params(LAYOUT(), P(cov_re=np.eye(1))), r"start has cov_re of shape \(1, 1\)"),
    "start a vector": (lambda: lmm.fit_params(LAYOUT(), jnp.ones(3)), "start is a .*: a Params is needed"),
    "start_params of fit": (lambda: lmm.fit(design(), start_params=P(cov_re=np.eye(3))), r"start_params has cov_re of shape \(3, 3\)"),
    "free of fit": (lambda: lmm.fit(design(), free=P(fe_params=np.ones(1), cov_re=np.eye(2))), r"free has fe_params of shape \(1,\)"),
    "truth of simulate": (lambda: lmm.simulate(P(np.ones(2), np.eye(1)), design(), seed=1, scale=1.0), r"model has cov_re of shape \(1, 1\)"),
    "truth of simulate, beta": (lambda: lmm.simulate(P(np.ones(3), np.eye(2)), design(), seed=1, scale=1.0), r"model has fe_params of shape \(3,\)"),
    "truth of power": (lambda: lmm.power(design(), P(np.ones(2), np.eye(3)), 10, test="x", seed=1, scale=1.0), r"params has cov_re of shape \(3, 3\)"),
}
# fmt: on


@pytest.mark.parametrize(("call", "message"), SHAPES.values(), ids=SHAPES)
def test_shapes_of_parameters(call, message, x64):
    with pytest.raises(lmm.DataError, match=message):
        call()


PURE = [
    lambda n, layout: lmm.profile_loglike(jnp.ones(n), layout),
    lambda n, layout: lmm.loglike(jnp.ones(n), layout),
    lambda n, layout: lmm.get_fe_params(jnp.eye(n), jnp.ones(0), layout),
    lambda n, layout: lmm.get_scale(jnp.ones(n), jnp.eye(2), jnp.ones(0), layout),
]


@pytest.mark.parametrize("call", PURE)
def test_shapes_are_known_while_a_program_is_traced(call, x64):
    with pytest.raises(lmm.DataError, match="shape"):
        jax.jit(partial(call, 7))(LAYOUT())


def test_lists_and_whole_numbers_are_parameters(x64):
    layout, at = LAYOUT(), COMPONENTS()

    @jax.jit  # one program for all
    def calls():
        params = jnp.array([1.0, 0.0, 4.0])  # variances of the factor of profile_loglike
        value = lmm.profile_loglike(jnp.array([1.0, 0.0, 2.0]), layout)
        beta = lmm.get_fe_params(jnp.eye(1), jnp.array([4.0]), at)
        return [
            (lmm.profile_loglike([1, 0, 2], layout), value),
            (lmm.profile_loglike(np.array([1, 0, 2]), layout), value),
            (lmm.loglike([1, 0, 4], layout), value),
            (lmm.score([1, 0, 4], layout), lmm.score(params, layout)),
            (lmm.get_fe_params([[1.0]], pd.Series([4.0]), at), beta),
        ]

    for got, expected in calls():
        assert_close(got, expected, RTOL)


# ------------------------------------------------------------ options

RNG = np.random.default_rng
NAN, INF = float("nan"), float("inf")


def fit(**options):
    return lmm.fit(design(), **options)


def many(**options):
    return lmm.fit_many(design(), np.ones((60, 2)), **options)


def power(*, design=None, params=GOOD, n_sim=10, **options):
    model = LMM_DESIGN if design is None else design
    return lmm.power(
        model() if model is LMM_DESIGN else model,
        params,
        n_sim,
        **{"test": "x", "seed": 1, "scale": 1.0} | options,
    )


LMM_DESIGN = design
boot = cache(lambda: lmm.bootstrap(fitted(), 10, seed=1))
lasso = partial(lmm.fit_regularized, FORMULA, DATA)
profile = lambda *given, **options: fitted().profile_re(*given, **options)  # noqa: E731
# fmt: off
OPTIONS = [
    # one number of every kind
    (lambda: fit(gtol="a"), "gtol='a': a finite number of at least 0"),
    (lambda: fit(gtol=None), "gtol=None"),
    (lambda: fit(gtol=NAN), "gtol=nan"),
    (lambda: fit(gtol=INF), "gtol=inf"),
    (lambda: fit(gtol=-1e-9), "gtol=-1e-09"),
    (lambda: fit(gtol=True), "gtol=True"),
    (lambda: fit(gtol=10**400), "gtol="),
    (lambda: fit(gtol=np.array([1e-9])), r"gtol=<ndarray of shape \(1,\)>"),
    (lambda: fit(maxiter=200.0), "maxiter=200.0: a whole number of at least 0"),
    (lambda: fit(maxiter=-1), "maxiter=-1"),
    (lambda: fit(maxiter=True), "maxiter=True"),
    (lambda: fit(maxiter=10**30), "maxiter=10+: a whole number of at most 9223372036854775807"),
    (lambda: fit(maxiter="many"), "maxiter='many'"),
    (lambda: fit(reml=1), "reml=1: pass True or False"),
    (lambda: fit(reml=None), "reml=None"),
    (lambda: fit(reml="no"), "reml='no'"),
    (lambda: fit(full_output="yes"), "full_output='yes'"),
    (lambda: fit(method=None), "method=None: choose from newton, lbfgs, bfgs"),
    (lambda: fit(method=5), "method=5"),
    (lambda: fit(method="NEWTON"), r"method='NEWTON'.*did you mean 'newton'"),
    (lambda: fit(method="l-bfgs"), "did you mean 'lbfgs'"),
    (lambda: fit(method=["newton", None]), "method=None"),
    (lambda: fit(method=()), "method is empty"),
    (lambda: fit(df_method="satterthwait"), "did you mean 'satterthwaite'"),
    (lambda: fit(df_method=None), "df_method=None"),
    (lambda: fit(df_method=["normal"]), "df_method="),
    # start values, masks, penalties
    (lambda: fit(start_params="a"), "start_params='a': finite numbers"),
    (lambda: fit(start_params=[NAN, 0, 1]), "start_params=.*finite numbers are needed"),
    (lambda: fit(start_params=[1, 0, -1]), r"start_params\.cov_re: a covariance cannot have the negative eigenvalue -1"),
    (lambda: fit(start_params=P(cov_re=[[1, INF], [INF, 1]])), r"start_params\.cov_re=.*finite"),
    (lambda: fit(start_params=P(cov_re=[[1, 0.5], [0, 1]])), "symmetric"),
    (lambda: fit(start_params=[]), r"shape \(0,\): pass 5 values"),
    (lambda: fit(start_params=3.0), r"shape \(\)"),
    (lambda: fit(start_params=DATA), "start_params="),
    (lambda: lmm.fit("y ~ x", DATA, groups="g", vc_formula={"s": "0 + C(s)"}, start_params=[-1.0]), r"start_params\.vcomp: .*negative"),
    (lambda: fit(free="x"), "free='x'"),
    (lambda: fit(free=1), r"free has the shape \(\)"),
    (lambda: fit(free=[NAN, 1, 1]), "free="),
    (lambda: fit(fe_pen="l2"), "fe_pen='l2': a function is needed"),
    (lambda: fit(fe_pen=lmm.penalties.L2), "fe_pen=<type>: a function"),
    (lambda: fit(fe_pen=lmm.penalties.L2(weights=np.ones(3))), r"fe_pen cannot be called with a JAX array of shape \(2,\)"),
    (lambda: fit(fe_pen=lambda: 0.0), "fe_pen cannot be called"),
    (lambda: fit(fe_pen=lambda b: b), r"fe_pen gives .*shape=\(2,\)"),
    (lambda: fit(fe_pen=lambda b: None), "fe_pen gives None: one real number"),
    (lambda: fit(fe_pen=lambda b: float(b[0])), "fe_pen cannot be called.*ConcretizationTypeError"),
    (lambda: fit(cov_pen=lambda S: S[5, 7].astype(int)), "cov_pen gives"),
    (lambda: fit(cov_pen=3), "cov_pen=3: a function"),
    # formulas and rows
    (lambda: lmm.fit(FORMULA, DATA, context=5), "context=5: a dictionary of names"),
    (lambda: lmm.fit(FORMULA, DATA, context=[("f", abs)]), "context="),
    (lambda: lmm.design(FORMULA, DATA, context={1: abs}), "context="),
    (lambda: lmm.fit(FORMULA, DATA, missing="dropp"), "missing='dropp': choose from drop, raise, none .did you mean 'drop'"),
    (lambda: lmm.fit(FORMULA, DATA, missing=None), "missing=None"),
    (lambda: lmm.design_from_batches(FORMULA, [DATA], missing=0), "missing=0"),
    (lambda: lmm.design_from_batches(FORMULA, [DATA], batch_size=0.5), "batch_size=0.5"),
    (lambda: lmm.design_from_batches(FORMULA, [DATA], context="f"), "context='f'"),
    # many responses
    (lambda: many(chunk_size="a"), "chunk_size='a'"),
    (lambda: many(chunk_size=0), "chunk_size=0: a whole number of at least 1"),
    (lambda: many(chunk_size=2.0), "chunk_size=2.0"),
    (lambda: many(chunk_size=True), "chunk_size=True"),
    (lambda: many(chunk_size=2**70), "at most"),
    (lambda: many(gtol="a"), "gtol='a'"),
    (lambda: many(progress=None), "progress=None"),
    # seeds
    *((lambda s=s: lmm.bootstrap(fitted(), 10, seed=s), "seed") for s in (2**63, -1, "a", 1.0, None, True, RNG(1), [1])),
    *((lambda s=s: power(seed=s), "seed") for s in (2**63, -1, "a", 1.0, None, RNG(1))),
    *((lambda s=s: lmm.simulate(fitted(), seed=s), "seed") for s in (2**63, -1, "a", 1.0, None, True, [1])),
    (lambda: lmm.bootstrap(fitted(), 10, seed=RNG(1)), r"pass a whole number, such as int\(rng"),
    # draws
    *((lambda n=n: lmm.simulate(fitted(), seed=1, n=n), "n=") for n in (1.5, 0, -1, True, "a", None)),
    (lambda: lmm.simulate(fitted(), DATA, seed=1), "design is a DataFrame: a Design"),
    (lambda: lmm.simulate(5, seed=1), "model is a int: a result of lmm.fit or a Params"),
    (lambda: lmm.simulate(None, design(), seed=1), "model is a NoneType"),
    (lambda: lmm.simulate(fitted(), seed=1, conditional=1), "conditional=1"),
    *((lambda s=s: lmm.simulate(GOOD, design(), seed=1, scale=s), "scale") for s in ("a", -1.0, NAN, INF, None, [1.0])),
    (lambda: lmm.bootstrap(5, 10, seed=1), "bootstrap needs a result of lmm.fit, not a int"),
    *((lambda n=n: lmm.bootstrap(fitted(), n, seed=1), "n_boot=") for n in (1, 1.5, "a", None, True)),
    # power
    (lambda: power(params=None), "params is a NoneType: a Params or a result"),
    (lambda: power(design=5), "power needs a Design .*not a int"),
    (lambda: power(design="y ~ x"), "not a str"),
    (lambda: power(design=[5]), "not a int"),
    (lambda: power(design=lambda n: design(), sizes=5), "sizes=5"),
    (lambda: power(design=lambda n: design(), sizes="ab"), "sizes='ab'"),
    *((lambda e=e: power(effects=e), "effects=") for e in (5, "a", [NAN], [], ["a"], [[1.0]], np.array(None))),
    *((lambda a=a: power(alpha=a), "alpha=.*between 0 and 1") for a in (0, 1, 2, -1, "a", None, NAN, True)),
    (lambda: power(reml="yes"), "reml='yes'"),
    (lambda: power(df_method=None), "df_method=None"),
    *((lambda t=t: power(test=t), ".") for t in (None, 5, "", "x/0 = 1", np.eye(3), [NAN, 1], object())),
    # L1
    *((lambda a=a: lasso(alpha=a), "alpha") for a in ([], "a", None, [NAN, 1], -1.0, [1, 2, 3], np.ones((2, 2, 2)), [[]], {}, INF)),
    (lambda: lasso(ceps="a"), "ceps='a'"),
    (lambda: lasso(ceps=NAN), "ceps=nan"),
    (lambda: lasso(ptol=0), "ptol=0: a finite number greater than 0"),
    (lambda: lasso(ptol=None), "ptol=None"),
    (lambda: lasso(maxit=0), "maxit=0: a whole number of at least 1"),
    (lambda: lasso(maxit=1.5), "maxit=1.5"),
    (lambda: lasso(method="l2"), "method='l2'"),
    (lambda: lasso(method=None), "method=None"),
    (lambda: lasso(method=lmm.penalties.L2(weights=1.0), alpha="a"), "alpha='a'"),
    # questions to a result
    *((lambda a=a: fitted().conf_int(a), "alpha=.*between 0 and 1") for a in (0, 1, 2, "a", None, NAN, True, [0.05], 10**400)),
    (lambda: fitted().summary(alpha="a"), "alpha='a'"),
    (lambda: fitted().summary(xname_fe=5), "xname_fe=5: 2 names are needed"),
    (lambda: fitted().summary(xname_fe=["a"]), "xname_fe has 1 names, 2 are needed"),
    (lambda: fitted().summary(title=5), "title is a int: a string"),
    (lambda: fitted().summary(yname=b"y"), "yname is a bytes"),
    (lambda: fitted().tidy(conf_level=None), "conf_level=None"),
    (lambda: fitted().predict(conditional="yes"), "conditional='yes'"),
    (lambda: fitted().predict(DATA, conditional=True, new_levels="NaN"), "did you mean 'nan'"),
    (lambda: fitted().wald_test_terms(skip_single=None), "skip_single=None"),
    *((lambda t=t: fitted().t_test(t), ".") for t in ("x/0 = 1", "x = ", "nan = 1", "", "x = y", "x =", "= 1", "x ** 2 = 1", "x = 1 = ", "1 = 1", None, 5, [], {}, np.eye(3), [[NAN, 1]], [[0, 0]], ([1, 0], "a"), ([1, 0], [1, 2]), object(), [1j, 0])),
    (lambda: fitted().t_test("x = 0", use_t="yes"), "use_t='yes'"),
    (lambda: fitted().wald_test("x = 0", use_f=1), "use_f=1"),
    (lambda: fitted().t_test("x = 0").conf_int("a"), "alpha='a'"),
    (lambda: fitted().t_test("x = 0").summary_frame(xname=5), "xname=5"),
    (lambda: fitted().t_test("x = 0").summary_frame(xname=["a", "b"]), "xname has 2 names"),
    (lambda: profile(0, "re", 1.5, 1.0, 2, 1.0), "num_low=1.5: a whole number"),
    (lambda: profile(0, "re", 1, 0.1, -1, 1.0), "num_high=-1"),
    (lambda: profile(0, "re", 1, "a", 1, 1.0), "dist_low='a'"),
    (lambda: profile(0, "re", 1, 0.1, 1, NAN), "dist_high=nan"),
    (lambda: profile(0, "ve"), "vtype='ve': choose from re, vc"),
    (lambda: profile(0, None), "vtype=None"),
    (lambda: profile(7, "re"), "re_ix=7: name or number one of"),
    (lambda: profile(-1, "re"), "re_ix=-1"),
    (lambda: profile(0.0, "re"), "re_ix=0.0"),
    (lambda: profile(None, "re"), "re_ix=None"),
    (lambda: profile(True, "re"), "re_ix=True"),
    (lambda: profile("X", "re"), "re_ix='X': choose from Intercept, x .did you mean 'x'"),
    (lambda: lmm.influence(fitted(), "groups"), "by='groups': choose from group, row, g .did you mean 'group'"),
    (lambda: lmm.influence(fitted(), None), "by=None"),
    (lambda: boot().conf_int(kind="Basic"), "did you mean 'basic'"),
    (lambda: boot().conf_int(kind=None), "kind=None"),
    (lambda: boot().params(5), "scale=5"),
    (lambda: boot().tidy(conf_level=2), "conf_level=2"),
    (lambda: boot().summary(alpha="a"), "alpha='a'"),
    (lambda: boot().apply(5), "fun=5: a function"),
    (lambda: boot().apply(lambda r: "a"), "what fun gave='a': numbers"),
    (lambda: boot().apply(lambda r: r.scale, names=5), "names=5"),
    # the rest
    (lambda: lmm.load_dataset("nosuch"), "name='nosuch': choose from cake, dyestuff"),
    (lambda: lmm.load_dataset("sleepstudies"), "did you mean 'sleepstudy'"),
    (lambda: lmm.load_dataset("Dyestuff"), "did you mean 'dyestuff'"),
    (lambda: lmm.load_dataset(None), "name=None"),
    (lambda: lmm.load_dataset(["cake"]), "name="),
    (lambda: lmm.use_cache(5), "directory is a int: a path"),
    (lambda: lmm.shard(design().layout, None, "g"), "mesh is a NoneType"),
    (lambda: lmm.row_index(DATA["g"], "a"), "sizes='a'"),
    (lambda: lmm.row_index(DATA["g"], 1.5), "sizes=1.5"),
    (lambda: lmm.row_index(DATA["g"], None), "sizes=None"),
    (lambda: lmm.row_index(DATA["g"], n_components=1.0), "n_components=1.0"),
    (lambda: lmm.row_index(DATA["g"], n_components=2), "n_components=2: a whole number of at most 1"),
    (lambda: lmm.pack(5), "params is a int: a Params"),
    (lambda: lmm.pack(GOOD, 2), "sizes=2"),
    (lambda: lmm.pack(GOOD, [1.5, 0.5]), "sizes=1.5"),
    (lambda: lmm.pack(GOOD, with_fe=None), "with_fe=None"),
    (lambda: lmm.unpack("a", [2], 0), "vector='a'"),
    (lambda: lmm.unpack(np.ones(5), [2], "a"), "k_fe='a'"),
    (lambda: lmm.unpack(np.ones(5), [2], 2, 0.5), "k_vc=0.5"),
    (lambda: P(fe_params="a"), "fe_params='a'"),
    (lambda: P(fe_params=5), r"fe_params has the shape \(\)"),
    (lambda: P(cov_re="a"), "cov_re='a'"),
    (lambda: P(cov_re_sqrt=np.ones((2, 3))), r"cov_re_sqrt has the shape \(2, 3\)"),
    (lambda: P(vcomp=[[1]]), r"vcomp has the shape \(1, 1\)"),
    (lambda: P(vcomp=[1j]), "vcomp="),
    (lambda: lmm.fit_params(design().layout, reml=2), "reml=2"),
    (lambda: lmm.fit_params(design().layout, maxiter=1.5), "maxiter=1.5"),
    (lambda: lmm.fit_params(design().layout, tol="a"), "tol='a'"),
    (lambda: lmm.fit_params(design()), r"layout is a Design: pass design\.layout"),
]
# fmt: on


@pytest.mark.parametrize(("call", "message"), OPTIONS, ids=range(len(OPTIONS)))
def test_options(call, message):
    with pytest.raises(lmm.DataError, match=message):
        call()


def test_whole_numbers_of_any_size_limit_the_iterations():
    expected = fitted().llf
    for maxiter in (2**31 - 1, 2**31, 2**63 - 1, np.int64(300), np.uint8(200)):
        assert_close(fit(maxiter=maxiter).llf, expected, 1e-9)
    with jax.enable_x64(True):
        assert bool(lmm.fit_params(design().layout, maxiter=2**40).converged)
    assert lmm.fit_regularized(design(), alpha=1.0, maxit=2**40).converged


def test_numbers_of_numpy_are_numbers():
    expected = fitted()
    one = fit(gtol=np.float32(1e-9), reml=np.True_, maxiter=np.int16(100))
    assert_close(one.llf, expected.llf, 1e-9)
    assert_close(expected.conf_int(np.float64(0.1)), expected.conf_int(0.1), 0)
    same = [lmm.simulate(fitted(), seed=s) for s in (7, np.int64(7), np.random.default_rng(7))]
    assert same[0].equals(same[1]) and same[0].equals(same[2])


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_arrays_without_dimensions_are_numbers(array, x64):
    expected = fitted()
    one = fit(gtol=array(1e-9), reml=array(True), maxiter=array(100))
    assert_close(one.llf, expected.llf, 1e-9)
    assert_close(expected.conf_int(array(0.1)), expected.conf_int(0.1), 0)
    assert lmm.simulate(expected, seed=array(7)).equals(lmm.simulate(expected, seed=7))
    assert lmm.fit(FORMULA, DATA, sigma=array(1.5)).scale == 1.5**2
    with pytest.raises(lmm.DataError, match=r"sigma=-1\.0: a finite number greater than 0"):
        lmm.fit(FORMULA, DATA, sigma=array(-1.0))
    with pytest.raises(lmm.DataError, match=r"maxiter=2\.5: a whole number"):
        fit(maxiter=array(2.5))


# ------------------------------------------------------------ unknown keywords

# fmt: off
KEYWORDS = [
    (lambda: lmm.fit(FORMULA, DATA, REML=False), r"fit\(\) got an unexpected keyword argument 'REML': did you mean 'reml'"),
    (lambda: lmm.fit(FORMULA, DATA, weight="w"), "did you mean 'weights'"),
    (lambda: lmm.fit(FORMULA, DATA, group="g"), "did you mean 'groups'"),
    (lambda: lmm.fit(FORMULA, DATA, max_iter=5), "did you mean 'maxiter'"),
    (lambda: lmm.fit(FORMULA, DATA, tol=1), "did you mean 'gtol'"),
    (lambda: lmm.fit(FORMULA, DATA, ddf="Kenward-Roger"), "did you mean 'df_method'"),
    (lambda: lmm.fit(FORMULA, DATA, na_action="drop"), "did you mean 'missing'"),
    (lambda: lmm.fit(FORMULA, DATA, control=None), r"leave it out: the optimizer needs none.*maxiter="),
    (lambda: lmm.emmeans(fitted(), "x", adjust="holm"), r"belong to contrasts.*\.pairs\(adjust='holm'\)"),
    (lambda: lmm.emmeans(fitted(), "x", tran="log"), r"stands in the formula.*to_frame\(type='response'\)"),
    (lambda: lmm.emmeans(fitted(), "x", type="response"), r"where numbers are shown: to_frame\(type="),
    (lambda: lmm.emmeans(fitted(), "x", transform="response"), r"type='response'\), or by regrid\(\)"),
    (lambda: lmm.emmeans(fitted(), "x", infer=True), r"summary\(infer="),
    (lambda: lmm.emmeans(fitted(), "x").pairs(ref=1), "contrast..trt.vs.ctrl"),
    (lambda: lmm.emmeans(fitted(), "x").contrast(reverse=True), "'revpairwise'"),
    (lambda: lmm.emmeans(fitted(), "x").contrast("eff", level=0.9), r"to_frame\(level="),
    (lambda: lmm.emmeans(fitted(), "x").pairs(delta=1), r"\.test\(delta=2\)"),
    (lambda: lmm.emmeans(fitted(), "x").pairs(side=">"), r"\.test\(null=1, side="),
    (lambda: lmm.anova(fitted(), test_statistic="F"), "df_method='normal'"),
    (lambda: lmm.emmeans(fitted(), "x", reverse=True), r"\.pairs\(reverse=True\)"),
    (lambda: lmm.emmeans(fitted(), "x", method="pairwise"), r"\.contrast\('trt.vs.ctrl'"),
    (lambda: lmm.emmeans(fitted(), "x", trend="x"), r"lmm\.emtrends\(res, 'f', 'x'\)"),
    (lambda: lmm.emmeans(fitted(), "x", data=DATA), "leave it out"),
    (lambda: fitted().predict(DATA, re_formula="~0"), "did you mean 'conditional'"),
    (lambda: lmm.joint_tests(fitted(), type=3), "there are res, by, at"),
    (lambda: lmm.emmeans(fitted(), "x", mode="satterthwaite"), "did you mean 'df_method'"),
    (lambda: fitted().anova(test="F"), "df_method='normal' gives chi-square"),
    (lambda: lmm.fit(FORMULA, DATA, cov_struct="ar1"), r"covariances of residuals stand in the formula, ar1\(visit"),
    (lambda: lmm.fit(FORMULA, DATA, family="binomial"), "the response is Gaussian"),
    (lambda: lmm.fit(FORMULA, DATA, random="~ 1 | g"), "random effects stand in the formula"),
    (lambda: lmm.fit(FORMULA, DATA, nonsense=1), "there are formula, data, groups"),
    (lambda: lmm.fit_many(FORMULA, DATA, ["y"], REML=False), "did you mean 'reml'"),
    (lambda: lmm.fit_regularized(FORMULA, DATA, max_iter=3), "did you mean 'maxit'"),
    (lambda: lmm.bootstrap(fitted(), nsim=10, seed=1), "did you mean 'n_boot'"),
    (lambda: lmm.bootstrap(fitted(), 10, random_state=1), "did you mean 'seed'"),
    (lambda: lmm.power(design(), GOOD, nsim=10, test="x", seed=1), "did you mean 'n_sim'"),
    (lambda: lmm.simulate(fitted(), nsim=10, seed=1), "did you mean 'n'"),
    (lambda: fitted().predict(exog=DATA), r"predict\(\) got .* did you mean 'newdata'"),
    (lambda: fitted().predict(DATA, re_form=None), "did you mean 'conditional'"),
    (lambda: fitted().predict(DATA, allow_new_levels=True), "did you mean 'new_levels'"),
    (lambda: fitted().conf_int(conf_level=0.9), "did you mean 'level'"),
    (lambda: fitted().tidy(ci=0.9), "did you mean 'level'"),
    (lambda: boot().conf_int(type="basic"), "did you mean 'kind'"),
    (lambda: P(beta=[1.0]), "there are fe_params, cov_re"),
    (lambda: lmm.loglike(GOOD, LAYOUT(), REML=True), "did you mean 'reml'"),
]
# fmt: on


@pytest.mark.parametrize(("call", "message"), KEYWORDS, ids=range(len(KEYWORDS)))
def test_unknown_keywords(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_every_public_function_answers_unknown_keywords():
    plain = [
        name
        for name in lmm.__all__
        if inspect.isfunction(getattr(lmm, name)) and not hasattr(getattr(lmm, name), "__wrapped__")
    ]
    assert plain == []


def test_parameters_of_statsmodels_are_read_by_their_names():
    """`MixedLMParams` has the same three attributes."""
    from types import SimpleNamespace

    data = lmm.load_dataset("sleepstudy")
    options = dict(groups="Subject", re_formula="~Days")
    theirs = SimpleNamespace(fe_params=np.ones(2), cov_re=np.eye(2), vcomp=np.zeros(0))
    ours = lmm.Params.from_components(fe_params=np.ones(2), cov_re=np.eye(2))
    found = lmm.fit("Reaction ~ Days", data, free=theirs, **options)
    assert abs(found.cov_re.iloc[0, 1]) < 1e-9  # to rounding: held in other coordinates
    assert found.llf == lmm.fit("Reaction ~ Days", data, free=ours, **options).llf
