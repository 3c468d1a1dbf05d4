"""Functions of the waist."""
