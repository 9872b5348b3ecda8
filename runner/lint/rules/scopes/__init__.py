"""Rules about scopes and the rings below them."""
