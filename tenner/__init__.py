"""tenner: make a reasoning model on a budget."""

__version__ = "0.1.0"
