"""Rules about which task waits for which."""
