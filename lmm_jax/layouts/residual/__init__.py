"""Layout of models whose residuals are correlated or differ in variance."""
