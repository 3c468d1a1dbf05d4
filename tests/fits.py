"""Fits of the bundled data that tests of many files look at; none of them changes one."""

from functools import cache

import lmm_jax as lmm

SLEEP = "Reaction ~ Days + (Days | Subject)"
OATS = "yld ~ Variety * Nf + (1 | Block/Variety)"


@cache
def sleep(formula=SLEEP, **options):
    return lmm.fit(formula, lmm.load_dataset("sleepstudy"), **options)


@cache
def oats(formula=OATS, **options):
    return lmm.fit(formula, lmm.load_dataset("oats"), **options)


def nitrogen():
    """Oats of which the variety is not asked."""
    return oats("yld ~ Nf + (1 | Block/Variety)")


@cache
def dyestuff():
    return lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
