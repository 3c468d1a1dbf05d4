"""Compressed layouts: what remains of the data after one pass over the rows."""
