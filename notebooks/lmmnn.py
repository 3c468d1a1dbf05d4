# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A neural network with random effects
#
# A shop wants to predict how much customers spend from what is known of each order. The curve is
# not linear, so a neural network is in order; but there are 1,500 customers, most with a handful of
# orders, and each has a level of its own. **What should the network do with "customer", a category
# of 1,500 values?**
#
# Three usual answers: leave it out, give it as 1,500 indicators (one-hot), or learn a vector for
# each (an embedding). A mixed model has a fourth: customers are draws from a population, their
# effects are integrated out of the likelihood while the network learns the mean, and predicted
# afterwards. Simchoni & Rosset (2021, 2023) call this LMMNN. Here it is forty lines, since the
# likelihood of this package is a function that JAX differentiates. The data are simulated.

# %%
from textwrap import fill

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd

import lmm_jax as lmm

rng = np.random.default_rng(2)
n_groups, n = 1500, 6000
sizes = rng.pareto(2, n_groups) + 0.3  # few customers with many orders
group = rng.choice(n_groups, n, p=sizes / sizes.sum())
x = rng.uniform(-2, 2, (n, 4))
curve = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] / 2 + np.abs(x[:, 3])
level = rng.normal(0, 1, n_groups)  # standard deviation 1
y = curve + level[group] + rng.normal(0, 0.5, n)  # of the noise 0.5

newcomers = group >= 1250  # customers that are never seen in training
held_out = ~newcomers & (rng.random(n) < 0.25)
train = ~newcomers & ~held_out
per_customer = pd.Series(group[train]).value_counts()
print(
    f"training: {train.sum()} orders of {len(per_customer)} customers, median "
    f"{per_customer.median():.0f} and at most {per_customer.max()} each\n"
    f"test: {held_out.sum()} further orders of known customers, {newcomers.sum()} of new ones"
)

# %% [markdown]
# ## The model
#
# With a network $f_w$ in the place of $X\beta$,
#
# $$ y = f_w(x) + Z b + \varepsilon, \qquad b \sim N(0, \tau^2 I), \quad \varepsilon \sim
# N(0, \sigma^2 I) \quad \Longrightarrow \quad y - f_w(x) \sim N(0, V), \qquad
# V = \sigma^2 I + \tau^2 Z Z'. $$
#
# A network that ignores customers minimizes $(y - f)'(y - f)$; this one minimizes
# $\log |V| + (y - f)' V^{-1} (y - f)$, in which the residuals of one customer may be large together
# at little cost. $w$ and $\tau/\sigma$ are learnt together.
#
# A network of two hidden layers, and a loop that serves all competitors:

# %%


def layers(key, *widths):
    """Weights of a network with these widths."""
    keys = jax.random.split(key, len(widths) - 1)
    pairs = zip(keys, widths[:-1], widths[1:], strict=True)
    return [(jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros((1, b))) for k, a, b in pairs]


def network(w, x):
    for matrix, shift in w[:-1]:
        x = jnp.tanh(x @ matrix + shift)
    matrix, shift = w[-1]
    return (x @ matrix + shift)[:, 0]


def learn(loss, w, steps=400):
    """Adam on the whole data; the weights and the losses."""
    solver = optax.adam(optax.cosine_decay_schedule(2e-2, steps))

    def step(carry, _):
        w, state = carry
        value, slope = jax.value_and_grad(loss)(w)
        update, state = solver.update(slope, state)
        return (optax.apply_updates(w, update), state), value

    (w, _), losses = jax.jit(lambda w: jax.lax.scan(step, (w, solver.init(w)), length=steps))(w)
    return w, np.asarray(losses)


key = jax.random.key(0)
x_all, y_all = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
x_train, y_train, g_train = x_all[train], y_all[train], group[train]

# %% [markdown]
# ## The competitors
#
# **Ignoring** customers; **one-hot**, a free intercept for each; and an **embedding** of two
# numbers a customer that goes into the network beside $x$. All by least squares. A customer that
# was not seen gets the average intercept or embedding, the best that these models can do.

# %%
ignoring, _ = learn(
    lambda w: jnp.mean((y_train - network(w, x_train)) ** 2), layers(key, 4, 16, 16, 1)
)


def with_intercepts(w, x, g):
    return network(w["net"], x) + w["level"][g]


def with_embedding(w, x, g):
    return network(w["net"], jnp.concatenate([x, w["table"][g]], axis=1))


start = {"net": layers(key, 4, 16, 16, 1), "level": jnp.zeros(n_groups)}
one_hot, _ = learn(lambda w: jnp.mean((y_train - with_intercepts(w, x_train, g_train)) ** 2), start)

table = 0.1 * jax.random.normal(key, (n_groups, 2))
start = {"net": layers(key, 6, 16, 16, 1), "table": table}
embedded, _ = learn(lambda w: jnp.mean((y_train - with_embedding(w, x_train, g_train)) ** 2), start)

# %% [markdown]
# ## The mixed model
#
# `lmm.row_index` notes which row belongs to which customer, once. `lmm.compress` makes the
# compressed data of the current residuals and `lmm.loglike` their likelihood, with $\sigma^2$ and
# an intercept profiled out; all of it can be traced and differentiated. The one parameter of the
# covariance is $\tau^2 / \sigma^2$, kept positive by its logarithm.

# %%
index = lmm.row_index(g_train)
one = jnp.ones(len(g_train), jnp.float32)


def loss(w):
    residual = y_train - network(w["net"], x_train)
    layout = lmm.compress(residual, one[:, None], (one[:, None, None],), one, index)
    return -lmm.loglike(jnp.exp(w["log_ratio"])[None], layout, reml=False) / len(g_train)


start = {"net": layers(key, 4, 16, 16, 1), "log_ratio": jnp.zeros(())}
mixed, losses = learn(loss, start)
print(f"tau / sigma = {np.exp(mixed['log_ratio'] / 2):.2f} (the truth: 2)")

# %% [markdown]
# What is left is an ordinary mixed model, with the network's output as an offset: a known part of
# the mean. It gives everything that a fit gives, in particular predictions of the customers'
# levels.

# %%
orders = pd.DataFrame({"y": y, "customer": group, "net": np.asarray(network(mixed["net"], x_all))})
orders["net"] = orders["net"].astype(float)
res = lmm.fit("y ~ 1 + (1 | customer)", orders[train], offset="net")
res

# %% [markdown]
# Customers differ by 0.98, and the noise is 0.485: near the truth of 1 and 0.5, the noise a little
# low because the network has learnt some of it. (The standard errors take the curve as known.)
#
# ## Who predicts best?
#
# Root mean squared errors for further orders of known customers, where nobody can be better than
# the noise, 0.5, and for customers that nobody has seen, where the limit is $\sqrt{1^2 + 0.5^2} =
# 1.12$.

# %%
average = one_hot["level"][np.unique(g_train)].mean()
seen_level = np.where(np.isin(np.arange(n_groups), g_train), one_hot["level"], average)
average = embedded["table"][np.unique(g_train)].mean(axis=0)
seen = np.isin(np.arange(n_groups), g_train)[:, None]
seen_table = jnp.where(seen, embedded["table"], average[None])
mixed_prediction = res.predict(orders, conditional=True, new_levels="population")
predictions = {
    "ignoring": network(ignoring, x_all),
    "one-hot": with_intercepts({**one_hot, "level": seen_level}, x_all, group),
    "embedding": with_embedding({**embedded, "table": seen_table}, x_all, group),
    "mixed model": mixed_prediction.to_numpy(),
}
n_train = np.bincount(g_train, minlength=n_groups)
selections = {
    "training": train,
    "known customers": held_out,
    "known, 1 or 2 orders": held_out & np.isin(n_train[group], (1, 2)),
    "new customers": newcomers,
}
errors = pd.DataFrame(
    {
        name: [np.sqrt(np.mean((y - np.asarray(p))[at] ** 2)) for at in selections.values()]
        for name, p in predictions.items()
    },
    index=list(selections),
).T
errors["curve"] = [np.std((np.asarray(p) - curve)[newcomers]) for p in predictions.values()]
few = errors["known, 1 or 2 orders"]
assert few["mixed model"] < few.drop("mixed model").min()
errors.round(3)

# %% [markdown]
# - *Ignoring* customers is hardly better for known customers than for new ones: it cannot know
#   them. Its curve is worse too, since the levels are noise to it, and a large one.
# - *One-hot* is nearly as good as the mixed model for customers with many orders, and falls behind
#   where there are one or two: it takes a single order for the truth about its customer.
# - *Embeddings* fit the training data best and predict worse than one intercept each: they can give
#   every customer a curve of its own, of which there is none. Fewer steps or a penalty would help,
#   and have to be tuned; the variance ratio of the mixed model is estimated.
# - For *new* customers nobody can do more than get the curve right (the last column is its error),
#   and the mixed model does that best.
#
# The curve along the first column of $x$, the others at zero, less its mean:

# %%
line = np.zeros((200, 4), np.float32)
line[:, 0] = np.linspace(-2, 2, 200)
fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
ax.plot(line[:, 0], np.sin(2 * line[:, 0]), color="0.6", lw=4, label="truth")
for name, net, dashes in (("ignoring", ignoring, "--"), ("mixed model", mixed["net"], "-")):
    value = np.asarray(network(net, jnp.asarray(line)))
    ax.plot(line[:, 0], value - value.mean(), ls=dashes, lw=1.5, label=name)
ax.set(xlabel="first column of x", ylabel="centred curve")
_ = ax.legend(loc="upper center")

# %% [markdown]
# ## Shrinkage
#
# What the mixed model knows of a customer with $n_i$ orders is
# $\hat b_i = \frac{n_i \tau^2}{n_i \tau^2 + \sigma^2}\,\bar r_i$, the mean residual shrunk by how
# much it can be trusted.

# %%
blups = res.random_effects["customer"]["Intercept"]
known = np.unique(g_train)
count = pd.Series(g_train).value_counts().reindex(known)
free = np.asarray(one_hot["level"])[known] - np.asarray(one_hot["level"])[known].mean()
fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True, sharex=True)
for ax, values, name in zip(axes, (free, blups), ("one-hot", "mixed model"), strict=True):
    drawn = ax.scatter(level[known], values, c=np.log10(count), s=14, cmap="viridis")
    ax.axline((0, 0), slope=1, color="0.4", ls="--", lw=1)
    rmse = np.sqrt(np.mean((values - level[known]) ** 2))
    ax.set(title=f"{name}: error {rmse:.2f}", xlabel="true level of the customer")
axes[0].set_ylabel("estimate")
_ = fig.colorbar(drawn, ax=axes, label="log10 of the number of orders")

# %% [markdown]
# ## How sure is a prediction?
#
# The fit gives prediction intervals as well: narrow for customers with many orders, as wide as the
# population for new ones.

# %%
limits = res.predict(orders, conditional=True, new_levels="population", interval="prediction")
inside = (limits["lower"] < y) & (y < limits["upper"])
coverage = pd.DataFrame(
    {
        what: [inside[mask].mean(), (limits["upper"] - limits["lower"])[mask].median()]
        for what, mask in selections.items()
    },
    index=["covered", "median width"],
).T
assert abs(coverage.loc["known customers", "covered"] - 0.95) < 0.04
coverage.round(3)

# %% [markdown]
# 95 % means 95 %. An interval for a customer with one or two orders is a fifth wider than for
# others, and for a new one twice as wide. (In the training data intervals cover more, as each row
# has helped to predict itself.)
#
# ## Larger data
#
# Here a step sees all rows, which for 3,700 orders takes milliseconds. Customers are independent,
# so the log-likelihood is a sum over them: with more data each step can take a random batch of
# *customers with all their orders* (`lmm.row_index` of that batch; pad batches with rows of weight
# zero to a common size, so that nothing is compiled again). Batches of rows that cut through
# customers change $V$ and are only an approximation. With an intercept in the network instead of
# one that is profiled out, and $\sigma^2$ a parameter, the batch gradient is unbiased.
#
# Slopes that differ between customers are a second column of `Z` and a covariance of two by two;
# see the page on [embedding](../docs/embedding.md).
#
# ## The sentence for the paper

# %%
best = errors.loc["mixed model"]
sentence = (
    "The mean was modelled by a neural network (two hidden layers of 16 units) and customers by "
    "random intercepts; weights and variance ratio were estimated jointly by maximum likelihood "
    "(LMMNN; Simchoni & Rosset 2023). The root mean squared error for further orders of known "
    f"customers was {best['known customers']:.2f}, against "
    f"{errors.loc['embedding', 'known customers']:.2f} with entity embeddings, "
    f"{errors.loc['one-hot', 'known customers']:.2f} with one-hot encoding and "
    f"{errors.loc['ignoring', 'known customers']:.2f} without customers; 95 % prediction intervals "
    f"covered {100 * coverage.loc['known customers', 'covered']:.0f} % of these orders."
)
print(fill(sentence, 90))

# %% [markdown]
# ## Exercises
#
# 1. Give the one-hot intercepts a ridge penalty, and choose it on held-out rows. How close does it
#    come to the mixed model, which needs no choice?
# 2. Let customers differ in the effect of the first column of `x` too.
# 3. Make $x_1$ differ in its mean between customers, with a mean that depends on their level. What
#    does each competitor learn as the effect of $x_1$?
#
# ## Further reading
#
# - Guo, C. & Berkhahn, F. (2016). Entity embeddings of categorical variables. arXiv:1604.06737
# - Robinson, G. K. (1991). That BLUP is a good thing: the estimation of random effects.
#   *Statistical Science*, 6, 15-32. doi:10.1214/ss/1177011926
# - Simchoni, G. & Rosset, S. (2021). Using random effects to account for high-cardinality
#   categorical features and repeated measures in deep neural networks. *Advances in Neural
#   Information Processing Systems*, 34.
# - Simchoni, G. & Rosset, S. (2023). Integrating random effects in deep neural networks. *Journal
#   of Machine Learning Research*, 24(156), 1-57.
