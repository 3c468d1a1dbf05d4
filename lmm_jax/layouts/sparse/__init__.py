"""Crossed factors whose levels meet few others: all random effects in one sparse system."""
