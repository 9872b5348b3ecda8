"""A strategy: one scope around every trip of a loop over `layer`, and no other."""

from runner import Layout, lower, place


def per_layer(program, options):
    """A layer's tensors are released with its scope; what is used after it belongs to the scope around it."""

    def scope_mode(span, depth, in_manual):
        is_layer = span.kind == "iteration" and span.path.rpartition(".")[2].startswith("layer_")
        return "auto" if is_layer else None

    return lower(program, place(program, Layout(scope_mode, outlive=True)), "per_layer")
