"""Tests of hypotheses, terms and functions of the parameters, and how many they are."""
