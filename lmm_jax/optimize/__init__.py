"""Newton's method and its drivers."""
