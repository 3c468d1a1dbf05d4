"""Theta and the covariances it stands for."""
