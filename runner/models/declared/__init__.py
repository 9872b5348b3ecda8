"""Families as data: what a layer's sections declare, read and checked without torch."""
