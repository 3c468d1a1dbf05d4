# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A designed experiment: the split plot
#
# Yates (1935) reports a field trial on oats. Six blocks of land are divided into three whole plots
# each, and each whole plot is sown with one of three **varieties**. Every whole plot is divided
# into four subplots, which get four amounts of **nitrogen** (0, 0.2, 0.4 and 0.6 cwt per acre).
# The questions: **do varieties differ in yield, what does nitrogen do, and does its effect depend
# on the variety?**
#
# Both treatments were drawn by lot, but at different levels: variety for a whole plot, nitrogen
# for a subplot. A treatment has to be judged by the variation between the units that it was drawn
# for. This chapter shows that a mixed model does that by itself, with the very F tests of the
# classical analysis of variance, and what it offers beyond them.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lmm_jax as lmm

oats = lmm.load_dataset("oats")
oats.pivot_table("yld", ["Block", "Variety"], "Nf", observed=True).head(6)

# %% [markdown]
# ## The design as a picture
#
# A row of panels is a block, a panel a whole plot, a cell a subplot; the shade is the yield.

# %%
fig, panels = plt.subplots(6, 3, figsize=(8, 4.6), layout="constrained")
shades = {"vmin": oats["yld"].min(), "vmax": 200, "cmap": "YlGn", "aspect": "auto"}
whole_plots = oats.groupby(["Block", "Variety"], observed=True)["yld"]
for ax, ((block, variety), yields) in zip(panels.flat, whole_plots, strict=True):
    drawn = ax.imshow(yields.to_numpy()[None], **shades)
    for place, value in enumerate(yields):
        ax.text(place, 0, f"{value:.0f}", ha="center", va="center", fontsize="small")
    ax.set(xticks=[], yticks=[])
    if variety == "Golden Rain":
        ax.set_ylabel(block, rotation=0, ha="right", va="center")
for ax, variety in zip(panels[0], oats["Variety"].cat.categories, strict=True):
    ax.set_title(variety)
for ax in panels[-1]:
    ax.set_xticks(range(4), oats["Nf"].cat.categories)
_ = fig.colorbar(drawn, ax=panels, label="yield (quarter lbs)", shrink=0.8)

# %% [markdown]
# Yields grow to the right in nearly every panel: nitrogen works. Block I, the last row, is dark
# throughout: blocks differ. And panels of one block differ as a whole, by variety or by the ground
# they lie on. The picture shows the treatments in order; in the field their places were drawn.
#
# ## The classical analysis: three strata
#
# The total variation falls into three parts: between blocks, between whole plots of a block, and
# between subplots of a whole plot. Nothing but means and squares is needed for a balanced design.

# %%
y = oats["yld"]


def mean_of(*factors):
    """For every subplot, the mean of all subplots that share its levels of these factors."""
    return y.groupby([oats[name] for name in factors], observed=True).transform("mean")


grand, block, variety, nitrogen = y.mean(), mean_of("Block"), mean_of("Variety"), mean_of("Nf")
plot, cell = mean_of("Block", "Variety"), mean_of("Variety", "Nf")
pieces = {
    ("block", "blocks"): (block - grand, 5),
    ("whole plot", "Variety"): (variety - grand, 2),
    ("whole plot", "residual"): (plot - block - variety + grand, 10),
    ("subplot", "Nf"): (nitrogen - grand, 3),
    ("subplot", "Variety:Nf"): (cell - variety - nitrogen + grand, 6),
    ("subplot", "residual"): (y - plot - cell + variety, 45),
}
strata = pd.DataFrame({name: [(d**2).sum(), df] for name, (d, df) in pieces.items()}).T
strata.columns = ["sum_sq", "df"]
strata["mean_sq"] = strata["sum_sq"] / strata["df"]
classical = pd.Series(
    {
        name: strata.loc[(stratum, name), "mean_sq"] / strata.loc[(stratum, "residual"), "mean_sq"]
        for stratum, name in pieces
        if name not in ("blocks", "residual")
    }
)
strata["f"] = [np.nan, classical["Variety"], np.nan, *classical[1:], np.nan]
strata.round(2)

# %% [markdown]
# Variety is compared with the residual *of its stratum*: the mean square of varieties, 893, is not
# much more than the 601 by which whole plots vary anyway (F = 1.49 on 2 and 10 degrees of freedom).
# Nitrogen is compared with 177, the variation of subplots within a whole plot. Whoever divided
# everything by one residual, as if 72 plots had been drawn by lot, would find

# %%
pool = strata.loc[[("whole plot", "residual"), ("subplot", "residual")]]
one_residual = pool["sum_sq"].sum() / pool["df"].sum()
varieties = strata.loc[("whole plot", "Variety"), "mean_sq"]
wrong = varieties / one_residual
print(f"with one residual: F = {varieties:.0f} / {one_residual:.0f} = {wrong:.2f} on 2 and 55 df")

# %% [markdown]
# and with it a significant difference of varieties (p = 0.04) that this experiment does not show.
#
# ## The same as a model
#
# Subplot $k$ of the whole plot of variety $j$ in block $i$ yields
#
# $$ y_{ijk} = \mu_{jk} + b_i + p_{ij} + \varepsilon_{ijk}, \qquad b_i \sim N(0, \tau_B^2), \quad
# p_{ij} \sim N(0, \tau_P^2), \quad \varepsilon_{ijk} \sim N(0, \sigma^2). $$
#
# `(1 | Block/Variety)` is short for `(1 | Block) + (1 | Block:Variety)`: an effect of the block and
# one of the whole plot, which is named by its block and its variety.

# %%
res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", oats)
res

# %% [markdown]
# The variances are those that the strata suggest: the mean square of subplots estimates
# $\sigma^2$, that of whole plots $\sigma^2 + 4\tau_P^2$, that of blocks
# $\sigma^2 + 4\tau_P^2 + 12\tau_B^2$. Solved for the variances:

# %%
subplots = strata.loc[("subplot", "residual"), "mean_sq"]
plots = strata.loc[("whole plot", "residual"), "mean_sq"]
blocks = strata.loc[("block", "blocks"), "mean_sq"]
moments = np.array([(plots - subplots) / 4, (blocks - plots) / 12, subplots])
table = res.varcorr.assign(from_strata=moments)[["grp", "vcov", "from_strata", "sdcor"]]
assert np.allclose(table["vcov"], table["from_strata"], rtol=1e-5)
table

# %% [markdown]
# For a balanced design with no negative solutions REML *is* the analysis of variance. The F tests
# agree as well, and so do the degrees of freedom, which nobody had to specify: Satterthwaite's
# method finds from the variances of each contrast how much information stands behind it.

# %%
anova = res.anova()
kenward_roger = res.anova(df_method="kenward-roger")
for one in (anova, kenward_roger):
    assert np.allclose(one["f"], classical, rtol=1e-5)
    assert np.allclose(one["df_denom"], [10, 45, 45], rtol=1e-4)
anova

# %% [markdown]
# Kenward and Roger's method, which also corrects standard errors for estimated variances, agrees
# here too. The three part company once subplots are missing: the classical table then has no
# single answer, and the model goes on as before.
#
# Most of the coefficients above say little by themselves: `Nf[T.n20]` is the effect of the first
# dose *for Golden Rain*. Questions are better put to means.
#
# ## What nitrogen does
#
# The interaction is small (F = 0.30), so averages over varieties are good summaries. The picture
# first: lines of the three varieties, which are parallel but for noise.

# %%
ax = lmm.plots.interaction(lmm.emmeans(res, ["Nf", "Variety"]))

# %%
nitrogen = lmm.emmeans(res, "Nf")
nitrogen

# %% [markdown]
# These intervals are wide (7 degrees of freedom): they are about the mean of *all land* like this,
# and blocks differ a lot. Differences between doses were observed within the same whole plots;
# blocks and plots cancel, and standard errors are 4.4 in the place of 7.2:

# %%
nitrogen.pairs()

# %% [markdown]
# Do not read differences off the bars. The arrows are made for that: two means differ (Tukey,
# 5 %) exactly where their arrows do not overlap.

# %%
ax = lmm.plots.comparisons(nitrogen)

# %% [markdown]
# As letters, for a table in print; means that share a letter are not distinguished:

# %%
nitrogen.cld()[["Nf", "estimate", "std_error", "group"]].round(1)

# %% [markdown]
# Letters say "not shown to differ", never "equal": n40 and n60 share one, yet the interval of their
# difference reaches from -21 to 3.
#
# ## A dose is a number
#
# All pairs of four doses is a clumsy question. Doses are ordered and equally spaced, so that
# orthogonal polynomials take the three degrees of freedom apart: is there a trend, does it bend?

# %%
nitrogen.contrast("poly")

# %% [markdown]
# A line, hardly a bend. So model the dose as the number it is, and ask whether the two parameters
# less cost anything: the model with a line lies within the one with four free means.

# %%
line = lmm.fit("yld ~ Variety + nitro + (1 | Block/Variety)", oats)
free = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", oats)
lmm.anova(line, free, df_method="kenward-roger")

# %%
slope = line.t_test("nitro = 0", df_method="kenward-roger")
slope

# %% [markdown]
# 73.7 for one hundredweight, 14.7 for each step of 0.2. Is the slope the same for all varieties?

# %%
slopes = lmm.fit("yld ~ Variety * nitro + (1 | Block/Variety)", oats)
lmm.emtrends(slopes, "Variety", "nitro")

# %%
ax = lmm.plots.predictions(slopes, "nitro", by="Variety", new=False)

# %% [markdown]
# Bands are those of the means, with the variation of blocks in them.
#
# ## Varieties
#
# They are compared between whole plots: standard errors are 7.1 with 10 degrees of freedom,
# although each mean rests on 24 subplots.

# %%
lmm.emmeans(res, "Variety").pairs()

# %% [markdown]
# Six blocks are not enough: the largest difference is 12, and what Tukey's test could have shown
# with 80 % power is about 26. A split plot gives precision away for the whole-plot factor to gain
# it for the subplot factor, and one plans it for that.
#
# ## Is the model right?

# %%
panels = res.plot()

# %% [markdown]
# No pattern in the residuals. With 6 blocks and 18 plots the normal distribution of their effects
# can hardly be judged; means and F tests of a balanced design do not depend on it much. Are both
# variances needed? The design says so, whatever a test says: units that were drawn by lot stay in
# the model.

# %%
lmm.ranova(res)

# %% [markdown]
# ## The sentence for the paper

# %%
f, p = anova["f"], anova["p_value"]
low, high = slope.conf_int()[0]
sentence = (
    "Yields were analysed by a linear mixed model with variety, nitrogen and their interaction as "
    "fixed effects and random intercepts for blocks and for whole plots within blocks (REML, "
    f"Satterthwaite's degrees of freedom). Nitrogen raised the yield (F(3, 45) = {f['Nf']:.1f}, p "
    f"< 0.001), by {slope.effect[0] * 0.2:.1f} quarter lbs per 0.2 cwt (95 % CI {low * 0.2:.1f} to "
    f"{high * 0.2:.1f}), with no evidence of curvature (F(2, 51) = 1.49, p = 0.24) or of a "
    f"dependence on variety (F(6, 45) = {f['Variety:Nf']:.2f}, p = {p['Variety:Nf']:.2f}). "
    f"Varieties did not differ significantly (F(2, 10) = {f['Variety']:.2f}, p = "
    f"{p['Variety']:.2f})."
)
print(fill(sentence, 90))

# %% [markdown]
# ## Exercises
#
# 1. Lose some subplots: fit `oats.drop([3, 17, 40])`. Which degrees of freedom change? Compare
#    Satterthwaite's F tests with Kenward and Roger's.
# 2. Leave out the whole plots: fit `yld ~ Variety * Nf + (1 | Block)`. Which test becomes too
#    optimistic, and which one loses power?
# 3. The cake data (`lmm.load_dataset("cake")`, breaking angles) are a split plot as well: the
#    recipe was mixed for a whole batch, and its parts were baked at six temperatures. What are the
#    strata?
# 4. Compare each dose with none by Dunnett's test, `nitrogen.contrast("trt.vs.ctrl")`.
#
# ## Further reading
#
# - Kenward, M. G. & Roger, J. H. (1997). Small sample inference for fixed effects from restricted
#   maximum likelihood. *Biometrics*, 53, 983-997. doi:10.2307/2533558
# - Pinheiro, J. C. & Bates, D. M. (2000). *Mixed-Effects Models in S and S-PLUS*. Springer.
#   doi:10.1007/b98882 (section 1.6 has these data)
# - Searle, S. R., Speed, F. M. & Milliken, G. A. (1980). Population marginal means in the linear
#   model: an alternative to least squares means. *The American Statistician*, 34, 216-221.
#   doi:10.1080/00031305.1980.10483031
# - Yates, F. (1935). Complex experiments. *Supplement to the Journal of the Royal Statistical
#   Society*, 2, 181-247. doi:10.2307/2983638
