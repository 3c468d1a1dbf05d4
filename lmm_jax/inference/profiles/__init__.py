"""The likelihood with something held: profiles, and likelihood ratio tests of variances."""
