"""These rules look at scopes and the rings that serve them."""
