"""`pytest tests/lint --update` writes the expected outputs and the docs anew, to be reviewed with `git diff`."""


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="Write the lint cases' expected outputs and docs/lint.md anew.")
