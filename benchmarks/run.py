"""Every problem on every system that is installed: seconds, memory, and the answer reached.

    python benchmarks/run.py [--problems a b ...] [--systems lmm_jax lme4 ...] [--runs 5]
        [--scale 1] [--peers PYTHON] [--limit 600] [--threads 1] [--skip SYSTEM:PROBLEM ...]

Writes ``docs/benchmarks/run.json`` after every worker (what is there of other problems and systems
stays), then ``docs/benchmarks/run.md`` and, with matplotlib, ``docs/benchmarks/scaling.svg``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import RESULTS, machine, memory_gb, worker_environment
from measure import Limits, entry, run_worker
from report import write_report
from systems import cannot, choose, command, installed, package, without_reml

HERE = Path(__file__).parent
# without pandas in this process: a child starts with its parent's peak of memory
LONG_RUN = 60.0


def problem_names(*groups: str) -> list[str]:
    """Names of the problems in tables of ``problems.py``."""
    code = f"import problems; print(*[n for g in {groups!r} for n in getattr(problems, g)])"
    call = [sys.executable, "-c", code]
    return subprocess.run(call, capture_output=True, text=True, check=True, cwd=HERE).stdout.split()


def make(name: str, scale: float, folder: str) -> dict[str, Any]:
    """Generate a problem in a process of its own."""
    call = [sys.executable, str(HERE / "problems.py"), name, str(scale), folder]
    subprocess.run(call, check=True)
    return json.loads((Path(folder) / "problem.json").read_text(encoding="utf-8"))


def run_system(
    system: str, folder: str, about: dict[str, Any], args: argparse.Namespace, ml: bool
) -> dict[str, Any]:
    """One system on one problem."""
    reason = cannot(system, about)
    if reason:
        return {"status": "cannot", "reason": reason}
    limits = Limits(seconds=args.limit, memory_gb=args.memory)
    arguments = [folder, str(args.runs), str(LONG_RUN), *(["--ml"] if ml else [])]
    call = command(system, args.peers, arguments)
    found = entry(run_worker(call, worker_environment(args.threads), limits), limits, args.runs)
    return found | {"date": f"{datetime.now(UTC):%Y-%m-%d}", "threads": args.threads}


def run_problem(name: str, systems: list[str], args: argparse.Namespace, report: dict) -> None:
    """Every system on one problem, stored after each."""
    with tempfile.TemporaryDirectory() as folder:
        about = make(name, args.scale, folder)
        keys = ("title", "formula", "structure", "scale", "rows", "levels", "p", "q")
        stored = report["problems"].setdefault(name, {"systems": {}})
        stored |= {key: about[key] for key in keys}
        ml = any(without_reml(s) and not cannot(s, about) for s in systems)
        for system in systems:
            key = {f"{system}:{name}", f"{package(system)}:{name}"} & set(args.skip)
            if key:
                found: dict[str, Any] = {"status": "skipped", "reason": "asked for"}
            else:
                found = run_system(system, folder, about, args, ml=ml and system == "lmm_jax-frame")
            stored["systems"][system] = found
            seconds = found.get("warm_s") or found.get("first_s") or found.get("reason")
            print(name, system, found["status"], seconds, file=sys.stderr, flush=True)
            args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def read_arguments() -> argparse.Namespace:
    default, names = problem_names("GROUPED", "CROSSED"), problem_names("PROBLEMS")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--problems",
        nargs="+",
        default=default,
        choices=[*names, "series"],
        metavar="NAME",
        help=f"of {', '.join(names)}; 'series' are the groups- and rows- ones",
    )
    parser.add_argument("--systems", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--runs", type=int, default=5, help="warm calls of each system")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the groups, for tests")
    parser.add_argument("--peers", default=sys.executable, help="Python that has the peers")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a single call")
    parser.add_argument("--memory", type=float, default=0.9 * memory_gb(), help="GB for a worker")
    parser.add_argument("--threads", type=int, default=1, help="threads of every library")
    parser.add_argument("--skip", nargs="+", default=[], metavar="SYSTEM:PROBLEM")
    parser.add_argument("--output", type=Path, help="JSON; default docs/benchmarks/run.json")
    args = parser.parse_args()
    series = problem_names("SERIES")
    args.problems = [
        name for asked in args.problems for name in (series if asked == "series" else [asked])
    ]
    if args.output is None:
        scaled = "" if args.scale == 1.0 else f"-scale{args.scale:g}"
        args.output = RESULTS / f"run{scaled}.json"
    return args


def main() -> None:
    args = read_arguments()
    there = installed(args.peers)
    chosen = choose(args.systems)
    systems = [system for system in chosen if package(system) in there]
    missing = sorted({package(system) for system in chosen} - there)
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    args.output.parent.mkdir(exist_ok=True)
    report: dict[str, Any] = {"problems": {}}
    if args.output.exists():
        report = json.loads(args.output.read_text(encoding="utf-8"))
    report["machine"] = machine()
    for name in args.problems:
        run_problem(name, systems, args, report)
    print(write_report(args.output))


if __name__ == "__main__":
    main()
