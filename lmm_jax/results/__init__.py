"""What a user holds and prints."""
