"""What a caller hands over: arguments, arrays, frames, files; labels that meet."""
