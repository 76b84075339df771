"""`python -m tenner`."""

from tenner.cli import main

main()
