# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A clinical trial with repeated measures
#
# 200 patients were randomized to a treatment or a placebo, and the volume of air that they can
# breathe out in one second (FEV1) was measured at four visits. Patients missed visits. **What is
# the effect of the treatment at each visit, above all at the last?**
#
# The usual analysis is the *mixed model for repeated measures* (MMRM): the mean of every arm at
# every visit is free, and so is the covariance of a patient's visits; nothing is imputed. The data
# are artificial (`fev_data` of the R package mmrm).

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

import lmm_jax as lmm

fev = lmm.load_dataset("fev1")
seen = fev.assign(seen=fev["FEV1"].notna())
seen.groupby(["ARMCD", "AVISIT"], observed=True).agg(
    patients=("seen", "size"), seen=("seen", "sum"), mean=("FEV1", "mean"), sd=("FEV1", "std")
).round(1)

# %% [markdown]
# Means rise in both arms, and the spread differs between visits: twice as large at the last as at
# the third. A third of all visits is missing. In which patterns?
#
# ## Missing visits
#
# A pattern says which of the four visits took place (`1`) or not (`.`).

# %%
wide = seen.pivot_table("seen", ["USUBJID", "ARMCD"], "AVISIT", observed=True)
pattern = wide.apply(lambda row: "".join("1" if there else "." for there in row), axis=1)
pattern = pattern.rename("pattern").reset_index()
pd.crosstab(pattern["pattern"], pattern["ARMCD"], margins=True).sort_values("All").iloc[::-1].T

# %% [markdown]
# Few patients simply drop out: 118 of 200 miss a visit and come back. An analysis of the patients
# with complete records would keep 39 of 200, and it would be biased if patients stay away because
# of how they do. Three kinds of mechanisms (Rubin 1976; Little & Rubin 2019):
#
# - missing *completely at random*: it has nothing to do with the outcome;
# - missing *at random* (MAR): it depends on what was observed, such as earlier visits, arm,
#   baseline;
# - missing *not at random*: it depends on the value that was not seen.
#
# A likelihood of the observed values is valid under the first two. The third cannot be excluded by
# any data; the end of the chapter asks how bad it would have to be.

# %%
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, one in fev.dropna(subset="FEV1").groupby(["ARMCD", "USUBJID"], observed=True):
    ax.plot(one["VISITN"], one["FEV1"], color="C0" if name[0] == "PBO" else "C1", lw=0.5, alpha=0.4)
for arm, one in fev.groupby("ARMCD", observed=True):
    means = one.groupby("VISITN")["FEV1"].mean()
    ax.plot(means, color="C0" if arm == "PBO" else "C1", lw=3, marker="o", label=arm)
ax.set(xticks=[1, 2, 3, 4], xlabel="Visit", ylabel="FEV1")
_ = ax.legend(title="Observed mean")

# %% [markdown]
# ## The model
#
# For patient $i$ the vector of the four visits is
#
# $$ y_i \sim N(X_i \beta, \Sigma), \qquad \Sigma \text{ any covariance matrix of four visits.} $$
#
# If only some visits $o_i$ took place, it is $N(X_{i,o_i}\beta, \Sigma_{o_i o_i})$: the rows and
# columns of those that did. There are no random effects. Baseline FEV1, race and sex are
# covariates; the covariates do not only adjust, they make "missing at random" more plausible.
# `us(AVISIT | USUBJID)` is the unstructured covariance of the visits of a patient.

# %%
formula = "FEV1 ~ FEV1_BL + RACE + SEX + ARMCD * AVISIT + us(AVISIT | USUBJID)"
trial = lmm.mmrm(formula, fev)
trial

# %% [markdown]
# - *Subjects* counts who was seen, how often, and in how many patterns; three patients without any
#   visit say nothing.
# - *Degrees of freedom* are Kenward and Roger's, which also enlarge standard errors for the
#   uncertainty of the estimated covariance (`kenward-roger-linear` is SAS's `ddfm=kr(linear)` and
#   the default of the protocol-minded `lmm.mmrm`).
# - With treatment contrasts `ARMCD[T.TRT]` is the difference *at the first visit*, and the
#   interactions say by how much it is another one later. What a protocol asks for are the
#   differences at every visit, below.
#
# The estimated covariance:

# %%
trial.residual_cov().round(1)

# %%
trial.residual_corr().round(2)

# %% [markdown]
# Not what any simple structure would say: the third visit varies least and the last most, and
# correlations are small once the baseline is known. An MMRM leaves the covariance free for that
# reason: it need not be guessed in a protocol years ahead.
#
# ## The effect of treatment

# %%
means = lmm.emmeans(trial, "ARMCD", by="AVISIT")
ax = lmm.plots.interaction(means, x="AVISIT")

# %%
effects = means.pairs(reverse=True)
effects

# %% [markdown]
# Each row is a test by itself: the protocol names one visit as primary, so that no adjustment is
# needed. Drawn with their limits:

# %%
table = effects.to_frame()
fig, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
size = [table["estimate"] - table["conf_low"], table["conf_high"] - table["estimate"]]
ax.errorbar(table["estimate"], table["AVISIT"].astype(str), xerr=size, fmt="o", capsize=4)
ax.axvline(0, color="0.4", ls="--", lw=1)
ax.invert_yaxis()
_ = ax.set_xlabel("Treatment - placebo, FEV1, 95 % limits")

# %% [markdown]
# All four intervals lie above zero. Does the effect change over time? And is there one, whatever
# the visit?

# %%
trial.anova()

# %%
lmm.emmeans(trial, "ARMCD").pairs(reverse=True)

# %% [markdown]
# No interaction (F = 0.4): the effect is there from the first visit on, about 4 points.
#
# ## Is the unstructured covariance needed?
#
# It has ten parameters for four visits. With more visits and fewer patients it may not converge,
# and a protocol then names simpler structures to fall back to (`fallback=` of `lmm.mmrm`). Here
# they can be compared, all with the same fixed effects and by REML:

# %%
structures = {
    "us": "any covariance",
    "toeph": "correlation by lag, a variance for every visit",
    "csh": "one correlation, a variance for every visit",
    "ar1h": "rho to the lag, a variance for every visit",
    "cs": "one correlation, one variance",
    "ar1": "rho to the lag, one variance",
}
fits = {name: lmm.mmrm(formula.replace("us(", f"{name}("), fev) for name in structures}
rows = []
for name, fit in fits.items():
    last = lmm.emmeans(fit, "ARMCD", by="AVISIT").pairs(reverse=True).to_frame().iloc[-1]
    n = fit.residual_params.size + (name in ("cs", "ar1"))  # their variance is res.scale
    rows.append([structures[name], n, -2 * fit.llf, fit.aic, last["estimate"], last["std_error"]])
compared = pd.DataFrame(rows, index=list(fits)).set_axis(
    ["covariance", "parameters", "-2 llf", "AIC", "effect at VIS4", "std. error"], axis=1
)
assert compared["AIC"].idxmin() in ("us", "csh", "toeph", "ar1h")
compared.round(2)

# %% [markdown]
# The structures with one variance are out of the question: AIC is more than 120 higher, and the
# standard error at the last visit, which varies most, is far too small. One correlation with four
# variances (`csh`) is as good as the unstructured covariance, with half the parameters. The
# estimate hardly depends on the structure, its standard error does. If one prefers not to rely on
# any of them, empirical ("sandwich") standard errors are valid with a wrong covariance too:

# %%
empirical = fits["cs"].robust("CR2")
lmm.emmeans(empirical, "ARMCD", by="AVISIT").pairs(reverse=True)

# %% [markdown]
# Even from compound symmetry the last visit gets a standard error near that of the unstructured
# model.
#
# ## Is the model right?
#
# Residuals, made independent of each other by the estimated covariance, should be standard normal.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
lmm.plots.residuals_fitted(trial, ax=left)
_ = lmm.plots.qq_residuals(trial, kind="whitened", ax=right)

# %% [markdown]
# ## If values are missing not at random
#
# MAR says: a patient who stays away would have done as others with the same history. Suppose that
# treated patients who miss a visit would have been worse than that by $\delta$. Multiple imputation
# makes the assumption concrete: draw the missing values from what the model says of them given
# what was seen, take $\delta$ from those of the treatment arm, analyse, and combine the analyses by
# Rubin's rules. Where does the conclusion tip over?
#
# A draw has two parts. Parameters are uncertain, so $\beta$ is drawn from its distribution first
# ($\Sigma$ is kept, a simplification); then the missing visits, from their conditional normal
# distribution given the patient's own visits. `predict(conditional=True)` uses exactly that
# distribution; here it is written out.

# %%
full = fev.sort_values(["USUBJID", "VISITN"], ignore_index=True)
design_rows = trial.model_matrix(full).to_numpy().reshape(200, 4, -1)
observed = full["FEV1"].to_numpy().reshape(200, 4)
Sigma = trial.residual_cov().to_numpy()
treated = (full["ARMCD"] == "TRT").to_numpy().reshape(200, 4)
gone = np.isnan(observed)


def impute(rng):
    """The responses of all visits, the missing ones drawn."""
    beta = rng.multivariate_normal(trial.fe_params, trial.cov_params().to_numpy()[:12, :12])
    mean, filled = design_rows @ beta, observed.copy()
    for i in np.flatnonzero(gone.any(axis=1)):
        m, o = gone[i], ~gone[i]
        slope = np.linalg.solve(Sigma[np.ix_(o, o)], Sigma[np.ix_(o, m)]).T
        center = mean[i, m] + slope @ (observed[i, o] - mean[i, o])
        spread = Sigma[np.ix_(m, m)] - slope @ Sigma[np.ix_(o, m)]
        filled[i, m] = rng.multivariate_normal(center, spread)
    return filled


# %% [markdown]
# A completed trial can be analysed at its last visit by least squares (what is observed at earlier
# visits has gone into the draws). 50 completed trials, for each $\delta$ moved by it, combined:

# %%
X = design_rows[:, 3][:, [0, 1, 2, 3, 4, 5]]  # intercept, baseline, race, sex, arm
draws = np.random.default_rng(1)
completed = [impute(draws)[:, 3] for _ in range(50)]
inverse = np.linalg.inv(X.T @ X)


def analysis(delta):
    """Effect at the last visit, its standard error and degrees of freedom (Barnard and Rubin's)."""
    estimates, variances = [], []
    for y in completed:
        y = y - delta * (gone[:, 3] & treated[:, 3])
        beta = inverse @ X.T @ y
        estimates.append(beta[5])
        variances.append(inverse[5, 5] * np.sum((y - X @ beta) ** 2) / (200 - 6))
    between, within = 1.02 * np.var(estimates, ddof=1), np.mean(variances)  # 1 + 1 / 50
    missing = between / (within + between)  # share of the information
    seen = 195 / 197 * 194 * (1 - missing)
    df = 1 / (missing**2 / 49 + 1 / seen)
    return np.mean(estimates), np.sqrt(within + between), df


deltas = np.arange(0, 11, 2)
tipping = pd.DataFrame([analysis(delta) for delta in deltas], index=pd.Index(deltas, name="delta"))
tipping.columns = ["estimate", "std_error", "df"]
half = stats.t.ppf(0.975, tipping["df"]) * tipping["std_error"]
tipping["conf_low"], tipping["conf_high"] = tipping["estimate"] - half, tipping["estimate"] + half
assert abs(tipping["estimate"][0] - table["estimate"].iloc[-1]) < table["std_error"].iloc[-1] / 2
tipping.round(2)

# %% [markdown]
# With $\delta = 0$ the imputations repeat the MMRM, but for the simulation and the simpler
# analysis: both assume MAR. The lower limit passes zero where treated patients who stayed away
# were worse than their history says by about 2.3 points, more than half of the whole effect of the
# treatment. Whether that can be is a question to clinicians; the analysis says how bad it would
# have to be.
#
# ## For the paper
#
# The table, as LaTeX that needs the package booktabs alone:

# %%
print(effects.to_latex())

# %%
last = table.iloc[-1]
sentence = (
    "FEV1 was analysed by a mixed model for repeated measures with treatment, visit, their "
    "interaction, baseline FEV1, race and sex as fixed effects and an unstructured covariance of "
    "the visits of a patient (REML, Kenward-Roger degrees of freedom); values that were not "
    "observed were assumed to be missing at random. At visit 4 FEV1 was higher under treatment "
    f"by {last['estimate']:.1f} points (95 % CI {last['conf_low']:.1f} to "
    f"{last['conf_high']:.1f}, p = {last['p_value']:.3f}), with no evidence that the effect "
    f"differed between visits (F(3, 154) = {trial.anova()['f'].iloc[-1]:.2f}, p = "
    f"{trial.anova()['p_value'].iloc[-1]:.2f})."
)
print(fill(sentence, 90))

# %% [markdown]
# ## Exercises
#
# 1. Analyse the change from baseline, `FEV1 - FEV1_BL`. Which numbers change, and which do not?
# 2. Let the effect of the baseline differ between visits (`FEV1_BL * AVISIT`). Is it needed?
# 3. Give each arm a covariance of its own, `us(AVISIT | ARMCD / USUBJID)`, and compare with
#    `lmm.anova(..., refit=False)`.
# 4. Is the treatment better than placebo by *more than 1 point*? `effects.test(null=1,
#    side=">")`.
# 5. Draw $\Sigma$ as well in `impute`, from `lmm.simulate` of the fit and a new fit (a parametric
#    bootstrap). How much wider do the intervals become?
#
# ## Further reading
#
# - Barnard, J. & Rubin, D. B. (1999). Small-sample degrees of freedom with multiple imputation.
#   *Biometrika*, 86, 948-955. doi:10.1093/biomet/86.4.948
# - Kenward, M. G. & Roger, J. H. (1997). Small sample inference for fixed effects from restricted
#   maximum likelihood. *Biometrics*, 53, 983-997. doi:10.2307/2533558
# - Little, R. J. A. & Rubin, D. B. (2019). *Statistical Analysis with Missing Data*, 3rd ed. Wiley.
#   doi:10.1002/9781119482260
# - Mallinckrodt, C. H., Lane, P. W., Schnell, D., Peng, Y. & Mancuso, J. P. (2008). Recommendations
#   for the primary analysis of continuous endpoints in longitudinal clinical trials. *Drug
#   Information Journal*, 42, 303-319. doi:10.1177/009286150804200402
# - Rubin, D. B. (1976). Inference and missing data. *Biometrika*, 63, 581-592.
#   doi:10.1093/biomet/63.3.581
