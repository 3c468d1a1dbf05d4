"""Checks of the arguments of public functions, one for each kind of argument.

Each takes a value and the name of its argument, and gives the value back in its plain
type or raises a DataError that says what was got and what is needed. Nothing is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import wraps
from inspect import isfunction, unwrap
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ..errors import DataError

# Largest whole number: what a seed or a limit of iterations can be in 64 bits.
LARGEST = 2**63 - 1
# Limit of iterations that a program counts to: its counter has 32 bits.
_LAST_STEP = 2**31 - 1
# Characters of a value that a message shows.
_SHOWN = 60

F = TypeVar("F", bound=Callable[..., Any] | type)


def shown(value: Any) -> str:
    """A value as a message shows it: what it looks like, or only its type where that is long."""
    if isinstance(value, np.bool_ | np.integer):
        value = value.item()
    if type(value).__name__.endswith("Tracer"):  # JAX's, which this wing does not import
        return "<traced by JAX, and it must be known beforehand: make it static>"
    if isinstance(value, date | timedelta | Decimal | pd.Period | pd.Interval):
        return str(value)
    if isinstance(value, str | bytes | bool | int | float | np.generic | None | list | tuple):
        text = repr(value)
        if len(text) <= _SHOWN and "\n" not in text:
            return text
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    return f"<{type(value).__name__}{shape}>"


def single(value: Any) -> Any:
    """The number in an array without dimensions, of NumPy or JAX; anything else as it is."""
    if getattr(value, "ndim", None) != 0 or type(value).__name__.endswith("Tracer"):
        return value
    return value.item() if hasattr(value, "dtype") and hasattr(value, "item") else value


def flag(value: Any, what: str) -> bool:
    """True or False."""
    value = single(value)
    if not isinstance(value, bool | np.bool_):
        raise DataError(f"{what}={shown(value)}: pass True or False")
    return bool(value)


def whole_number(value: Any, what: str, *, least: int = 0, most: int = LARGEST) -> int:
    """A whole number from ``least`` to ``most``."""
    value = single(value)
    plain = int(value) if is_whole(value) else least - 1
    if plain < least:
        raise DataError(f"{what}={shown(value)}: a whole number of at least {least} is needed")
    if plain > most:
        raise DataError(f"{what}={shown(value)}: a whole number of at most {most} is needed")
    return plain


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy (True and False are none)."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def iterations(value: Any, what: str = "maxiter", *, least: int = 0) -> int:
    """A limit of iterations: any whole number, as far as programs count."""
    return min(whole_number(value, what, least=least), _LAST_STEP)


def number(
    value: Any, what: str, *, least: float | None = None, above: float | None = None
) -> float:
    """A finite number, at least ``least`` or greater than ``above``."""
    value = single(value)
    bound = f" of at least {least:g}" if least is not None else ""
    bound = f" greater than {above:g}" if above is not None else bound
    if isinstance(value, Real) and not isinstance(value, bool):
        plain = _as_float(value)
        low = least is not None and plain < least
        if np.isfinite(plain) and not low and not (above is not None and plain <= above):
            return plain
    raise DataError(f"{what}={shown(value)}: a finite number{bound} is needed")


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the range of floats
        return float("inf")


# What says the coverage of intervals beside ``level``, and what it is by default.
_COVERAGE = {"alpha": 0.05, "conf_level": 0.95}


def probability(value: Any, what: str) -> float:
    """A number strictly between 0 and 1: a level, a coverage."""
    value = single(value)
    plain = _as_float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if 0 < plain < 1:
        return plain
    raise DataError(f"{what}={shown(value)}: a number between 0 and 1 is needed")


def coverage(level: Any, **otherwise: Any) -> float:
    """The coverage of intervals, from ``level`` or what else a function calls it.

    Parameters
    ----------
    level : float or None
    **otherwise : float
        One of ``alpha``, one less the coverage, and ``conf_level``, as it was given or by default.
    """
    ((name, value),) = otherwise.items()
    value = probability(value, name)
    if level is None:
        return 1.0 - value if name == "alpha" else value
    if value != _COVERAGE[name]:
        meaning = "level is 1 - alpha" if name == "alpha" else "they are the same"
        raise DataError(f"{name}={value} and level={level}: give one of both, {meaning}")
    return probability(level, "level")


def choice(
    value: Any,
    what: str,
    names: Collection[str],
    *,
    elsewhere: Mapping[str, str] | None = None,
    others: str = "",
) -> str:
    """One of a few names.

    ``elsewhere`` has what other packages call some of them, in small letters; ``others`` says
    what may be passed beside names.
    """
    if isinstance(value, str) and value in names:
        return value
    close = _meant(value, names, elsewhere or {}) if isinstance(value, str) else None
    hint = f" (did you mean {close!r}?)" if close else ""
    hint += f", or {others}" if others else ""
    some = f"choose from {', '.join(names)}{hint}" if names else "there is none to choose from"
    raise DataError(f"{what}={shown(value)}: {some}")


def _meant(value: str, names: Collection[str], elsewhere: Mapping[str, str]) -> str | None:
    """The name that another one may stand for: its own abroad, its beginning, one like it."""
    small = value.strip().lower()
    if small in elsewhere:
        return elsewhere[small]
    begun = [name for name in names if len(small) > 1 and name.lower().startswith(small)]
    if len(begun) == 1:
        return begun[0]
    by_case = {name.lower(): name for name in names}
    close = get_close_matches(small, by_case, n=1)
    return by_case[close[0]] if close else None


def seed(value: Any) -> int:
    """A seed of draws that are known by their number."""
    if isinstance(value, np.random.Generator):
        raise DataError(
            "seed is a Generator: pass a whole number, such as int(rng.integers(2**31)); a "
            "replicate depends on the seed and on its number alone"
        )
    return whole_number(value, "seed")


def generator(value: Any) -> np.random.Generator:
    """A generator of NumPy, from a seed or as it is."""
    if isinstance(value, np.random.Generator):
        return value
    if value is None:
        raise DataError("seed=None: pass a whole number or a numpy.random.Generator")
    return np.random.default_rng(whole_number(value, "seed"))


def instance(value: Any, what: str, kind: type | tuple[type, ...], needed: str) -> Any:
    """A value of a type; ``needed`` says in words what that is and where it comes from."""
    if not isinstance(value, kind):
        raise DataError(f"{what} is a {type(value).__name__}: {needed} is needed")
    return value


def function(value: Any, what: str) -> Callable[..., Any]:
    """Something that can be called, and no class."""
    if not callable(value) or isinstance(value, type):
        raise DataError(f"{what}={shown(value)}: a function is needed")
    return value


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """A mapping with names for keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DataError(f"{what}={shown(value)}: a dictionary of names is needed")
    return value


def items(value: Any, what: str, needed: str = "a list is needed") -> list[Any]:
    """What a list or another iterable holds; no text, which would fall into letters."""
    try:
        if not isinstance(value, str | bytes | Mapping):
            return list(value)
    except TypeError:  # a number, an array without dimensions, a class
        pass
    raise DataError(f"{what}={shown(value)}: {needed}")


def names(value: Any, what: str, count: int) -> list[str]:
    """Names, one for each of ``count`` things."""
    given = items(value, what, f"{count} names are needed")
    if len(given) != count:
        raise DataError(f"{what} has {len(given)} names, {count} are needed")
    for name in given:
        if name is None or (isinstance(name, float) and np.isnan(name)):
            raise DataError(f"{what} holds {name}: each of them needs a name")
    return [str(name) for name in given]


def numbers(value: Any, what: str, *, finite: bool = True) -> np.ndarray:
    """A float64 array of any shape."""
    try:
        array = np.asarray(value)
        plain = array.astype(np.float64) if array.dtype.kind in "fiubO" else None
    except (TypeError, ValueError, OverflowError):  # ragged, or of things that are no numbers
        plain = None
    if plain is None or (finite and not np.isfinite(plain).all()):
        raise DataError(f"{what}={shown(value)}: {'finite ' * finite}numbers are needed")
    return plain


# ------------------------------------------------------------ unknown keywords


# What other packages call an argument, and its names here.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "allow_new_levels": ("new_levels",),
    "backend": ("method",),
    "bias_adjust": ("bias_sigma",),
    "ci": ("level",),
    "conf_level": ("level",),
    "confidence": ("level",),
    "data": ("newdata",),
    "ddf": ("df_method",),
    "exog": ("newdata",),
    "family": (),
    "key": ("seed",),
    "link": (),
    "lmer_df": ("df_method",),
    "max_iter": ("maxiter", "maxit"),
    "maxit": ("maxiter",),
    "maxiter": ("maxit",),
    "mode": ("df_method",),
    "na_action": ("missing",),
    "n_iter": ("maxiter", "maxit"),
    "niter": ("maxiter", "maxit"),
    "nboot": ("n_boot",),
    "nsim": ("n", "n_sim", "n_boot"),
    "n_sim": ("n_boot", "n"),
    "optimizer": ("method",),
    "random_state": ("seed",),
    "re_form": ("conditional",),
    "re_formula": ("conditional",),
    "reps": ("n_boot", "n_sim", "n"),
    "rng": ("seed",),
    "samples": ("n_boot", "n_sim", "n"),
    "scales": ("scale",),
    "se_fit": ("se",),
    "start": ("start_params",),
    "theta": ("start_params",),
    "term": ("factor",),
    "tol": ("gtol", "ptol"),
    "type": ("conditional", "kind"),
    "x0": ("start_params",),
}
# What there is no argument for, and what to do.
_ADVICE = {
    "sampling_weights": "weights= are those of precision, Var = scale / w; there are none of "
    "sampling",
    "pweights": "weights= are those of precision, Var = scale / w; there are none of sampling",
    "control": "leave it out: the optimizer needs none (its options are maxiter=, gtol=, method=)",
    "adjust": "adjustments belong to contrasts, lmm.emmeans(res, 'f').pairs(adjust='holm')",
    "contr": "contrasts are made of means, lmm.emmeans(res, 'f').contrast('dunnett'), or .pairs()",
    "simple": "simple effects are contrasts, lmm.emmeans(res, ['f', 'g']).pairs(simple='f')",
    **dict.fromkeys(
        ("test", "test_statistic"),
        "tests of fixed effects are F tests; df_method='normal' gives chi-square",
    ),
    "cov_type": "robust covariances are those of a result, res.robust(...)",
    "r_matrix": "the covariance of R beta is R @ res.cov_params() @ R.T",
    "scalar": "the test is a record of numbers",
    "cov_struct": "covariances of residuals stand in the formula, ar1(visit | id), or come by "
    "residual=; uncorrelated random effects are written (x || g)",
    "correlation": "covariances of residuals stand in the formula, ar1(visit | id), or come by "
    "residual=; a summary prints no correlations of fixed effects",
    "family": "the response is Gaussian here",
    "link": "the response is Gaussian here",
    "random": "random effects stand in the formula, (1 | g), or come by groups= and re_formula=",
    "use_sqrt": "the optimizer always works on the square root of the covariance",
    "do_cg": "the optimizers are those of method=",
    "disp": "nothing is printed; full_output=True keeps the iterations",
    "verbose": "nothing is printed; full_output=True keeps the iterations",
    "contrasts": "contrasts stand in the formula: C(f, contr.sum)",
    "tran": "a transformation of the response stands in the formula, log(y), and means go back by "
    "to_frame(type='response'); others by regrid()",
    "nAGQ": "the likelihood of a linear model is exact",
}
# The same of functions that make marginal means: others have something else by these names.
_ADVICE_OF_MEANS = {
    **dict.fromkeys(
        ("method", "ref", "reverse"),
        "contrasts are made of means, lmm.emmeans(res, 'f').pairs(reverse=True), or "
        ".contrast('trt.vs.ctrl', ref='a')",
    ),
    **dict.fromkeys(("var", "trend"), "slopes of a covariate are lmm.emtrends(res, 'f', 'x')"),
    "data": "leave it out: means are made of the rows of the fit",
    **dict.fromkeys(
        ("transform", "regrid"),
        "means go back to the scale of the response by to_frame(type='response'), or by regrid() "
        "before they are compared",
    ),
    "type": "the scale is chosen where numbers are shown: to_frame(type='response'), "
    "summary(type='response'), predict(rows, type='response')",
    "infer": "what stands beside means is chosen where they are shown, summary(infer=True)",
}
# The same of functions that make contrasts of means.
_ADVICE_OF_CONTRASTS = {
    **dict.fromkeys(
        ("type", "infer", "level"),
        "how contrasts are shown is chosen there: to_frame(level=0.9, type='response'), "
        "summary(infer=True)",
    ),
    **dict.fromkeys(
        ("null", "delta", "side"),
        "what contrasts are tested against is chosen then: .test(null=1, side='>'), "
        ".test(delta=2) of equivalence",
    ),
    "reverse": "the other sign is that of 'revpairwise', or of pairs(reverse=True)",
    "ref": "a reference is that of contrast('trt.vs.ctrl', ref='a')",
    "interaction": "products are contrast(interaction='pairwise')",
    **dict.fromkeys(("data", "offset"), "leave it out: contrasts are made of these means"),
    **dict.fromkeys(
        ("include", "exclude", "options"),
        "leave it out: weights of your own are contrast({'b - a': {'b': 1, 'a': -1}})",
    ),
}
# Arguments by which functions are known that others' arguments are explained to in other words.
_ADVICE_BY_ARGUMENT = {"specs": _ADVICE_OF_MEANS, "simple": _ADVICE_OF_CONTRASTS}


def hinted(public: F) -> F:
    """A public function, or the public methods of a class, that answer unknown keywords.

    Python's TypeError says that a keyword is unknown; this one names the right one. Of arguments
    that are missing Python names the class that has the method, here one that nobody sees.
    """
    if isinstance(public, type):
        for name, member in list(vars(public).items()):
            if name.startswith("_"):
                continue
            if isfunction(member):
                setattr(public, name, hinted(member))
            elif isinstance(member, staticmethod):
                setattr(public, name, staticmethod(hinted(member.__func__)))
        return public
    inner = unwrap(public)  # other decorators may stand between
    code = inner.__code__
    if code.co_flags & 0x08:  # takes any keyword, and hands it on
        return public
    taken = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = frozenset(taken)

    @wraps(public)
    def call(*args: Any, **options: Any) -> Any:
        if not options.keys() <= known:
            raise TypeError(_unknown(public.__name__, options, taken))
        return public(*args, **options)

    inner.__qualname__ = inner.__name__  # in messages; that of ``call`` has its class
    return call  # type: ignore[return-value]


def _unknown(function: str, options: Mapping[str, Any], taken: tuple[str, ...]) -> str:
    """What to say of the first keyword that a function does not take."""
    name = next(option for option in options if option not in taken)
    right = [other for other in _ELSEWHERE.get(name.lower(), ()) if other in taken]
    own = next((_ADVICE_BY_ARGUMENT[key] for key in _ADVICE_BY_ARGUMENT if key in taken), {})
    advice = _ADVICE | own
    if name not in advice:
        right = right[:1] or get_close_matches(name.lower(), taken, n=1)
    if right:
        hint = f"did you mean {right[0]!r}?"
    elif name in advice:
        hint = advice[name]
    else:
        known = ", ".join(t for t in taken if t != "self")
        hint = f"there are {known}" if known else "it takes none"
    return f"{function}() got an unexpected keyword argument {name!r}: {hint}"
