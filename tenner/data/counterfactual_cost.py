"""What the other order of selecting and buying would have cost, told beside what this one did."""

from tenner.core.recipe import Order
from tenner.core.records import Counterfactual


def compare(
    order: Order, *, bought: int, spent_usd: float, kept: int, wanted: int, worth_a_trace: int
) -> Counterfactual:
    """`worth_a_trace` questions were left after all that can be known without a trace; `kept` of the bought are right.

    Trace-first buys all of them. Select-first buys until `wanted` are right, at the yield that was seen.
    """
    if order == "select-first":
        others = worth_a_trace
    else:
        others = min(worth_a_trace, -(-wanted * bought // kept)) if kept else worth_a_trace
    mean_usd = spent_usd / bought if bought else 0.0
    return Counterfactual(
        order=order, bought=bought, spent_usd=spent_usd, other_bought=others, other_usd=others * mean_usd
    )
