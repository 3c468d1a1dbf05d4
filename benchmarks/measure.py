"""One worker: started, watched, stopped at its limits, and its lines read."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Limits:
    seconds: float  # that loading or a single call may take
    memory_gb: float  # data segment of a worker


@dataclass(frozen=True, kw_only=True)
class Ended:
    lines: list[dict[str, Any]]  # reports of the worker
    stderr: str
    over_time: bool
    code: int
    peak_mb: float


def run_worker(call: list[str], environment: dict[str, str], limits: Limits) -> Ended:
    """Run a worker; the clock of its limit starts anew with every line that it prints."""
    most = int(limits.memory_gb * 1e9)

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            child = subprocess.Popen(
                call,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                preexec_fn=bound,
                start_new_session=True,
            )
        try:
            code, usage, over_time = _wait(child, out, limits.seconds)
        except BaseException:  # interrupted: no worker is left behind
            os.killpg(child.pid, signal.SIGKILL)
            raise
        text = out.read_text(encoding="utf-8", errors="replace")
        lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"')]
        errors = err.read_text(encoding="utf-8", errors="replace")
    peak = usage.ru_maxrss / 1024
    return Ended(lines=lines, stderr=errors, over_time=over_time, code=code, peak_mb=peak)


def _wait(
    child: subprocess.Popen[bytes], out: Path, limit: float
) -> tuple[int, resource.struct_rusage, bool]:
    """Wait with the child's own resource usage, which ``subprocess`` does not report."""
    clock, size, over_time = time.monotonic(), 0, False
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage, over_time
        if out.stat().st_size != size:
            clock, size = time.monotonic(), out.stat().st_size
        if not over_time and time.monotonic() - clock > limit:
            over_time = True
            os.killpg(child.pid, signal.SIGKILL)
        time.sleep(0.05)


def entry(ended: Ended, limits: Limits, runs: int) -> dict[str, Any]:
    """What is stored of a worker: first call, median of the warm ones, answer, memory."""
    fits = [line for line in ended.lines if "seconds" in line]
    loaded = next((line for line in ended.lines if "loaded" in line), {})
    found: dict[str, Any] = {key: loaded.get(key) for key in ("version", "input_mb", "start_mb")}
    if not fits:
        return found | _failure(ended, limits)
    first, warm = fits[0], fits[1:]
    found |= {
        "status": "ok",
        "first_s": first["seconds"],
        "first_compile_s": first.get("compile_s", 0.0),
        "first_programs": first.get("programs", 0),
        "warm_s": statistics.median(f["seconds"] for f in warm) if warm else None,
        "warm_runs_s": [f["seconds"] for f in warm],
        "warm_cpu_s": statistics.median(f["cpu_s"] for f in warm) if warm else None,
        "warm_programs": sum(f.get("programs", 0) for f in warm),
        "peak_mb": fits[-1].get("peak_mb") or ended.peak_mb,
    }
    found |= {key: fits[-1].get(key) for key in ("criterion", "converged", "iterations")}
    found["method"] = fits[-1].get("method", "REML")
    ml = [line["criterion_ml"] for line in ended.lines if "criterion_ml" in line]
    if ml:
        found["criterion_ml"] = ml[0]
    if len(warm) < runs:
        found["note"] = f"{len(warm)} warm calls" + ("; then the limit" if ended.over_time else "")
    return found


def _failure(ended: Ended, limits: Limits) -> dict[str, Any]:
    """Why there is no number."""
    if ended.over_time:
        return {"status": "limit", "reason": f"more than {limits.seconds:g} s"}
    text = ended.stderr
    signs = ("memoryerror", "cannot allocate", "bad_alloc", "resource_exhausted", "out of memory")
    if any(sign in text.lower() for sign in signs):
        return {"status": "memory", "reason": f"more than {limits.memory_gb:.3g} GB"}
    last = text.strip().splitlines()[-3:] or [f"exit code {ended.code}"]
    return {"status": "failed", "reason": " / ".join(line.strip() for line in last)[-300:]}
