"""Residuals of rows and clusters, and the parameters of their covariance."""
