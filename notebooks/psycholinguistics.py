# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Subjects and items: an experiment in psycholinguistics
#
# 30 subjects read 32 sentences. A sentence has a relative clause of one of two **types** (subject
# or object relative), and is read under low or high memory **load**; the reading time of the verb
# is recorded. Each subject reads each sentence once, in one of the four conditions, and conditions
# rotate through the sentences from subject to subject (a Latin square). **Do the two slow reading
# down, and does load make object relatives harder still?**
#
# Both the subjects and the sentences are samples: the claim is about readers and about relative
# clauses at large. Clark (1973) called it a fallacy to generalize to language from tests that know
# the subjects only. The data here are simulated, so that the truth is known, and that is used:
# which of many possible models tells it?

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lmm_jax as lmm


def trials(items, subjects=30):
    """The design: a row for each reading; conditions are coded -1/2 and 1/2."""
    subject, item = np.divmod(np.arange(subjects * items), items)
    condition = (subject + item) % 4
    return pd.DataFrame(
        {
            "subject": subject,
            "item": item,
            "type": condition // 2 - 0.5,  # object relative: 1/2
            "load": condition % 2 - 0.5,  # high: 1/2
            "rt": np.exp(np.sin(np.arange(subject.size))),  # a placeholder
        }
    )


# %% [markdown]
# ## The truth
#
# Logarithms of reading times (in ms) are normal:
#
# $$ y_{si} = \beta_0 + s_{0} + w_{0} + (\beta_1 + s_{1} + w_{1})\, T + (\beta_2 + s_{2})\, L +
# \beta_3\, T L + \varepsilon, \qquad T, L \in \{-\tfrac12, \tfrac12\}, $$
#
# with effects $s$ of the subject and $w$ of the item (a word, in the notation). Subjects differ in
# their level (SD 0.20), in their effect of type (0.06, the slower the larger, correlation 0.5) and
# a little in that of load (0.03); items in level (0.10) and in the effect of type (0.05). Nobody
# differs in the interaction. The true effects are 0.06, 0.04 and 0.08: object relatives take 6 %
# longer.

# %%
sd = np.array([0.20, 0.06, 0.03, 0.0])
by_subject = np.outer(sd, sd) * np.array(
    [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)
by_item = np.diag([0.10, 0.05, 0.0, 0.0]) ** 2
effects = np.array([6.0, 0.06, 0.04, 0.08])

maximal_formula = "log(rt) ~ type * load + (type * load | subject) + (type * load | item)"
data = trials(32)
design = lmm.design(maximal_formula, data)
truth = lmm.Params.from_components(
    fe_params=effects, cov_re={"subject": by_subject, "item": by_item}
)
data["rt"] = np.exp(lmm.simulate(truth, design, scale=0.3**2, seed=1)[0].to_numpy())
data.pivot_table("rt", "type", "load").round(0)

# %% [markdown]
# ## Coding
#
# `type` is -1/2 and 1/2, so that its coefficient is the difference of the two means, *averaged
# over load*: a main effect. With treatment contrasts, the default for strings, it would be the
# difference *at low load*, the reference level: a simple effect, which a model with an interaction
# does not announce. The three codings side by side, in a model with random intercepts:

# %%
labels = data.assign(
    type=np.where(data["type"] > 0, "object", "subject"),
    load=np.where(data["load"] > 0, "high", "low"),
)
codings = {
    "-1/2, 1/2": ("type * load", data),
    "treatment": ('C(type, Treatment("subject")) * C(load, Treatment("low"))', labels),
    "sum": ("C(type, Sum) * C(load, Sum)", labels),
}
coded = {
    name: lmm.fit(f"log(rt) ~ {fixed} + (1 | subject) + (1 | item)", rows)
    for name, (fixed, rows) in codings.items()
}
pd.concat(
    {
        name: pd.DataFrame(
            {"estimate": fit.fe_params.to_numpy(), "t": fit.tvalues.to_numpy()},
            index=["intercept", "type", "load", "type:load"],
        )
        for name, fit in coded.items()
    },
    axis=1,
).round(3)

# %% [markdown]
# One model, three tables. Sum contrasts (1 and -1, in the order of the alphabet) halve the main
# effects and quarter the interaction, with the signs of their order, and have the same t values but
# for the sign; treatment contrasts ask other questions. Whoever reports "the effect of type" has to
# say which. Tests of type III do not depend on it:

# %%
tables = [fit.anova()["f"].to_numpy() for fit in coded.values()]
assert np.allclose(tables, tables[0], rtol=1e-5)
coded["treatment"].anova()

# %% [markdown]
# ## The maximal model
#
# Type and load vary within subjects and within items, so both may have their effects, and the
# interaction, differ between subjects and between items: `(type * load | subject)` is a covariance
# of four coefficients. Barr et al. (2013) advise to fit that, always.

# %%
maximal = lmm.fit(maximal_formula, data)
maximal

# %% [markdown]
# It has converged, and it is *singular*: a combination of effects has variance zero. That is not an
# error of the optimizer. Four standard deviations and six correlations twice are 20 parameters, of
# which the last depend on differences of differences of single readings. The estimates of the fixed
# effects are those of the best model in this class, and may be reported. What suffers is power: the
# tests carry along variances that are not there (Matuschek et al. 2017). Where are they? An
# analysis of principal components of each covariance shows how many directions it has:


# %%
def components(res):
    """Shares of the variance of each term along its principal components."""
    blocks = {name: res.cov_re.filter(like=f"|{name}", axis=0) for name in ("item", "subject")}
    blocks = {name: block.filter(like=f"|{name}") for name, block in blocks.items()}
    shares = {name: np.linalg.eigvalsh(S)[::-1] / np.trace(S) for name, S in blocks.items()}
    return pd.DataFrame(shares, index=[f"component {k}" for k in range(1, 5)]).T


components(maximal).round(3)

# %% [markdown]
# Two directions carry the items, three the subjects, and the last of each is empty: correlations of
# nearly one, as in the table above, are how an empty direction shows.
#
# ## Towards fewer parameters
#
# First the correlations go: two bars keep the four standard deviations.

# %%
uncorrelated = lmm.fit(
    "log(rt) ~ type * load + (type * load || subject) + (type * load || item)", data
)
uncorrelated.varcorr[["grp", "var1", "sdcor"]].round(3)

# %% [markdown]
# Then what is zero or nearly so goes, the interaction before the main effects. The correlation of a
# subject's level and effect, which theory has an opinion on (slow readers have larger effects),
# comes back:

# %%
parsimonious = lmm.fit("log(rt) ~ type * load + (type | subject) + (type || item)", data)
assert maximal.singular and not parsimonious.singular
parsimonious

# %% [markdown]
# Has anything been lost? Both are special cases of the maximal model, and its restricted
# likelihood says no: what was left out buys less than its number of parameters. (The two are no
# special case of each other, as only one has a correlation; `lmm.anova` would refuse to compare
# them.)

# %%
steps = {
    name: lmm.anova(small, maximal, refit=False).iloc[1][["chisq", "df", "p_value"]]
    for name, small in (("uncorrelated", uncorrelated), ("parsimonious", parsimonious))
}
pd.DataFrame(steps).T.astype(float).round(3)

# %% [markdown]
# Should more go?

# %%
lmm.ranova(parsimonious)

# %% [markdown]
# Items and the subjects' slopes of type stay. The test would let the items' slope of type go (p =
# 0.27 with the boundary in mind), but its absence is not shown by 32 items that cannot see it, the
# fit with it is not singular, and a claim about sentences should allow them to differ. (It is
# there, with a standard deviation of 0.05, as only we know.)
#
# ## What depends on the choice
#
# The same fixed effects in five models, from too rich to plainly wrong:

# %%
fits = {
    "maximal": maximal,
    "uncorrelated": uncorrelated,
    "parsimonious": parsimonious,
    "intercepts only": lmm.fit("log(rt) ~ type * load + (1 | subject) + (1 | item)", data),
    "subjects only": lmm.fit("log(rt) ~ type * load + (type | subject)", data),
}
rows = {
    (name, term): [
        fit.fe_params[term], fit.bse_fe[term], fit.df[term], fit.pvalues[term]
    ]
    for term in ("type", "load", "type:load")
    for name, fit in fits.items()
}  # fmt: skip
compared = pd.DataFrame(rows, index=["estimate", "std. error", "df", "p"]).T.swaplevel()
compared.round({"estimate": 3, "std. error": 4, "df": 0, "p": 3})

# %% [markdown]
# Estimates hardly move, as the design is balanced. Standard errors do:
#
# - *intercepts only* takes the 960 readings for independent evidence on type: a standard error of
#   0.0195 in the place of 0.0265, on 897 degrees of freedom in the place of 24. This is the model
#   that finds effects that are not there.
# - *subjects only* does not ask whether other sentences would have told another story (Clark's
#   fallacy). The harm is small here, as sentences differ little in the effect of type.
# - *maximal* carries slopes of load and of the interaction along that nobody has. It is the
#   cautious end: its tests of load and of the interaction have 28 degrees of freedom and larger
#   standard errors, and load passes 5 % the other way.
#
# The conclusion on the interaction is the same in all of them, which is worth a sentence in the
# paper.
#
# ## Is the model right?

# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
lmm.plots.residuals_fitted(parsimonious, ax=axes[0])
lmm.plots.qq_residuals(parsimonious, ax=axes[1])
_ = lmm.plots.caterpillar(parsimonious, "item", coefficient="Intercept", ax=axes[2])

# %% [markdown]
# Residuals of *logarithms* are normal here because they were drawn so. Raw reading times would fan
# out and have a long tail to the right; look at this picture before you choose the scale.
#
# ## The answer

# %%
cells = lmm.emmeans(parsimonious, ["load", "type"])
ax = lmm.plots.interaction(cells, x="load", type="response")

# %% [markdown]
# On the scale of the response differences of logarithms are ratios. The effect of type at each
# load, object relatives against subject relatives:

# %%
simple = lmm.emmeans(parsimonious, "type", by="load").pairs(reverse=True)
ratios = simple.to_frame(type="response").drop(columns=["std_error", "statistic"])
ratios.round({"estimate": 3, "df": 1, "conf_low": 3, "conf_high": 3, "p_value": 5})

# %% [markdown]
# Under low load object relatives take 3 % longer, which may be nothing; under high load 15 %. (The
# truth: 2 % and 11 %; this sample has drawn a large interaction.)
#
# ## How many items?
#
# The interaction was the point of the study. How likely was it to be found, and what would more
# sentences have brought? `lmm.power` draws and fits experiments. Nobody differs in the interaction
# and the design is balanced, so that slopes of type do not enter its standard error, and random
# intercepts are enough here.


# %%
def study(items):
    return lmm.design("log(rt) ~ type * load + (1 | subject) + (1 | item)", trials(items))


variances = lmm.Params.from_components(
    fe_params=effects, cov_re={"subject": 0.2**2, "item": 0.1**2}
)
power = lmm.power(
    study, variances, 60, scale=0.3**2, test="type:load", sizes=[16, 32],
    effects=[0.0, 0.04, 0.08, 0.12], seed=1,
)  # fmt: skip
ax = lmm.plots.power(power, x="effect")

# %%
power.round(3)

# %% [markdown]
# With 32 sentences the true interaction of 0.08 is found in about half of all studies, and with 16
# in a quarter. Studies of low power that do find their effect overstate it on average: the 0.109
# above is one of them. (60 draws know a power to within 0.13, the bands; take 1,000 in earnest.)
#
# ## The sentence for the paper

# %%
at = parsimonious.tidy(effects="fixed").set_index("term").loc["type:load"]
step = steps["parsimonious"]
percent = 100 * (ratios["estimate"] - 1)
sentence = (
    "Log reading times were analysed by a linear mixed model with type, load (coded -0.5, 0.5) and "
    "their interaction as fixed effects. The maximal model was singular; by principal components "
    "and restricted likelihood ratios it was reduced to by-subject intercepts and slopes of type "
    "with their correlation and uncorrelated by-item intercepts and slopes of type, without loss "
    f"of fit (chi-square({step['df']:.0f}) = {step['chisq']:.1f}, p = "
    f"{step['p_value']:.2f}). The interaction (b = {at['estimate']:.3f}"
    f", SE = {at['std_error']:.3f}, t({at['df']:.0f}) = "
    f"{at['statistic']:.2f}, p = {at['p_value']:.3f}, "
    f"Satterthwaite) says that object relatives took {percent.iloc[1]:.0f} % longer than "
    f"subject relatives under high load and {percent.iloc[0]:.0f} % under low load. The "
    "maximal model led to the same conclusion on the interaction."
)
print(fill(sentence, 90))

# %% [markdown]
# ## Exercises
#
# 1. Draw the data again with other seeds. How often is the maximal model singular? How often does a
#    test of type at 5 % reject in "intercepts only" when its true effect is zero?
# 2. Fit `(0 + C(type) | subject)` in the place of `(type | subject)`: a variance for each type and
#    their covariance. The likelihood is the same. Why, and how do the parameters correspond?
# 3. Aggregate over items to means by subject and test by `(1 | subject)` (the F1 analysis), and
#    over subjects (F2). Compare the p values with the mixed model's.
# 4. Plan a study for an interaction of 0.05 with 80 % power. Are more subjects or more items the
#    better investment?
#
# ## Further reading
#
# - Baayen, R. H., Davidson, D. J. & Bates, D. M. (2008). Mixed-effects modeling with crossed random
#   effects for subjects and items. *Journal of Memory and Language*, 59, 390-412.
#   doi:10.1016/j.jml.2007.12.005
# - Barr, D. J., Levy, R., Scheepers, C. & Tily, H. J. (2013). Random effects structure for
#   confirmatory hypothesis testing: keep it maximal. *Journal of Memory and Language*, 68, 255-278.
#   doi:10.1016/j.jml.2012.11.001
# - Bates, D., Kliegl, R., Vasishth, S. & Baayen, H. (2015). Parsimonious mixed models.
#   arXiv:1506.04967
# - Clark, H. H. (1973). The language-as-fixed-effect fallacy: a critique of language statistics in
#   psychological research. *Journal of Verbal Learning and Verbal Behavior*, 12, 335-359.
#   doi:10.1016/S0022-5371(73)80014-3
# - Matuschek, H., Kliegl, R., Vasishth, S., Baayen, H. & Bates, D. (2017). Balancing Type I error
#   and power in linear mixed models. *Journal of Memory and Language*, 94, 305-315.
#   doi:10.1016/j.jml.2017.01.001
# - Schad, D. J., Vasishth, S., Hohenstein, S. & Kliegl, R. (2020). How to capitalize on a priori
#   contrasts in linear (mixed) models: a tutorial. *Journal of Memory and Language*, 110, 104038.
#   doi:10.1016/j.jml.2019.104038
