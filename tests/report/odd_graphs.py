"""Odd graphs for pictures: nothing, one node, long names, text that formats have a meaning for, thousands of nodes."""

LONG = "a" * 300
_ENDS = 'inputs: {x: "f32[4, 4]"}\noutputs: {y: "f32[4, 4]"}\n'


def _chain(num: int) -> str:
    """Ops in a chain, each with a tensor of its own."""
    between = "".join(f'  - {{op: add, in: {{a: t{i}, b: x}}, out: {{y: "t{i + 1}: f32[4, 4]"}}}}\n' for i in range(num - 2))
    first, last = (
        '{op: add, in: {a: x, b: x}, out: {y: "t0: f32[4, 4]"}}',
        f"{{op: add, in: {{a: t{num - 2}, b: x}}, out: {{y: y}}}}",
    )
    return f"graph: chain\n{_ENDS}body:\n  - {first}\n{between}  - {last}\n"


GRAPHS = {
    "empty": "graph: empty\nbody: []\n",
    "one": f"graph: one\n{_ENDS}body:\n  - {{op: add, in: {{a: x, b: x}}, out: {{y: y}}}}\n",
    "alloc": 'graph: alloc\nbody:\n  - alloc: {a: "f32[4, 4]"}\n',
    "long": f"graph: {LONG}\n{_ENDS}body:\n  - scope: {LONG}s\n    body:\n"
    f'      - {{op: add, id: {LONG}i, in: {{a: x, b: x}}, out: {{y: "{LONG}t: f32[4, 4]"}}}}\n'
    f"      - {{op: add, in: {{a: {LONG}t, b: x}}, out: {{y: y}}}}\n",
    "text": f'graph: text\ndoc: "$x^2$ <b>\u00e9</b> \u6f22 \\" & %s @@DATA@@ </script>"\n{_ENDS}body:\n'
    '  - {op: add, doc: "</script><!--", in: {a: x, b: x}, out: {y: "t: f32[4, 4]"}}\n'
    "  - {op: add, in: {a: t, b: x}, out: {y: y}}\n",
    "nothing_in_it": 'graph: nothing_in_it\ninputs: {x: "f32[0, 4]"}\noutputs: {y: "f32[0, 4]"}\nbody:\n'
    '  - {op: add, in: {a: x, b: x}, out: {y: "t: f32[0, 4]"}}\n  - {op: linear, in: {x: t, w: x}, out: {y: "z: f32[0, 0]"}}\n'
    "  - {op: add, in: {a: t, b: x}, out: {y: y}}\n",
    "chain": _chain(1500),
}
