"""A family of models for ringgraph: language models of gated recurrent units, as torch.nn.GRU computes them."""
