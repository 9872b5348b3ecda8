"""Rules about what is written and read."""
