"""Random effects given y, their covariances, and errors of predictions."""
