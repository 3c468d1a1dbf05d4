# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Growth curves: reaction times under sleep restriction
#
# Belenky et al. (2003) let people spend three hours in bed a night and measured their reaction
# time every day. Two questions: **how much slower does a person get per day, and how much do
# people differ in that?** The first is about a mean, the second about a variance, and one model
# answers both.
#
# This chapter goes the whole way once: raw data, model, fit, what each number says, checks, the
# test of the random slope, intervals, predictions, and the sentence for the paper.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lmm_jax as lmm

sleep = lmm.load_dataset("sleepstudy")
sleep.groupby("Days")["Reaction"].agg(["count", "mean", "std"]).round(1).T

# %% [markdown]
# The means climb by about 10 ms a day, and so does their spread: from 32 ms on the first day to
# 67 ms on the last. Both will be parts of the model.
#
# ## Look at everybody first
#
# One panel a person, each with its own least-squares line.

# %%
people = dict(list(sleep.groupby("Subject", observed=True)))
own = pd.DataFrame(
    {name: np.polyfit(one["Days"], one["Reaction"], 1)[::-1] for name, one in people.items()},
    index=["Intercept", "Days"],
).T
fig, panels = plt.subplots(3, 6, figsize=(9.5, 5), sharex=True, sharey=True, layout="constrained")
for ax, name in zip(panels.flat, own.sort_values("Days").index, strict=True):
    ax.scatter(people[name]["Days"], people[name]["Reaction"], s=10, color="0.2")
    ax.axline((0, own.loc[name, "Intercept"]), slope=own.loc[name, "Days"], color="C0")
    ax.set_title(name, fontsize="small")
_ = fig.supxlabel("Days of sleep restriction")
_ = fig.supylabel("Reaction time (ms)")

# %%
own.agg(["mean", "std", "min", "max"]).round(2)

# %% [markdown]
# Straight lines describe nearly everybody. The slopes reach from -2.9 (subject 335, who gets
# *faster*) to 21.8 ms a day, far more than the scatter around a line explains.
#
# ## Two ways not to do it
#
# **Complete pooling** ignores who was measured: one line through 180 points, as if they were 180
# people. **No pooling** is the figure above: 18 lines of which each knows only ten points. The
# first understates what is not known about the slope; the second has no population at all.

# %%
X = np.column_stack([np.ones(len(sleep)), sleep["Days"]])
beta, rss, *_ = np.linalg.lstsq(X, sleep["Reaction"])
pooled = np.sqrt(np.diag(np.linalg.inv(X.T @ X)) * rss[0] / (len(sleep) - 2))
print(f"complete pooling: slope {beta[1]:.2f}, standard error {pooled[1]:.2f} on 178 df")

# %% [markdown]
# ## The model
#
# Person $i$ on day $t$ has
#
# $$ y_{it} = (\beta_0 + b_{0i}) + (\beta_1 + b_{1i})\,t + \varepsilon_{it}, \qquad
# \begin{pmatrix} b_{0i} \\ b_{1i} \end{pmatrix} \sim
# N\!\left(0, \begin{pmatrix} \tau_0^2 & \rho \tau_0 \tau_1 \\ \rho \tau_0 \tau_1 & \tau_1^2
# \end{pmatrix}\right), \qquad \varepsilon_{it} \sim N(0, \sigma^2). $$
#
# $\beta$ is the line of the average person. $\tau_1$ is how much people differ in their slopes,
# $\tau_0$ how much they differ on day 0, and $\sigma$ is the scatter of one person's days. Two
# days $s, t$ of one person have the covariance
# $\tau_0^2 + (s + t)\rho\tau_0\tau_1 + st\,\tau_1^2$: the model has the growing spread of the
# table above built in.
#
# In the formula the bar says who varies: `Days` outside of the parentheses is the average line,
# `(Days | Subject)` an intercept and a slope for each subject. The intercepts are implied, as
# `Days` stands for `1 + Days`.

# %%
res = lmm.fit("Reaction ~ Days + (Days | Subject)", sleep)
res

# %% [markdown]
# Read it from top to bottom.
#
# - *Converged* says that the optimizer stands at a maximum. Whether a variance is zero or a
#   correlation is one is another fact, `res.singular`. Both have a line here if anything is wrong.
# - *Random effects*: people differ by 25 ms on day 0 and by 5.9 ms a day in their slopes. Two
#   thirds of all people are expected to have slopes in $10.5 \pm 5.9$.
# - *Residual*: a person's day is off that person's line by 26 ms.
# - *Corr.* 0.07: who starts slow does not get slower any faster. It is a correlation between
#   *intercepts on day 0* and slopes and would be another number if days were counted from 5.
# - *Fixed effects*: 10.5 ms a day with a standard error of 1.5. It has 17 degrees of freedom,
#   since what is being averaged are 18 slopes, not 180 measurements.
#
# The slope's standard error was 1.24 with complete pooling. With a random intercept alone it
# would be

# %%
parallel = lmm.fit("Reaction ~ Days + (1 | Subject)", sleep)
print(f"random intercepts: standard error of the slope {parallel.bse_fe['Days']:.2f}")
print(f"random slopes:     standard error of the slope {res.bse_fe['Days']:.2f}")

# %% [markdown]
# half of what it should be: parallel lines let every one of the 180 points speak about the common
# slope, and only the variance of the slopes says that it is 18 people who do. A random slope that
# is left out makes tests of its fixed effect too optimistic (Barr et al. 2013).
#
# ## Partial pooling
#
# The predictions of the random effects (BLUPs) are compromises: each person's own line is drawn
# towards the average, the more the less it knows. With design $Z_i$ (a row $(1, t)$ a day) and
# covariance $\Psi$,
#
# $$ \hat b_i = \Psi Z_i' (Z_i \Psi Z_i' + \sigma^2 I)^{-1} (y_i - X_i \hat\beta). $$

# %%
ax = lmm.plots.shrinkage(res, label=True)

# %% [markdown]
# Arrows lead from the separate lines to the mixed model's. Everybody has the same ten days here,
# so all are drawn by the same matrix: strongest along the direction that ten points know least
# about, which is to start low and rise steeply, or the other way round (370, 330). Person 335,
# whose own line falls by 2.9 ms a day, ends with a slope of -0.3.

# %%
panels = lmm.plots.fits(res, "Days", columns=6)

# %% [markdown]
# Solid lines are the persons', the dashed line the population's. The numbers behind them, with
# conditional standard deviations:

# %%
res.random_effects_frame().query("term == 'Days'").sort_values("estimate").iloc[[0, 1, -2, -1]]

# %% [markdown]
# ## Is the model right?

# %%
panels = res.plot()

# %% [markdown]
# No trend in the residuals and no fan; a few days lie far out, both ways (the ends of the normal
# plot), and no person's intercept stands apart from the others. Whose days are these?

# %%
ax = lmm.plots.residuals_by_group(res)

# %% [markdown]
# Those of 308 and 332: single nights, which a linear curve cannot follow. Two further questions
# are left. Would the model have drawn such data? `simulate_residuals` ranks every observation
# among 250 that the model draws; if it is right the ranks are uniform.

# %%
lmm.simulate_residuals(res, seed=1)

# %% [markdown]
# And does the slope hang on single persons? Without each of them in turn:

# %%
influence = lmm.influence(res)
ax = lmm.plots.influence(influence, label=3)

# %%
influence.params["Days"].agg(["min", "max"]).round(2)

# %% [markdown]
# Whoever is left out, the slope stays between 9.8 and 11.3 ms a day, half a standard error around
# the estimate.
#
# ## Do people really differ in their slopes?
#
# The null hypothesis $\tau_1 = 0$ lies on the boundary: an estimate of a variance can miss zero to
# one side only, and a chi-square with 2 degrees of freedom (for the variance and the correlation)
# is too large a yardstick. Under the null the likelihood ratio is a mixture, half
# $\chi^2_1$ and half $\chi^2_2$ (Stram & Lee 1994), which is `p_boundary`. `lmm.ranova` leaves
# out each random slope in turn; as the fixed effects stay the same, it compares restricted
# likelihoods.

# %%
lmm.ranova(res)

# %% [markdown]
# 42.8 is beyond doubt by any yardstick. The correlation is another matter: two bars leave it out.

# %%
independent = lmm.fit("Reaction ~ Days + (Days || Subject)", sleep)
lmm.anova(independent, res, refit=False)

# %% [markdown]
# `refit=False` keeps the restricted likelihoods; otherwise `lmm.anova` refits by ML. The data do
# not need the correlation (AIC falls by 2 without it). Leaving it out is nevertheless a statement
# about day 0: with another origin of time intercepts and slopes are correlated. It stays here
# because it costs nothing, and the fixed effects do not notice.

# %%
assert res.converged and not res.singular
assert independent.aic < res.aic
assert np.allclose(independent.fe_params, res.fe_params)

# %% [markdown]
# ## Intervals
#
# `res.conf_int()` is estimate plus and minus t times a standard error. A standard deviation has a
# skew distribution, and with 18 people it is felt. Two better ways:
#
# - the **profile**: all values that a likelihood-ratio test would not reject;
# - the **parametric bootstrap**: draw data from the fit, fit them again, and look where the middle
#   95 % of the estimates are.

# %%
profile = lmm.profile(res)
boot = lmm.bootstrap(res, 1000, seed=1)
limits = {"profile": profile.conf_int(), "bootstrap": boot.conf_int(scale="sdcor")}
pd.concat(limits, axis=1).round(2)

# %%
panels = lmm.plots.profile(profile)

# %% [markdown]
# The curves are signed roots of the deviance: straight where estimate plus and minus two standard
# errors is right, as for the fixed effects, bent for the standard deviations. The standard
# deviation of the slopes is between 3.8 and 8.8 ms a day: people do differ, and by how much is
# known to a factor of two. The bootstrap's percentiles lie a
# little lower than the profile's limits: they say how estimates scatter about the one at hand, and
# the skewness then points to the wrong side.
#
# ## Prediction
#
# Three different questions on day 9, with three answers:
#
# - the *average* person: the confidence interval of the mean line;
# - a *known* person: the BLUPs are part of it;
# - a *new* person: the mean line again, but a person's deviation is unknown and adds
#   $\tau_0^2 + 18\rho\tau_0\tau_1 + 81\tau_1^2$, and a day of that person adds $\sigma^2$.

# %%
day9 = pd.DataFrame({"Days": [9, 9, 9], "Subject": ["308", "335", "somebody new"]})
average = res.predict(day9, interval="confidence").iloc[:1]
one = res.predict(day9, interval="prediction", conditional=True, new_levels="population")
pd.concat([average, one]).set_axis(["average person", *day9["Subject"]]).round(0)

# %% [markdown]
# What holds for the average person to within 30 ms holds for the next person to within 130. A
# person that the fit has not seen is an error unless `new_levels="population"` asks for this.

# %%
ax = lmm.plots.predictions(res, "Days")

# %% [markdown]
# Dark is the band of the mean, the dotted lines hold a new observation of a new person.
#
# ## The sentence for the paper

# %%
test = res.t_test("Days = 0", df_method="kenward-roger")
low, high = test.conf_int()[0]
slopes = profile.conf_int().loc["sd(Days|Subject)"]
sentence = (
    "Reaction times were analysed by a linear mixed model with a fixed effect of days and "
    "correlated random intercepts and slopes by subject (REML). Reaction time rose by "
    f"{test.effect[0]:.1f} ms per day (95 % CI {low:.1f} to {high:.1f}, "
    f"t({test.df_denom[0]:.0f}) = {test.tvalue[0]:.2f}, p < 0.001, Kenward-Roger). Subjects "
    f"differed in their slopes (SD {res.varcorr['sdcor'].iloc[1]:.1f} ms per day, 95 % profile "
    f"CI {slopes.iloc[0]:.1f} to {slopes.iloc[1]:.1f})."
)
print(fill(sentence, 90))

# %% [markdown]
# ## Coming from statsmodels
#
# `MixedLM`'s spelling gives the same model.

# %%
same = lmm.fit("Reaction ~ Days", sleep, groups="Subject", re_formula="~ Days")
assert abs(same.llf - res.llf) < 1e-8

# %% [markdown]
# ## Exercises
#
# 1. The first two days were adaptation and training, and day 2 was the baseline. Refit with
#    `subset="Days >= 2"` and days counted from there. Which parameters change, and why does the
#    correlation?
# 2. Add `I(Days**2)`. Is the average curve straight? (Compare the two models by ML, which
#    `lmm.anova` does by itself where fixed effects differ.)
# 3. Neighbouring days may be alike beyond the line: fit
#    `Reaction ~ Days + (Days | Subject) + ar1(Days | Subject)`, where the last term is a covariance
#    of residuals, and look at `lmm.plots.autocorrelation(res, time="Days")`.
# 4. Take reaction *speed*, `1000 / Reaction`, as the response. Are 308 and 332 still so far out?
#
# ## Further reading
#
# - Barr, D. J., Levy, R., Scheepers, C. & Tily, H. J. (2013). Random effects structure for
#   confirmatory hypothesis testing: keep it maximal. *Journal of Memory and Language*, 68,
#   255-278. doi:10.1016/j.jml.2012.11.001
# - Bates, D., Mächler, M., Bolker, B. & Walker, S. (2015). Fitting linear mixed-effects models
#   using lme4. *Journal of Statistical Software*, 67(1). doi:10.18637/jss.v067.i01
# - Belenky, G. et al. (2003). Patterns of performance degradation and restoration during sleep
#   restriction and subsequent recovery: a sleep dose-response study. *Journal of Sleep Research*,
#   12, 1-12. doi:10.1046/j.1365-2869.2003.00337.x
# - Gelman, A. & Hill, J. (2007). *Data Analysis Using Regression and Multilevel/Hierarchical
#   Models*. Cambridge University Press. doi:10.1017/CBO9780511790942
# - Stram, D. O. & Lee, J. W. (1994). Variance components testing in the longitudinal mixed effects
#   model. *Biometrics*, 50, 1171-1177. doi:10.2307/2533455
