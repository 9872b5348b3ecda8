"""Declared state as tensors: the store of requests, the inputs of a call, and constant inputs."""
