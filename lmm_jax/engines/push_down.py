"""Sums by one GROUP BY, where a model reads plain columns: only sums leave the database.

Its cells are the combinations of labels that rows have, of grouping factors and of categorical
predictors. In a cell a column of X or Z is a number times a product of columns, so that sums of
products of columns, by cell, are all that is asked for. The columns are measured from the origins
of the schema, in its units, inside the query: what is added up has lost no digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ..designs.row_sums import RowSums
from ..designs.schema import Schema, factor_columns, factor_kind
from ..inputs.frames import read_frame
from .cell_table import CellTable, Monomial, Number, sums_of_cells

# Aggregates of a query, and types of columns that are numbers.
_MOST = 200
_NUMBERS = re.compile(
    r"(u?(tiny|small|big|huge)?int(eger)?|u?int\d+|float|double|real|decimal|long|short|byte)"
    r"(\([\d, ]+\))?",
    re.IGNORECASE,
)
_CATEGORY = re.compile(r"C\(")


class Database(NamedTuple):
    """An engine that answers SQL about some rows."""

    rows: str  # what stands for them after FROM
    quoted: Callable[[str], str]  # how the name of a column is written
    types: Mapping[str, str]  # of every column
    answer: Callable[[str], Any]  # gives a frame


class Plan(NamedTuple):
    """What is grouped by and what is added up."""

    keys: tuple[str, ...]
    numbers: tuple[Number, ...]  # the response is the last
    weights: str | None
    products: tuple[Monomial, ...]  # what is summed up


def pushed_down(schema: Schema, database: Database) -> RowSums | None:
    """Sums over all rows by one query; None where the model reads more than plain columns."""
    plan = plan_of(schema, database.types)
    if plan is None:
        return None
    cells = read_frame(database.answer(_query(plan, database)), lambda _: True)
    assert cells is not None  # a frame is what engines answer with
    total = _counts(database, ["count(*)"])[0]
    keys = cells[[f"k{i}" for i in range(len(plan.keys))]].set_axis(list(plan.keys), axis=1)
    complete = keys.notna().all(axis=1).to_numpy()
    cells, keys = cells[complete], keys[complete]
    n_missing = total - int(cells["n"].sum())
    return sums_of_cells(
        CellTable(
            keys=keys.reset_index(drop=True),
            n_rows=cells["n"].to_numpy(),
            sums=cells[[f"s{i}" for i in range(len(plan.products))]].to_numpy(float),
            log_weights=0.0 if plan.weights is None else float(cells["logs"].sum()),
            lightest=None if plan.weights is None else float(cells["lightest"].min()),
            numbers=plan.numbers,
            products=plan.products,
            n_missing=n_missing,
            gaps=_gaps(plan, database) if n_missing else {},
        ),
        schema,
    )


def plan_of(schema: Schema, types: Mapping[str, str]) -> Plan | None:
    """What to ask for, or None."""
    columns = schema.columns
    plain = {e.strip("`") for e in (*schema.groups, columns.response, *columns.offsets)}
    keys = dict.fromkeys(e.strip("`") for e in schema.groups)
    found: dict[str, None] = {}
    for spec in schema.specs.values():
        for factor in (factor for term in spec.formula for factor in term.factors):
            kind = factor_kind(spec, factor)
            if kind == "literal":
                if factor.expr != "1":
                    return None
            elif kind == "numerical":
                plain.add(factor.expr)
                found[factor.expr] = None
            elif factor.eval_method.value == "lookup" or _CATEGORY.match(factor.expr):
                keys.update(dict.fromkeys(name for name in factor_columns(factor) if name in types))
            else:
                return None
    weights = None if columns.weights is None else columns.weights.strip("`")
    response = [columns.response.strip("`"), *(e.strip("`") for e in columns.offsets)]
    needed = [*found, *response, *([] if weights is None else [weights])]
    are_plain = plain <= types.keys() and keys.keys() <= types.keys()
    if not are_plain or any(not _NUMBERS.fullmatch(types.get(name, "")) for name in needed):
        return None
    if keys.keys() & found.keys():
        return None
    numbers = (*(_number(name, schema) for name in found), _response(response, schema))
    products = _products(schema, numbers)
    return Plan(tuple(keys), numbers, weights, products) if len(products) <= _MOST else None


def _number(name: str, schema: Schema) -> Number:
    """A column, from the origin that it has in X."""
    if name not in schema.names:
        return Number((name,), 0.0, 1.0)
    j = schema.names.index(name)
    return Number((name,), float(schema.units.x_shift[j]), float(schema.units.x_unit[j]))


def _response(columns: Sequence[str], schema: Schema) -> Number:
    """The response less its offsets."""
    return Number(tuple(columns), float(schema.units.y_shift), float(schema.units.y_unit))


def _products(schema: Schema, numbers: Sequence[Number]) -> tuple[Monomial, ...]:
    """Products of any two columns of X, y and Z, as products of numbers."""
    parts = monomials(schema, numbers)
    pairs = (tuple(sorted(a + b)) for i, a in enumerate(parts) for b in parts[i:])
    return tuple(sorted(set(pairs), key=lambda m: (len(m), m)))


def monomials(schema: Schema, numbers: Sequence[Number]) -> list[Monomial]:
    """Products of numbers that columns are made of, with all parts of them, and y."""
    names = [number.columns[0] for number in numbers[:-1]]
    out: dict[Monomial, None] = {(): None}
    for spec in schema.specs.values():
        for term in spec.term_slices:
            whole = term_monomial(spec, term, names)
            for size in range(len(whole) + 1):
                out.update(dict.fromkeys(combinations(whole, size)))
    return [*out, (len(names),)]


def term_monomial(spec: Any, term: Any, names: Sequence[str]) -> Monomial:
    """Numbers that the columns of a term are multiples of."""
    return tuple(
        sorted(
            names.index(factor.expr)
            for factor in term.factors
            if factor_kind(spec, factor) == "numerical"
        )
    )


def _query(plan: Plan, database: Database) -> str:
    """The query."""
    quoted = database.quoted
    inner = [f"{quoted(name)} AS k{i}" for i, name in enumerate(plan.keys)]
    inner += [f"{_measured(n, database)} AS v{i}" for i, n in enumerate(plan.numbers)]
    sums = ["count(*) AS n"]
    times = ""
    if plan.weights is not None:
        inner.append(f"CAST({quoted(plan.weights)} AS DOUBLE) AS w")
        # a weight that is refused later has no logarithm
        sums += ["min(w) AS lightest", "sum(CASE WHEN w > 0 THEN ln(w) ELSE 0 END) AS logs"]
        times = "w * "
    for i, product in enumerate(plan.products):
        factors = " * ".join(f"v{j}" for j in product)
        if factors:
            sums.append(f"sum({times}{factors}) AS s{i}")
        else:
            sums.append(f"{'CAST(count(*) AS DOUBLE)' if not times else 'sum(w)'} AS s{i}")
    keys = ", ".join(f"k{i}" for i in range(len(plan.keys)))
    given = " AND ".join(f"NOT ({gap})" for gap in _missing(plan, database).values())
    return (
        f"SELECT {keys}, {', '.join(sums)} FROM (SELECT {', '.join(inner)} FROM {database.rows} "
        f"WHERE {given}) AS measured GROUP BY {keys}"
    )


def _measured(number: Number, database: Database) -> str:
    """A number from its origin in its unit, in SQL."""
    columns = [f"CAST({database.quoted(name)} AS DOUBLE)" for name in number.columns]
    return f"(({' - '.join(columns)}) - {_literal(number.origin)}) / {_literal(number.unit)}"


def _literal(value: float) -> str:
    return f"CAST('{value!r}' AS DOUBLE)"  # digits would be a decimal of the database


def _missing(plan: Plan, database: Database) -> dict[str, str]:
    """By column of numbers: when it is missing."""
    names = dict.fromkeys(name for number in plan.numbers for name in number.columns)
    if plan.weights is not None:
        names[plan.weights] = None
    return {name: _is_missing(name, database, number=True) for name in names}


def _is_missing(name: str, database: Database, *, number: bool) -> str:
    quoted = database.quoted(name)
    nan = f" OR isnan(CAST({quoted} AS DOUBLE))" if number else ""
    return f"{quoted} IS NULL{nan}"


def _gaps(plan: Plan, database: Database) -> dict[str, int]:
    """Missing values of every column."""
    when = {
        name: _is_missing(name, database, number=bool(_NUMBERS.fullmatch(database.types[name])))
        for name in plan.keys
    }
    when |= _missing(plan, database)
    asked = [f"coalesce(sum(CASE WHEN {gap} THEN 1 ELSE 0 END), 0)" for gap in when.values()]
    counts = _counts(database, asked)
    return {name: count for name, count in zip(when, counts, strict=True) if count}


def _counts(database: Database, asked: Sequence[str]) -> list[int]:
    """Numbers about all rows."""
    named = ", ".join(f"{what} AS c{i}" for i, what in enumerate(asked))
    frame = read_frame(database.answer(f"SELECT {named} FROM {database.rows}"), lambda _: True)
    assert frame is not None
    return [int(frame[f"c{i}"].iloc[0]) for i in range(len(asked))]
