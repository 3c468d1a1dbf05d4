# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Reaction times under sleep restriction
#
# Belenky et al. (2003) allowed 18 people three hours of sleep a night and measured their
# reaction time (ms) on ten days. How much slower does a person get per day, and how
# much do people differ in that?

# %%
import pandas as pd

import lmm_jax as lmm

sleep = lmm.load_dataset("sleepstudy")
print(sleep.describe())

# %% [markdown]
# ## Fit
#
# `Days` alone is the average line. `(Days | Subject)` gives every person an intercept and a
# slope of their own, drawn from a bivariate normal distribution.

# %%
res = lmm.fit("Reaction ~ Days + (Days | Subject)", sleep)
print(res.summary())

# %% [markdown]
# `converged` says that the optimizer stands at a maximum; `singular` that a variance is
# zero or a correlation is one. They are separate facts.

# %%
assert res.converged
assert not res.singular

# %% [markdown]
# The variances are those of the data (ms squared for the intercept), and `sdcor` holds
# standard deviations and, in rows with two variables, the correlation.

# %%
print(res.varcorr)
print(res.conf_int())

# %% [markdown]
# ## Is the correlation needed?
#
# Two bars instead of one leave it out. Models with the same fixed effects can be compared
# by their restricted likelihoods; the smaller AIC is the better model.

# %%
independent = lmm.fit("Reaction ~ Days + (Days || Subject)", sleep)
print(f"AIC with correlation {res.aic:.2f}, without {independent.aic:.2f}")
assert independent.aic < res.aic

# %% [markdown]
# ## The persons
#
# The predicted random effects (BLUPs) are a person's deviations from the average line,
# with conditional standard deviations from `random_effects_cov`.

# %%
blups = res.random_effects["Subject"]
sd = res.random_effects_cov["Subject"].std_errors
print(blups.join(sd.add_prefix("sd ")).sort_values("Days"))

# %% [markdown]
# ## Predictions
#
# For the average person (`conditional=False`, the default) and for two of those in the
# study. A person the model has not seen is an error unless `new_levels` says otherwise.

# %%
new = pd.DataFrame({"Days": [0, 9, 0, 9], "Subject": ["308", "308", "309", "309"]})
new["average"] = res.predict(new)
new["person"] = res.predict(new, conditional=True)
print(new)

stranger = pd.DataFrame({"Days": [9], "Subject": ["999"]})
print(res.predict(stranger, conditional=True, new_levels="population"))

# %% [markdown]
# ## The same model in statsmodels' words

# %%
same = lmm.fit("Reaction ~ Days", sleep, groups="Subject", re_formula="~ Days")
assert abs(same.llf - res.llf) < 1e-8
