"""Small data sets for examples and tests."""

from importlib.resources import files

import pandas as pd

from .inputs.arguments import choice, hinted

# Levels of the factors in the order R has them; the first is the reference level of contrasts.
_LEVELS: dict[str, dict[str, str]] = {
    "cake": {
        "recipe": "A,B,C",
        "replicate": "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "tempf": "t175,t185,t195,t205,t215,t225",
    },
    "dyestuff": {"Batch": "A,B,C,D,E,F"},
    "dyestuff2": {"Batch": "A,B,C,D,E,F"},
    "fev1": {
        "USUBJID": ",".join(f"PT{number}" for number in range(1, 201)),
        "AVISIT": "VIS1,VIS2,VIS3,VIS4",
        "ARMCD": "PBO,TRT",
        "RACE": "Asian,Black or African American,White",
        "SEX": "Male,Female",
    },
    "machines": {"Machine": "A,B,C", "Worker": "6,2,4,1,3,5"},
    "oats": {
        "Variety": "Golden Rain,Marvellous,Victory",
        "Block": "VI,V,III,IV,II,I",
        "Nf": "n00,n20,n40,n60",
    },
    "orthodont": {
        "Subject": "M16,M05,M02,M11,M07,M08,M03,M12,M13,M14,M09,M15,M06,M04,M01,M10,"
        "F10,F09,F06,F01,F05,F07,F02,F08,F03,F04,F11",
        "Sex": "Male,Female",
    },
    "pastes": {
        "batch": "A,B,C,D,E,F,G,H,I,J",
        "cask": "a,b,c",
        "sample": "A:a,A:b,A:c,B:a,B:b,B:c,C:a,C:b,C:c,D:a,D:b,D:c,E:a,E:b,E:c,"
        "F:a,F:b,F:c,G:a,G:b,G:c,H:a,H:b,H:c,I:a,I:b,I:c,J:a,J:b,J:c",
    },
    "penicillin": {
        "plate": "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x",
        "sample": "A,B,C,D,E,F",
    },
    "sleepstudy": {
        "Subject": "308,309,310,330,331,332,333,334,335,337,349,350,351,352,369,370,371,372"
    },
}


@hinted
def load_dataset(name: str) -> pd.DataFrame:
    """Load one of the classical data sets of mixed models.

    =============  ====  =======================================================================
    name           rows  what was measured
    =============  ====  =======================================================================
    ``cake``       270   breaking angle of chocolate cakes: 3 recipes in 15 replicates, baked at
                         6 temperatures (``temp``, and as the factor ``tempf``) [1]_ [2]_
    ``dyestuff``   30    yield of dyestuff, 5 preparations from each of 6 batches [3]_
    ``dyestuff2``  30    the same layout, simulated so that the batch variance is estimated as
                         zero [4]_
    ``fev1``       800   forced expired volume of 200 patients at 4 visits of a trial with two arms
                         (artificial; 263 values are missing; ``WEIGHT`` are weights) [10]_
    ``machines``   54    productivity of 6 workers on 3 machines, 3 times each [5]_ [6]_
    ``oats``       72    yield of oats in a split plot: 6 blocks, 3 varieties, 4 amounts of
                         nitrogen (``nitro``, and as the factor ``Nf``) [7]_ [6]_
    ``orthodont``  108   distance from pituitary to pterygomaxillary fissure (mm) of 27 children
                         at ages 8, 10, 12, 14 (``agec`` is age less 11) [8]_ [6]_
    ``pastes``     60    strength of a chemical paste: 10 batches, 3 casks of each, 2 tests of
                         each; ``sample`` is the batch and cask [3]_
    ``penicillin`` 144   diameter of growth inhibition (mm): 24 plates crossed with 6 samples
                         of penicillin [3]_
    ``sleepstudy`` 180   reaction time (ms) of 18 people over 10 days of restricted sleep [9]_
    =============  ====  =======================================================================

    Parameters
    ----------
    name : str
        A name from the table.

    Returns
    -------
    pandas.DataFrame
        One row per observation. Factors are categorical, their levels in the order that lme4
        and nlme give them, from which the data are taken.

    Raises
    ------
    DataError
        If there is no data set of that name.

    References
    ----------
    .. [1] Cook, F. E. (1938). Chocolate cake, I. Optimum baking temperature. Master's thesis,
       Iowa State College.
    .. [2] Cochran, W. G. & Cox, G. M. (1957). Experimental Designs, 2nd ed. Wiley.
    .. [3] Davies, O. L. & Goldsmith, P. L., eds. (1972). Statistical Methods in Research and
       Production, 4th ed. Oliver and Boyd.
    .. [4] Box, G. E. P. & Tiao, G. C. (1973). Bayesian Inference in Statistical Analysis.
       Addison-Wesley.
    .. [5] Milliken, G. A. & Johnson, D. E. (1992). Analysis of Messy Data, Volume I: Designed
       Experiments. Chapman & Hall.
    .. [6] Pinheiro, J. C. & Bates, D. M. (2000). Mixed-Effects Models in S and S-PLUS. Springer.
       doi:10.1007/b98882
    .. [7] Yates, F. (1935). Complex experiments. Supplement to the Journal of the Royal
       Statistical Society, 2, 181-247. doi:10.2307/2983638
    .. [8] Potthoff, R. F. & Roy, S. N. (1964). A generalized multivariate analysis of variance
       model useful especially for growth curve problems. Biometrika, 51, 313-326.
       doi:10.1093/biomet/51.3-4.313
    .. [9] Belenky, G. et al. (2003). Patterns of performance degradation and restoration during
       sleep restriction and subsequent recovery: a sleep dose-response study. Journal of Sleep
       Research, 12, 1-12. doi:10.1046/j.1365-2869.2003.00337.x
    .. [10] ``fev_data`` of the R package mmrm, https://github.com/openpharma/mmrm, under the Apache
       License 2.0, a copy of which lies beside the data.

    Examples
    --------
    >>> from lmm_jax.datasets import load_dataset
    >>> data = load_dataset("sleepstudy")
    >>> data.shape
    (180, 3)
    >>> data["Subject"].cat.categories[:3].tolist()
    ['308', '309', '310']
    """
    choice(name, "name", tuple(_LEVELS))
    levels = {column: text.split(",") for column, text in _LEVELS[name].items()}
    with (files("lmm_jax") / "data" / f"{name}.csv").open(encoding="utf-8") as source:
        data = pd.read_csv(source, dtype=dict.fromkeys(levels, str))
    return data.assign(**{c: pd.Categorical(data[c], categories=v) for c, v in levels.items()})
