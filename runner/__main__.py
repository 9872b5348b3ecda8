"""`python -m runner`: the command line."""

from runner.cli.main import main

main()
