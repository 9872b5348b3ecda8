"""Kernels that families share."""
