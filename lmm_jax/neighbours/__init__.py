"""Results as other packages take them; they are imported when something is handed to them."""
