"""Standard errors, degrees of freedom and tests from the derivatives at the optimum."""
