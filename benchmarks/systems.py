"""The systems: which there are, which problems they can do, how their workers start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# name of the system and its interface; the order is that of the tables
SYSTEMS = (
    "lmm_jax-arrays",
    "lmm_jax-frame",
    "lme4-frame",
    "nlme-frame",
    "glmmTMB-frame",
    "mixedlm-frame",
    "mixedlm-rs-arrays",
    "mixedlm-rs-frame",
    "lme-python-frame",
    "gpboost-arrays",
    "statsmodels-arrays",
    "statsmodels-frame",
)
_R = ("lme4", "nlme", "glmmTMB")
_MODULES = {"mixedlm-rs": "mixedlm_rs", "lme-python": "lme_python"}


def package(system: str) -> str:
    """Name of the package: "mixedlm-rs-frame" is mixedlm-rs."""
    return system.rsplit("-", 1)[0]


def cannot(system: str, about: dict[str, Any]) -> str | None:
    """Why a system cannot fit a model; None if its interface takes it."""
    name, single = package(system), about["structure"] == "single"
    if system == "statsmodels-arrays" and not single:
        return "arrays of one grouping factor only; from a frame it can"
    if system == "lmm_jax-arrays" and about["structure"] == "crossed":
        return "arrays of one grouping factor only; from a frame it can"
    if name == "mixedlm-rs" and not single:
        return "one grouping factor only"
    if name == "nlme" and about["structure"] == "crossed":
        return "no crossed factors"
    if name == "gpboost" and any(term["slopes"] for term in about["terms"]):
        return "no correlation of intercepts and slopes"
    return None


def without_reml(system: str) -> bool:
    """Whether a system maximizes the unrestricted likelihood only."""
    return package(system) == "gpboost"


def command(system: str, peers: str, arguments: list[str]) -> list[str]:
    """How to start the worker of a system."""
    name = package(system)
    if name in _R:
        return ["Rscript", str(HERE / "fits.R"), arguments[0], name, *arguments[1:]]
    python = sys.executable if name == "lmm_jax" else peers
    return [python, str(HERE / "worker.py"), arguments[0], system, *arguments[1:]]


def installed(peers: str) -> set[str]:
    """Packages of SYSTEMS that are there."""
    names = sorted({package(system) for system in SYSTEMS} - set(_R) - {"lmm_jax"})
    probe = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    found = {"lmm_jax"}
    modules = {_MODULES.get(name, name): name for name in names}
    out = subprocess.run([peers, "-c", probe, *modules], capture_output=True, text=True, check=True)
    found |= {modules[module] for module in out.stdout.split()}
    if shutil.which("Rscript"):
        test = 'for (n in commandArgs(TRUE)) if (requireNamespace(n, quietly = TRUE)) cat(n, "")'
        call = ["Rscript", "-e", test, *_R]
        out = subprocess.run(call, capture_output=True, text=True, check=False)
        found |= set(out.stdout.split())
    return found


def choose(asked: list[str]) -> list[str]:
    """Systems by package ("lme4") or with the interface ("lme4-frame")."""
    known = set(SYSTEMS) | {package(system) for system in SYSTEMS}
    unknown = sorted(set(asked) - known)
    if unknown:
        raise SystemExit(f"no system {', '.join(unknown)}: choose from {', '.join(SYSTEMS)}")
    return [s for s in SYSTEMS if not asked or s in asked or package(s) in asked]
