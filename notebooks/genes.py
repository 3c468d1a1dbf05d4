# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Thousands of genes, twenty donors
#
# Ten patients and ten healthy people gave blood. Cells of each were kept at rest and stimulated, in
# two replicates, and the expression of 5,000 genes was counted in all 80 samples. **Which genes
# differ between patients and healthy people, and which respond to the stimulus?**
#
# There are 80 columns of counts, but 20 people. Samples of one person are alike, and an analysis
# that takes them for independent ones mistakes differences between *people* for differences between
# *groups*: pseudo-replication (Hurlbert 1984), a common error in single-cell studies (Squair et al.
# 2021). The data are simulated, so that errors can be counted.

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

import lmm_jax as lmm

rng = np.random.default_rng(1)
n_genes, donors = 5000, np.arange(20)
samples = pd.DataFrame(
    [(f"D{d:02d}", "patient" if d % 2 else "healthy", state)
     for d in donors for state in ("rest", "stimulated") for _ in range(2)],
    columns=["donor", "group", "state"],
)  # fmt: skip
samples.head(4)

# %% [markdown]
# ## Counts
#
# The first 150 genes differ between the groups, by 0.8 to 1.6 on the scale of $\log_2$; genes 100
# to 599 respond to the stimulus. For every gene donors differ (with a variance of its own, 0.3 on
# average), and counts are overdispersed around the mean by more than a Poisson distribution
# allows.

# %%
group_effect, state_effect = np.zeros(n_genes), np.zeros(n_genes)
group_effect[:150] = rng.choice([-1, 1], 150) * rng.uniform(0.8, 1.6, 150)
state_effect[100:600] = rng.normal(0, 0.6, 500)
patient = (samples["group"] == "patient").to_numpy(float)
stimulated = (samples["state"] == "stimulated").to_numpy(float)
of_donor = samples["donor"].str[1:].astype(int).to_numpy()

log_mean = rng.normal(6, 1.5, n_genes) + np.outer(patient, group_effect)
log_mean += np.outer(stimulated, state_effect)
log_mean += (rng.normal(size=(20, n_genes)) * np.sqrt(rng.gamma(2, 0.15, n_genes)))[of_donor]
depth = rng.uniform(0.7, 1.4, (len(samples), 1))  # of sequencing, by sample
mean = depth * 2**log_mean
counts = rng.poisson(mean * rng.gamma(20, 1 / 20, mean.shape))

# log2 counts per million, with half a count against zeros
expression = np.log2((counts + 0.5) / (counts.sum(axis=1, keepdims=True) + 1) * 1e6)
expression = pd.DataFrame(expression, columns=[f"gene{g}" for g in range(n_genes)])
expression.iloc[:4, :5].round(2)

# %% [markdown]
# ## One model, 5,000 times
#
# For gene $g$, sample $j$ of donor $i$:
#
# $$ y_{gij} = \beta_{g0} + \beta_{g1}\,\text{patient}_i + \beta_{g2}\,\text{stimulated}_{ij} +
# b_{gi} + \varepsilon_{gij}, \qquad b_{gi} \sim N(0, \tau_g^2), \quad \varepsilon_{gij} \sim
# N(0, \sigma_g^2). $$
#
# Nothing is shared between genes but the design, and that is what makes it fast: `fit_many` works
# it off once, and optimizes thousands of responses side by side. The formula has no left side.

# %%
many = lmm.fit_many("~ group + state + (1 | donor)", samples, expression)
assert many.converged.all()
print(f"{many.fe_params.shape[0]} fits; donor variance estimated as zero in {many.singular.sum()}")
rows = many.tidy()[["response", "term", "estimate", "std_error", "df", "p_value"]]
rows.head(6).round(3).assign(p_value=rows["p_value"].map("{:.2g}".format))

# %% [markdown]
# Degrees of freedom say what each effect was compared with: group between donors, with 18; state
# within donors, with 59.
#
# ## P values first
#
# A histogram of p values is the first check of any screen. Genes without an effect give a flat
# floor, those with one a peak at the left. Beside it what comes out if donors are ignored: least
# squares with 80 samples.

# %%
X = np.column_stack([np.ones(80), patient, stimulated])
ols = np.linalg.lstsq(X, expression.to_numpy())[0]
residual = ((expression.to_numpy() - X @ ols) ** 2).sum(axis=0) / 77
t = ols / np.sqrt(np.outer(np.diag(np.linalg.inv(X.T @ X)), residual))
ignoring = pd.DataFrame(
    2 * stats.t.sf(np.abs(t[1:]), 77).T, columns=["group", "state"], index=expression.columns
)

# %%
fig, panels = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharey="row")
effects = {"group": "group[T.patient]", "state": "state[T.stimulated]"}
for (left, right), (name, term) in zip(panels, effects.items(), strict=True):
    lmm.plots.pvalue_histogram(many, term, ax=left)
    left.set_title(f"{name}: mixed model")
    right.hist(ignoring[name], bins=20, range=(0, 1), color="0.7", edgecolor="0.4")
    right.set(title=f"{name}: donors ignored", xlabel="p value")

# %% [markdown]
# Left: a flat floor and a peak, as it should be. Above right, the groups compared by 80
# "independent" samples: small p values everywhere, from genes that do nothing. Below right, the
# opposite error. The stimulus is compared within donors, and the differences between donors, left
# in the residual, drown it: p values of genes without an effect pile up towards one. Ignoring
# donors is not "liberal"; it is wrong in both directions.
#
# ## Discoveries
#
# `fdr` adjusts p values by Benjamini and Hochberg's method: among the genes with an adjusted value
# below 0.05, 5 % are expected to be false. Here the false ones can be counted.

# %%
truly = {"group": group_effect != 0, "state": state_effect != 0}


def counted(adjusted, which):
    """Discoveries at 5 %, how many are false, and the share of true effects that were found."""
    found = np.asarray(adjusted) < 0.05
    false = (found & ~truly[which]).sum()
    share = false / max(found.sum(), 1)
    return [found.sum(), false, share, (found & truly[which]).sum() / truly[which].sum()]


rows = {}
for name, term in effects.items():
    rows[name, "mixed model"] = counted(many.fdr(term), name)
    adjusted = stats.false_discovery_control(ignoring[name], method="bh")
    rows[name, "donors ignored"] = counted(adjusted, name)
score = pd.DataFrame(rows, index=["discoveries", "false", "false share", "found of true"]).T
assert score.loc[("group", "mixed model"), "false share"] < 0.1
assert score.loc[("group", "donors ignored"), "false share"] > 0.5
score.round(2)

# %% [markdown]
# With donors ignored four of five discoveries in the comparison of the groups are false, 545 genes
# that a laboratory would follow up in vain. In the comparison of states, a third fewer of the true
# ones are found. The mixed model keeps its promise of 5 % both times.
#
# For an effect between donors in a balanced design there is a simpler way that is right as well:
# one mean a donor ("pseudo-bulk"), and a t test of 20 means. It is what the mixed model does where
# the variance of donors is not zero:

# %%
bulk = expression.groupby(of_donor).mean()
sick = donors % 2 == 1
simple = stats.ttest_ind(bulk[sick], bulk[~sick]).pvalue
p_group = many.pvalues[:, many.fixed_names.index("group[T.patient]")]
assert np.allclose(p_group[~many.singular], simple[~many.singular], rtol=1e-4)

# %% [markdown]
# The mixed model answers both questions at once, with missing samples and unequal numbers of
# replicates too.
#
# ## Which genes?

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
lmm.plots.volcano(many, "group[T.patient]", ax=left)
lmm.plots.volcano(many, "state[T.stimulated]", ax=right)
left.set_title("patients - healthy")
_ = right.set_title("stimulated - rest")

# %%
top = many.tidy().query("term == 'group[T.patient]'").set_index("response")
top["fdr"] = many.fdr("group[T.patient]")
top["truth"] = group_effect
columns = ["estimate", "truth", "std_error", "df", "p_value", "fdr"]
top.nsmallest(5, "p_value")[columns].round({"estimate": 2, "truth": 2, "std_error": 2, "df": 1})

# %% [markdown]
# Look at the first row: 77 degrees of freedom, not 18. The donor variance of gene69 was estimated
# as zero, and where it is, the test has become the one that ignores donors. Most genes of that
# kind do have a small variance, but it was not shown to be none. With thousands of genes some are
# always at this boundary (here 46), and the top of a list is where to expect them. The test of
# donor means is a check that costs nothing:
#
# %%
zero = top[many.singular].nsmallest(1, "p_value")[["estimate", "p_value"]]
zero.assign(p_of_donor_means=pd.Series(simple, expression.columns)).map("{:.2g}".format)

# %% [markdown]
# gene69 stays a discovery, with a p value a million times larger than was claimed. (Residual
# variances of thousands of genes can also be moderated, each a compromise between its own and what
# is usual, as limma does: `many.t_test("group[T.patient] = 0", moderate=True)`.)
#
# ## One of them in full
#
# `select` fits one gene by itself and gives everything that a single fit has.

# %%
best = top.loc[~many.singular, "p_value"].idxmin()
gene = many.select(best)
assert np.isclose(gene.llf, many.llf[expression.columns.get_loc(best)])
gene

# %%
panels = gene.plot()

# %% [markdown]
# Whatever gene goes into a figure deserves this look: a single donor can make a discovery. Which
# donor matters most, and does the difference stand without any of them?

# %%
without = lmm.influence(gene).params["group[T.patient]"]
print(f"{best}: {gene.fe_params['group[T.patient]']:.2f}, without one donor "
      f"{without.min():.2f} to {without.max():.2f}")  # fmt: skip

# %% [markdown]
# ## Do genes respond differently in patients?
#
# The interaction is one more column in the same call; a simple effect is a contrast of it, for all
# genes at once.

# %%
both = lmm.fit_many("~ group * state + (1 | donor)", samples, expression)
interaction = both.fdr("group[T.patient]:state[T.stimulated]")
print(f"interactions at an FDR of 5 %: {(interaction < 0.05).sum()} (the truth: none)")

# %% [markdown]
# ## The sentence for the paper

# %%
group, state = score.loc[("group", "mixed model")], score.loc[("state", "mixed model")]
sentence = (
    "Log2 counts per million of each gene were analysed by a linear mixed model with group and "
    "stimulation as fixed effects and a random intercept for each donor (REML, Satterthwaite's "
    "degrees of freedom); p values were adjusted by the Benjamini-Hochberg method within each "
    f"effect. {group['discoveries']:.0f} of 5,000 genes differed between patients and healthy "
    f"donors and {state['discoveries']:.0f} between stimulated and resting cells (false discovery "
    "rate 5 %)."
)
print(fill(sentence, 90))

# %% [markdown]
# ## Exercises
#
# 1. Repeat with 5 donors a group and 8 samples each: the same number of columns. What happens to
#    either screen?
# 2. Counts near zero have a larger variance of their logarithm. Pass precision weights,
#    `weights=` with one for every observation (voom: Law et al. 2014); a start is
#    `counts / (1 + counts / 20)`, one over the variance of the logarithm.
# 3. Set some counts to NaN. Which fits change?
# 4. Permute the labels of the donors' groups. How many discoveries does either analysis make?
#
# ## Further reading
#
# - Benjamini, Y. & Hochberg, Y. (1995). Controlling the false discovery rate: a practical and
#   powerful approach to multiple testing. *Journal of the Royal Statistical Society B*, 57,
#   289-300. doi:10.1111/j.2517-6161.1995.tb02031.x
# - Hoffman, G. E. & Roussos, P. (2021). Dream: powerful differential expression analysis for
#   repeated measures designs. *Bioinformatics*, 37, 192-201. doi:10.1093/bioinformatics/btaa687
# - Hurlbert, S. H. (1984). Pseudoreplication and the design of ecological field experiments.
#   *Ecological Monographs*, 54, 187-211. doi:10.2307/1942661
# - Law, C. W., Chen, Y., Shi, W. & Smyth, G. K. (2014). voom: precision weights unlock linear model
#   analysis tools for RNA-seq read counts. *Genome Biology*, 15, R29. doi:10.1186/gb-2014-15-2-r29
# - Squair, J. W. et al. (2021). Confronting false discoveries in single-cell differential
#   expression. *Nature Communications*, 12, 5692. doi:10.1038/s41467-021-25960-2
