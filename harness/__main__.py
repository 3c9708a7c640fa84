"""`python -m harness`, the same as the console script."""

from harness.cli import main

main()
