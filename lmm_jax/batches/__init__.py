"""Many models side by side; drawn responses."""
