"""These rules look at which task waits for which."""
