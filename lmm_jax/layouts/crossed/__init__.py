"""Crossed factors: groups eliminated, a dense core."""
