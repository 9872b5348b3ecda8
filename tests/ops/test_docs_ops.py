"""`docs/ops.md` lists the registered ops. `python tests/ops/test_docs_ops.py` writes its table anew."""

from importlib import import_module
from pathlib import Path

import ops
from runner.program.ops import OpRegistry

PAGE = Path(__file__).parents[2] / "docs" / "ops.md"
BEGIN, END = "<!-- table: python tests/ops/test_docs_ops.py -->\n", "<!-- end of table -->\n"


def families():
    """Our modules in alphabetical order, each with the ops that it declares."""
    for name in ops.declaring_modules():
        module, registry = import_module(name), OpRegistry()
        declared = getattr(module, "ops", None)
        if isinstance(declared, OpRegistry):
            registry = declared
        elif hasattr(module, "register"):
            module.register(registry)
        if registry:
            yield name, registry


def table():
    """Markdown: a section for each family, a row for each op."""
    lines = []
    for name, registry in families():
        lines += [f"\n### `{name.replace('.', '/')}.py`\n", "| op | core | computes |", "|---|---|---|"]
        for op in registry:
            doc = " ".join(registry[op].doc.split("\n\n")[0].split())
            signature = registry[op].signature.strip().replace("|", "\\|")
            lines.append(f"| `{op}` | {registry[op].core} | {doc.replace('|', chr(92) + '|')}<br>`{signature}` |")
    return "\n".join(lines) + "\n\n"


def test_the_page_lists_every_op_as_it_is_declared():
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert before and rest.partition(END)[0] == table(), "run: python tests/ops/test_docs_ops.py"


def test_every_registered_op_is_on_the_page():
    registry = OpRegistry()
    ops.register_all(registry)
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in registry if f"| `{name}` |" not in text] == []


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
