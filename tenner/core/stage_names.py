"""The names of the stages, in the two orders that a recipe may choose (buy traces of the selected, or of all), with or
without a control arm, and of a measurement's."""

SELECT_FIRST = ("gather", "clean", "attempt", "select", "trace", "verify", "train", "evaluate", "report")
TRACE_FIRST = ("gather", "clean", "attempt", "trace", "verify", "select", "train", "evaluate", "report")
ORDERS = {"select-first": SELECT_FIRST, "trace-first": TRACE_FIRST}
CONTROL = "control"
"""The stage of the control arm, in runs that have one."""
TEACHERS = "teachers"
"""Not a stage, but what the trace stage books, and a plan says, of asking several teachers before one is chosen."""
MEASURED = ("gather", "evaluate", "report")
COMPUTED = ("attempt", "train", CONTROL, "evaluate")
"""Those for which the machine computes with a student."""


def with_control(order: tuple[str, ...]) -> tuple[str, ...]:
    """The stages of a run with a control arm: its student is trained before both are evaluated."""
    place = order.index("evaluate")
    return (*order[:place], CONTROL, *order[place:])
