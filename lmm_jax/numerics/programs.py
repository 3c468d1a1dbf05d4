"""Compiled programs: how they are compiled, and a bound on how many stay in memory.

Every program that XLA compiles for the CPU holds a few hundred memory mappings,
of which Linux gives a process 65,530: a program that fits hundreds of models of
different shapes would end in a crash of the compiler. Programs of a function are
therefore given up when there are too many; they are compiled again when needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import update_wrapper, wraps
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
from jaxlib import utils
from jaxlib.version import __version_info__ as jaxlib_version

from ..inputs.arguments import hinted, instance
from .blas_threads import one_thread
from .held import Held
from .memory import keep_freed_memory
from .processes import check_process
from .tiers import Tier, compiling, note

_CACHE_SETTINGS = {  # programs of a fit compile in less time than JAX thinks worth keeping
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
# Programs of one function that are kept: well below what the mappings allow for all of them.
_MAX_PROGRAMS = 24
# Numbers in the arguments up to which compiling well costs more than it can ever save.
_SMALL = 1 << 16
# Ways to compile, small arguments and large. XLA's newer code generator for fused loops takes most
# of the time of compilation for the CPU and makes these programs no faster. For a GPU most of it
# goes into passes of LLVM and into kernels that are tried for every product; left to themselves
# products of float64 matrices become kernels of Triton, several times slower than the vendor's.
_OLD_EMITTERS = {"xla_cpu_use_fusion_emitters": False}
_OF_A_GPU = {
    "xla_backend_optimization_level": 1,
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
}
_OPTIONS: dict[tuple[str, bool], dict[str, Any]] = {
    ("cpu", True): {"xla_backend_optimization_level": 1, **_OLD_EMITTERS},
    ("cpu", False): _OLD_EMITTERS,
    ("gpu", True): _OF_A_GPU,
    ("gpu", False): _OF_A_GPU,
}
# Before this version XLA takes preferences of its compiler (prefer-no-gather) for features that
# the machine lacks, and says so at every program that it loads.
_KNOWS_PREFERENCES = (0, 11)
_FATAL = 3  # XLA's levels: 0 information, 1 warnings, 2 errors
_LEVELS = {"DEBUG": 0, "INFO": 0, "WARN": 1, "WARNING": 1, "ERROR": 2, "FATAL": 3, "CRITICAL": 3}
# How a version of XLA begins to say that it does not have an option.
_REFUSAL = "No such compile option"

keep_freed_memory()  # once a process, before anything computes


def compiled(
    fun: Callable[..., Any],
    *,
    static: str | tuple[str, ...] = (),
    donate: str | tuple[str, ...] = (),
    small: int = _SMALL,
    host: float | Callable[[Any], float] | None = None,
) -> Program:
    """``jax.jit`` that compiles small programs quickly and forgets all when there are too many.

    Parameters
    ----------
    fun : callable
    static : str or tuple of str
        Arguments that are compiled into the program.
    donate : str or tuple of str
        Arguments whose memory the result may take.
    small : int
        Numbers in the arguments up to which the program is compiled quickly.
    host : float or callable, optional
        The function serves NumPy as well (:mod:`lmm_jax.numerics.namespace`), which takes about
        so many seconds for each number in the arguments; or a function of the first of them
        that tells. Where that is less than a compilation nothing is compiled.
    """
    return Program(fun, static, donate, small, host)


class Program:
    """A function that JAX compiles or NumPy works off; made by :func:`compiled`."""

    def __init__(
        self,
        fun: Callable[..., Any],
        static: str | tuple[str, ...],
        donate: str | tuple[str, ...],
        small: int,
        host: float | Callable[[Any], float] | None,
    ) -> None:
        update_wrapper(self, fun)
        self.fun, self.static, self.donate, self.small = fun, static, donate, small
        self.tier = None if host is None else Tier(1.0 if callable(host) else host)
        self.weight = host if callable(host) else None  # seconds a number, by the arguments
        self.programs: dict[bool, Any] = {}  # of JAX, compiled quickly and well

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's value."""
        leaves, tree = jax.tree.flatten((args, kwargs))
        numbers, tier = _numbers(leaves), self.tier
        key = None if tier is None else self._key(leaves, tree, kwargs)
        if tier is not None and self._takes_numpy(tier, key, numbers, args, kwargs):
            return _in_numpy(self.fun, tree, leaves, tier, key)
        note("jax")
        check_process()
        quick = numbers <= self.small
        if quick not in self.programs:
            self.programs[quick] = self._make(quick)
        program = self.programs[quick]
        if program._cache_size() >= _MAX_PROGRAMS:  # JAX has no public count of programs
            program.clear_cache()
            if tier is not None:
                tier.compiled.clear()
        try:
            out = program(*args, **kwargs)
            if tier is not None:
                tier.add_compiled(key)
            return out
        except jax.errors.JaxRuntimeError as error:
            if _REFUSAL not in str(error):
                raise
        # another XLA, for the whole process: it compiles as it likes. JAX does not tell which
        # options there are
        _OPTIONS.clear()
        self.programs.clear()
        return self(*args, **kwargs)

    def takes_numpy(self, *args: Any, **kwargs: Any) -> bool:
        """Whether a call would go to NumPy."""
        if self.tier is None:
            return False
        leaves, tree = jax.tree.flatten((args, kwargs))
        key = self._key(leaves, tree, kwargs)
        return self._takes_numpy(self.tier, key, _numbers(leaves), args, kwargs)

    def _takes_numpy(
        self, tier: Tier, key: Hashable, numbers: int, args: Any, kwargs: dict[str, Any]
    ) -> bool:
        if self.weight is None:
            work: float = numbers
        else:
            assert args, "what NumPy takes depends on the first argument: pass it by position"
            work = numbers * self.weight(args[0])
        return tier.takes_numpy(key, work, _price(args, kwargs))

    def at_once(self, *args: Any, counted: Any, **kwargs: Any) -> Any:
        """The function's value by NumPy, whose time counts for another first argument."""
        assert self.tier is not None
        key = self._key(*jax.tree.flatten(((counted, *args[1:]), kwargs)), kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        return _in_numpy(self.fun, tree, leaves, self.tier, key)

    def spend(self, seconds: float, *args: Any, **kwargs: Any) -> None:
        """Count seconds in NumPy for a call whose arguments were prepared for it."""
        if self.tier is not None:
            self.tier.add(self._key(*jax.tree.flatten((args, kwargs)), kwargs), seconds)

    def add_compiled(self, *args: Any, **kwargs: Any) -> None:
        """Remember that another program, which does more, has been compiled for these arguments."""
        if self.tier is not None:
            self.tier.add_compiled(self._key(*jax.tree.flatten((args, kwargs)), kwargs))

    def _key(self, leaves: list[Any], tree: Any, kwargs: dict[str, Any]) -> Hashable:
        """What a compiled program is known by."""
        names = (self.static,) if isinstance(self.static, str) else self.static
        return tuple(kwargs.get(name) for name in names), tree, tuple(map(_kind, leaves))

    def _make(self, quick: bool) -> Any:
        return jax.jit(
            self.fun,
            static_argnames=self.static,
            donate_argnames=self.donate,
            compiler_options=_OPTIONS.get((jax.default_backend(), quick)),
        )


def _numbers(leaves: list[Any]) -> int:
    return sum(getattr(leaf, "size", 1) for leaf in leaves)


def _price(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Seconds of a compilation, by the model among the arguments."""
    for at in _arguments(args, kwargs):
        if getattr(at, "on_host", False) or not getattr(at, "may_gain", True):
            return inf
        structures = getattr(at, "structures", None)
        if structures is not None:
            m = sum(structure.n_params for structure in structures)
            return compiling(m, crossed=hasattr(at, "crossed"))
    return compiling()


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """What is passed; of rows, which end with it, the index."""
    for arg in (*args, *kwargs.values()):
        yield arg[-1] if isinstance(arg, tuple) and arg else arg


def _models(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """Layouts among the arguments."""
    return (at for at in _arguments(args, kwargs) if hasattr(at, "block_rows"))


def _kind(leaf: Any) -> Any:
    """What of an argument a program depends on."""
    return (leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else type(leaf)


def _in_numpy(fun: Callable[..., Any], tree: Any, leaves: list[Any], tier: Tier, key: Any) -> Any:
    """The function's value by NumPy, and the time of that for the books."""
    on_host = (np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
    args, kwargs = tree.unflatten(on_host)
    start = perf_counter()
    rows = max((at.block_rows() for at in _models(args, kwargs)), default=None)
    size = {"numbers": _numbers(leaves)} if rows is None else {"rows": rows}
    with np.errstate(all="ignore"), one_thread(**size):
        out = fun(*args, **kwargs)
    tier.add(key, perf_counter() - start)
    note("numpy")
    return out


@jax.tree_util.register_static
@dataclass(frozen=True, slots=True)
class Spelled:
    """A function that is known by what it computes: equal ones share compiled programs.

    A function's identity is no key: a lambda is a new one at every call, and the same one
    computes something else once what it closes over has changed.
    """

    text: str  # the program that JAX makes of it and of its gradient, constants and all
    fun: Callable[..., Any] = field(compare=False)

    def __call__(self, *args: Any) -> Any:
        """The function's value."""
        return self.fun(*args)


def spelled(fun: Callable[[Any], Any], shape: tuple[int, ...]) -> Spelled:
    """A scalar function of one float64 array of this shape, by its value and gradient."""
    program = jax.jit(jax.value_and_grad(fun))
    return Spelled(program.lower(jax.ShapeDtypeStruct(shape, np.float64)).as_text(), fun)


@hinted
def compiler_options() -> dict[str, Any]:
    """Options with which XLA compiles a program that holds functions of this library quickly.

    For ``jax.jit``: half of the time of compilation, and programs that are hardly slower, on the
    backend that JAX has. Other options may stand beside them. They are those with which this
    library compiles its own programs of few data; empty where XLA takes none of them.

    Examples
    --------
    >>> import jax
    >>> import lmm_jax as lmm
    >>> design = lmm.design("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> with jax.enable_x64(True):
    ...     fit = jax.jit(lmm.fit_params, compiler_options=lmm.compiler_options())
    ...     print(f"{fit(design.layout).scale:.1f}")
    2451.2
    """
    return dict(_OPTIONS.get((jax.default_backend(), True), {}))


@hinted
def use_cache(directory: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk, so that later processes need not compile them again.

    Sets JAX's persistent compilation cache for the whole process, the only
    global setting that this library ever changes; call it once, before the first fit.

    Parameters
    ----------
    directory : str or path, optional
        Not given: ``lmm_jax`` in the user's cache directory (``XDG_CACHE_HOME``,
        or ``~/.cache``).

    Returns
    -------
    Path
        The directory, which is made if it is missing.

    Raises
    ------
    NotADirectoryError
        There is a file of that name.

    Notes
    -----
    jaxlib 0.9 prints two errors about machine features, ``prefer-no-gather`` and
    ``prefer-no-scatter``, at every program that it loads: preferences of the compiler,
    which are no features of a machine. XLA is therefore kept quiet while it loads a
    program, and only then. Programs of machines with other features have other keys.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> lmm.use_cache()  # doctest: +SKIP
    PosixPath('/home/user/.cache/lmm_jax')
    """
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(base) / "lmm_jax"
    path = Path(instance(directory, "directory", (str, os.PathLike), "a path"))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: pass a directory for the compiled programs")
    path.mkdir(parents=True, exist_ok=True)
    for name, value in _CACHE_SETTINGS.items():
        jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(path))
    if jaxlib_version < _KNOWS_PREFERENCES:
        _load_quietly()
    return path


def _load_quietly() -> None:
    """Keep XLA's messages away while JAX loads a program from its cache."""
    from jax._src import compilation_cache  # JAX tells nobody when it loads; old versions alone

    load = compilation_cache.get_executable_and_time
    if hasattr(load, "__wrapped__"):  # by an earlier call
        return

    @wraps(load)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with _silent.inside():
            return load(*args, **kwargs)

    compilation_cache.get_executable_and_time = quiet


def _user_level() -> int:
    """XLA's level as the user has set it; XLA itself does not tell."""
    named = _LEVELS.get(jax.config.values["jax_logging_level"])
    if named is not None:
        return named
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")  # JAX's own value
    return int(level) if level.isdecimal() else 0


# XLA says nothing but what is fatal; its level is that of the whole process.
_silent = Held(
    lambda: utils.absl_set_min_log_level(_FATAL),
    lambda: utils.absl_set_min_log_level(_user_level()),
)
