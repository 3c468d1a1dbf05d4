"""The problems: seeded data, a formula in lme4's syntax, and the same model as arrays.

    python benchmarks/problems.py NAME SCALE FOLDER

writes one problem into a folder, for workers in any language (see ``exchange.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from exchange import write_problem

DATA = Path(__file__).parent.parent / "tests" / "data"


class Term(NamedTuple):
    factor: tuple[str, ...]  # columns whose combinations are the levels
    slopes: tuple[str, ...]  # columns with a random slope beside the intercept


@dataclass(frozen=True, kw_only=True)
class Problem:
    title: str
    frame: pd.DataFrame
    response: str
    fixed: tuple[str, ...]  # columns of the fixed effects beside the intercept
    terms: tuple[Term, ...]
    structure: str  # "single", "nested" or "crossed"

    @property
    def fixed_formula(self) -> str:
        return f"{self.response} ~ {' + '.join(('1', *self.fixed))}"

    @property
    def formula(self) -> str:
        """The model in lme4's syntax."""
        bars = [f"({' + '.join(('1', *t.slopes))} | {':'.join(t.factor)})" for t in self.terms]
        return " + ".join((self.fixed_formula, *bars))

    def arrays(self) -> dict[str, np.ndarray]:
        """``y`` (n,), ``X`` (n, p), ``groups`` (n, terms) of codes, ``Z`` (n, q) of the first."""
        ones = np.ones(len(self.frame))
        X = ones[:, None]
        if self.fixed:
            dummies = pd.get_dummies(self.frame[list(self.fixed)], drop_first=True, dtype=float)
            X = np.column_stack([ones, dummies.to_numpy(dtype=float)])
        slopes = self.frame[list(self.terms[0].slopes)].to_numpy(dtype=float)
        codes = [self.frame.groupby(list(t.factor)).ngroup().to_numpy() for t in self.terms]
        y = self.frame[self.response].to_numpy(dtype=float)
        groups = np.column_stack(codes).astype(np.int64)
        return {"y": y, "X": X, "groups": groups, "Z": np.column_stack([ones, slopes])}


def _columns(X: np.ndarray) -> dict[str, np.ndarray]:
    return {f"x{j + 1}": X[:, j] for j in range(X.shape[1])}


def grouped(title: str, sizes: np.ndarray, n_covariates: int, *, slope: bool, seed: int) -> Problem:
    """Groups of given sizes, standard normal covariates, intercept (and slope of x1) by group."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(sizes.size), sizes)
    X = rng.normal(size=(group.size, n_covariates))
    y = 1.0 + X @ np.linspace(0.5, -0.3, n_covariates) + rng.normal(size=group.size)
    if slope:
        b = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]], size=sizes.size)
        y += b[group, 0] + b[group, 1] * X[:, 0]
    else:
        y += rng.normal(size=sizes.size)[group]
    covariates = _columns(X)
    return Problem(
        title=title,
        frame=pd.DataFrame({"y": y, **covariates, "g": group}),
        response="y",
        fixed=tuple(covariates),
        terms=(Term(("g",), ("x1",) if slope else ()),),
        structure="single",
    )


def even(title: str, groups: int, rows: int, p: int, scale: float, *, slope: bool) -> Problem:
    """``groups`` groups of ``rows`` rows and ``p`` fixed effects with the intercept."""
    return grouped(title, np.full(_count(groups, scale), rows), p - 1, slope=slope, seed=1)


def _count(n: int, scale: float, least: int = 10) -> int:
    return max(least, round(n * scale))


def sleepstudy(scale: float) -> Problem:
    del scale  # 18 people, whatever the scale
    frame = pd.read_csv(DATA / "sleepstudy.csv")
    return Problem(
        title="sleepstudy: 18 people, 180 rows, intercept and slope",
        frame=frame,
        response="Reaction",
        fixed=("Days",),
        terms=(Term(("Subject",), ("Days",)),),
        structure="single",
    )


def many_groups(scale: float) -> Problem:
    sizes = np.random.default_rng(3).integers(5, 16, _count(100_000, scale))
    title = "100,000 groups of 5 to 15 rows, p = 5, intercept and slope"
    return grouped(title, sizes, 4, slope=True, seed=0)


def categories(scale: float) -> Problem:
    """The model of statsmodels' issue 9097, with strings for the categories."""
    rng = np.random.default_rng(4)
    units = _count(125_000, scale)
    unit = np.repeat(np.arange(units), rng.integers(2, 7, units))
    first, second = rng.integers(0, 4, unit.size), rng.integers(0, 6, unit.size)
    x = rng.normal(size=unit.size)
    y = 0.3 * first - 0.2 * second + 0.5 * x + 0.8 * rng.normal(size=units)[unit]
    frame = pd.DataFrame(
        {
            "value": y + rng.normal(size=unit.size),
            "cat1": np.array(["north", "east", "south", "west"])[first],
            "cat2": np.array(["red", "green", "blue", "white", "black", "grey"])[second],
            "x": x,
            "unit": unit,
        }
    )
    return Problem(
        title="125,000 groups, about 500,000 rows, two categorical predictors, random intercept",
        frame=frame,
        response="value",
        fixed=("cat1", "cat2", "x"),
        terms=(Term(("unit",), ()),),
        structure="single",
    )


def one_large_group(scale: float) -> Problem:
    small = np.random.default_rng(5).integers(1, 21, _count(10_000, scale))
    sizes = np.concatenate([[_count(50_000, scale)], small])
    title = "one group of 50,000 rows and 10,000 groups of 1 to 20, intercept and slope"
    return grouped(title, sizes, 1, slope=True, seed=6)


def schools(scale: float) -> Problem:
    rng = np.random.default_rng(7)
    n = _count(500, scale)
    school = np.repeat(np.arange(n), 5 * 20)
    classroom = np.repeat(np.arange(5 * n), 20)
    x = rng.normal(size=school.size)
    b = rng.multivariate_normal([0.0, 0.0], [[0.6, 0.1], [0.1, 0.3]], size=n)
    y = 2.0 + 0.5 * x + b[school, 0] + b[school, 1] * x
    y += 0.5 * rng.normal(size=5 * n)[classroom] + rng.normal(size=school.size)
    return Problem(
        title="500 schools of 5 classes of 20 pupils, slope by school, intercept by class",
        frame=pd.DataFrame({"y": y, "x": x, "school": school, "classroom": classroom}),
        response="y",
        fixed=("x",),
        terms=(Term(("school",), ("x",)), Term(("classroom",), ())),
        structure="nested",
    )


def penicillin(scale: float) -> Problem:
    del scale
    return Problem(
        title="penicillin: 24 plates by 6 samples",
        frame=pd.read_csv(DATA / "penicillin.csv"),
        response="diameter",
        fixed=(),
        terms=(Term(("plate",), ()), Term(("sample",), ())),
        structure="crossed",
    )


def insteval(scale: float, *, department: bool) -> Problem:
    frame = pd.read_csv(DATA / "insteval.csv.gz")
    frame = frame[frame["s"] <= frame["s"].quantile(min(scale, 1.0))].reset_index(drop=True)
    terms = (Term(("s",), ()), Term(("d",), ()))
    title = "InstEval: 2,972 students by 1,128 lecturers"
    return Problem(
        title=f"{title} by department and service" if department else title,
        frame=frame,
        response="y",
        fixed=("service",),
        terms=(*terms, Term(("dept", "service"), ())) if department else terms,
        structure="crossed",
    )


def ratings(title: str, users: int, items: int, rows: int, scale: float) -> Problem:
    """Ratings of items whose popularity follows a power law."""
    users, items, rows = _count(users, scale), _count(items, scale), _count(rows, scale, 500)
    rng = np.random.default_rng(1)
    popularity = np.arange(1, items + 1) ** -0.8
    user = rng.integers(0, users, rows)
    item = rng.choice(items, rows, p=popularity / popularity.sum())
    y = 3.5 + 0.45 * rng.normal(size=users)[user] + 0.6 * rng.normal(size=items)[item]
    return Problem(
        title=title,
        frame=pd.DataFrame({"y": y + 0.95 * rng.normal(size=rows), "user": user, "item": item}),
        response="y",
        fixed=(),
        terms=(Term(("user",), ()), Term(("item",), ())),
        structure="crossed",
    )


def movers(scale: float) -> Problem:
    """Employees, three rows each, who change between employers near each other."""
    rng = np.random.default_rng(0)
    people, firms = _count(200_000, scale), _count(80_000, scale)
    person = np.repeat(np.arange(people), 3)
    place = person * (firms / people) + 3.0 * rng.normal(size=person.size)
    firm = np.clip(np.round(place).astype(int), 0, firms - 1)
    x = rng.normal(size=person.size)
    effects = 0.8 * rng.normal(size=people)[person] + 0.5 * rng.normal(size=firms)[firm]
    y = 1.0 + 0.5 * x + effects + rng.normal(size=x.size)
    return Problem(
        title="600,000 rows of 200,000 employees by 80,000 employers, who meet few others",
        frame=pd.DataFrame({"y": y, "x": x, "person": person, "firm": firm}),
        response="y",
        fixed=("x",),
        terms=(Term(("person",), ()), Term(("firm",), ())),
        structure="crossed",
    )


def viewers(title: str, users: int, items: int, rows: int, scale: float) -> Problem:
    """About so many ratings, none of them twice, in the proportions of MovieLens 32M.

    A user rates 20 or more, 73 at the median, log-normally; of 84,000 items the first has 83,000
    ratings, the thousandth 6,700, the 23,350th 20 and the 43,884th two.
    """
    rng, rank = np.random.default_rng(1), np.arange(1, _count(items, scale) + 1) / min(scale, 1.0)
    users, items, rows = _count(users, scale), rank.size, _count(rows, scale, 500)
    activity = np.maximum(20.0, np.exp(rng.normal(np.log(73.0), 1.25, users)))
    drawn = np.ceil(activity * 1.3 * rows / activity.sum()).astype(int)
    popularity = np.exp(-0.1863 * rank**0.38)
    user = np.repeat(np.arange(users), drawn)
    item = np.repeat(np.arange(items), rng.multinomial(user.size, popularity / popularity.sum()))
    rng.shuffle(item)
    user, item = np.divmod(np.unique(user * items + item), items)
    kept = rng.uniform(size=user.size) * user.size < rows
    user, item = user[kept], item[kept]
    y = 3.5 + 0.45 * rng.normal(size=users)[user] + 0.6 * rng.normal(size=items)[item]
    return Problem(
        title=title,
        frame=pd.DataFrame({"y": y + 0.95 * rng.normal(size=y.size), "user": user, "item": item}),
        response="y",
        fixed=(),
        terms=(Term(("user",), ()), Term(("item",), ())),
        structure="crossed",
    )


def _series() -> dict[str, Callable[[float], Problem]]:
    """Time against groups (10 rows each) and against rows (1,000 groups)."""
    found: dict[str, Callable[[float], Problem]] = {}
    for groups in (100, 1_000, 10_000, 100_000):
        title = f"{groups:,} groups of 10 rows"
        found[f"groups-{groups}"] = partial(_even, title, groups, 10, 5, True)
    for rows in (10, 100, 1_000):
        title = f"1,000 groups of {rows:,} rows"
        found[f"rows-{rows}"] = partial(_even, title, 1_000, rows, 5, True)
    return found


def _even(title: str, groups: int, rows: int, p: int, slope: bool, scale: float) -> Problem:
    return even(title, groups, rows, p, scale, slope=slope)


_TEN_MILLION = "10,000,000 rows in 1,000,000 groups, random intercept"
_FIFTY = "50 fixed effects, 200,000 rows in 10,000 groups, random intercept"
_SMALL = "1,000 groups of 20 rows, p = 5, intercept and slope"
_MOVIES = "1,000,000 ratings of 3,706 items by 6,040 users"
_WIDE = "5,000,000 ratings of 2,000 items by 100,000 users"

_MANY = "32,000,000 ratings of {:,} items by 200,948 users"

GROUPED: dict[str, Callable[[float], Problem]] = {
    "a": sleepstudy,
    "b": partial(_even, _SMALL, 1_000, 20, 5, True),
    "c": many_groups,
    "d": categories,
    "e": one_large_group,
    "f": schools,
    "g": partial(_even, _TEN_MILLION, 1_000_000, 10, 2, False),
    "h": partial(_even, _FIFTY, 10_000, 20, 50, False),
}
CROSSED: dict[str, Callable[[float], Problem]] = {
    "penicillin": penicillin,
    "insteval": partial(insteval, department=True),
    "insteval2": partial(insteval, department=False),
    "movielens": partial(ratings, _MOVIES, 6_040, 3_706, 1_000_000),
    "movers": movers,
    "wide": partial(ratings, _WIDE, 100_000, 2_000, 5_000_000),
    "movies-23k": partial(viewers, _MANY.format(23_350), 200_948, 23_350, 32_000_000),
    "movies-44k": partial(viewers, _MANY.format(43_884), 200_948, 43_884, 32_000_000),
    "movies-84k": partial(viewers, _MANY.format(84_432), 200_948, 84_432, 32_000_000),
}
SERIES = _series()
PROBLEMS = {**GROUPED, **CROSSED, **SERIES}


def describe(problem: Problem, scale: float) -> dict[str, Any]:
    """What a worker and a report need beside the data."""
    arrays = problem.arrays()
    levels = [int(column.max()) + 1 for column in arrays["groups"].T]
    return {
        "title": problem.title,
        "formula": problem.formula,
        "fixed_formula": problem.fixed_formula,
        "terms": [{"factor": t.factor, "slopes": t.slopes} for t in problem.terms],
        "structure": problem.structure,
        "scale": scale,
        "rows": len(problem.frame),
        "levels": levels,
        "p": arrays["X"].shape[1],
        "q": arrays["Z"].shape[1],
    }


def main() -> None:
    name, scale, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    problem = PROBLEMS[name](scale)
    factors = {column for term in problem.terms for column in term.factor}
    write_problem(folder, problem.frame, problem.arrays(), factors, describe(problem, scale))


if __name__ == "__main__":
    main()
