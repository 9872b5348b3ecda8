"""How a layer says which fields there are, what has to hold of them, and how a file of another tool gives them."""
