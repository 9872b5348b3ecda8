"""Families of models, and graphs of none, that are data: what a layer's sections declare. The door is `family.DeclaredFamily`."""
