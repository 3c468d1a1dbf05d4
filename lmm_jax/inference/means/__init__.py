"""Marginal means: grids, families of contrasts, joint tests, transformed responses."""
