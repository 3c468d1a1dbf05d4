"""Autocorrelations and variograms of fits whose residuals have subjects of their own."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax import plots

mpl.use("Agg")


def plots_in_sites(words: bool = False) -> pd.DataFrame:
    """Twelve sites of three plots, 14 years each, whose rows are not in the order of years."""
    rng = np.random.default_rng(1)
    e = np.zeros((12, 3, 14))
    for t in range(14):
        e[:, :, t] = 0.7 * e[:, :, max(t - 1, 0)] + rng.normal(size=(12, 3))
    site, plot, year = (a.ravel() for a in np.indices(e.shape))
    y = rng.normal(size=12)[site] + e.ravel()
    data = pd.DataFrame({"y": y, "site": site, "plot": plot, "year": year})
    if words:
        names = [f"year {t}" for t in range(14)]  # alphabetically 10 comes before 2
        data["year"] = pd.Categorical([names[t] for t in year], categories=names, ordered=True)
    return data.sample(frac=1.0, random_state=3).reset_index(drop=True)


def heights(ax) -> np.ndarray:
    return np.asarray(ax.collections[-1].get_offsets())[:, 1]


def lagged(data: pd.DataFrame, values: np.ndarray, group: list[str], lags: int) -> list[float]:
    """Equation 5.36 of Pinheiro and Bates, by shifting the rows of every group."""
    rows = data.assign(r=values, order=data["year"].cat.codes if words(data) else data["year"])
    rows = rows.sort_values([*group, "order"])
    variance = np.mean(rows["r"] ** 2)
    shifted = [rows["r"] * rows.groupby(group)["r"].shift(lag) for lag in range(1, lags + 1)]
    return [float(np.nanmean(x) / variance) for x in shifted]


def words(data: pd.DataFrame) -> bool:
    return isinstance(data["year"].dtype, pd.CategoricalDtype)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("options", [{}, {"time": "year"}, {"factor": "site:plot"}])
def test_residuals_go_by_the_subjects_of_their_covariance(named, options):
    data = plots_in_sites(named)
    res = lmm.fit("y ~ 1 + (1 | site) + cs(year | site:plot)", data)
    ax = plots.autocorrelation(res, lags=4, **options)
    expected = lagged(data, res.resid("whitened").to_numpy(), ["site", "plot"], 4)
    np.testing.assert_allclose(heights(ax), expected, rtol=1e-12)
    assert expected[0] > 0.4


def test_another_factor_can_be_asked_for():
    data = plots_in_sites()
    res = lmm.fit("y ~ 1 + (1 | site) + cs(year | site:plot)", data)
    for draw in (plots.autocorrelation, plots.residuals_by_group):
        for factor in ("site", "site:plot"):
            draw(res, factor=factor)
        with pytest.raises(lmm.DataError, match="choose from"):
            draw(res, factor="plot")
    ax = plots.variogram(res, data["year"], factor="site:plot")
    assert ax.get_xlabel() == "Distance in year"


def test_a_distance_is_in_the_units_of_the_data():
    """Visits of the covariance are counted in steps of two years."""
    teeth = lmm.load_dataset("orthodont")
    res = lmm.fit("distance ~ age + ar1(age | Subject)", teeth)
    found = np.asarray(plots.variogram(res, "age").collections[0].get_offsets())[:, 0]
    np.testing.assert_allclose(np.unique(found), [2.0, 4.0, 6.0])


def test_subjects_are_called_without_backticks():
    teeth = lmm.load_dataset("orthodont").rename(columns={"Subject": "Patient ID"})
    res = lmm.fit("distance ~ age + ar1(age | `Patient ID`)", teeth)
    assert "Subjects             Patient ID 27" in str(res.summary())
    assert plots.residuals_by_group(res).get_ylabel() == "Patient ID"
    assert plots.influence(lmm.influence(res)).get_xlabel() == "Patient ID"
