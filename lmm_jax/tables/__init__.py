"""How results are shown: one table with typed columns, as text, HTML and LaTeX."""
