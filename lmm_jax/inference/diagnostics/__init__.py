"""What a fit explains, what it hangs on, and how well it predicts."""
