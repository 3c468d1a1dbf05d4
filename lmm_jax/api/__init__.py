"""One file a public verb."""
