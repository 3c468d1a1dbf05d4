"""Degrees of freedom of tests of fixed effects, and the covariances that come with them."""
