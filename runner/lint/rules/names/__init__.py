"""These rules look at what is written and read."""
