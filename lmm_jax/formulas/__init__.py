"""Text to columns."""
