"""The names of the stages, in the two orders that a recipe may choose (buy traces of the selected, or of all), and of a
measurement's."""

SELECT_FIRST = ("gather", "clean", "attempt", "select", "trace", "verify", "train", "evaluate", "report")
TRACE_FIRST = ("gather", "clean", "attempt", "trace", "verify", "select", "train", "evaluate", "report")
ORDERS = {"select-first": SELECT_FIRST, "trace-first": TRACE_FIRST}
MEASURED = ("gather", "evaluate", "report")
COMPUTED = ("attempt", "train", "evaluate")
"""Those for which the machine computes with a student."""
