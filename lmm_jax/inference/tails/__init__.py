"""Tails and critical values of t and normal statistics, and of the largest of several."""
