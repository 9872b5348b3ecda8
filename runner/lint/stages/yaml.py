"""`runner.language` finds these codes of stage 1 while it reads the YAML."""

from runner.lint.rule import Description

DESCRIPTIONS = (
    Description("G100", "file cannot be read", "The path is no readable file, and no shipped graph has that name."),
    Description(
        "G101",
        "not valid YAML",
        "The file cannot be parsed: a syntax error, an unknown alias, a second document, or text that is not UTF-8.",
    ),
    Description("G102", "key given twice", "YAML parsers keep one of the two and drop the other without a word."),
    Description("G103", "unknown key", "Nothing reads this key, so it has no effect; most often it is misspelt."),
    Description(
        "G104",
        "value whose type depends on the YAML version",
        "YAML 1.1, which many tools speak, reads `on` and `no` as booleans, `0x10`, `010`, `1_000` and `1:30` as integers, and "
        "`1e-6` as text. Write the value so that every reader sees the same.",
    ),
    Description(
        "G105",
        "file too large",
        "Files, nesting and aliases are limited, so that no file can exhaust the memory of who checks it.",
    ),
    Description(
        "G106", "YAML feature that graphs do not have", "Tags, merge keys and keys that are not text have no meaning in a graph."
    ),
)
