"""y, X and terms from frames, arrays and streams."""
