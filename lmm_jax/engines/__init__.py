"""Rows that other engines hold: their parts are summed up where they are, the sums come here."""
