"""Ops that families share: nothing here knows a model. Tensors are [rows, columns], a row for every token."""
