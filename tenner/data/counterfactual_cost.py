"""The estimated cost of the other order of selecting and buying traces."""

from tenner.core.recipe import Order
from tenner.core.records import Counterfactual


def compare(
    order: Order, *, bought: int, spent_usd: float, verified: int, wanted: int, candidates: int
) -> Counterfactual:
    """Of `candidates` questions that are worth a trace, `bought` were bought, and `verified` of these are verified.

    Trace-first buys all candidates. Select-first buys until `wanted` are verified, at the yield of this run.
    """
    if order == "select-first":
        others = candidates
    else:
        others = min(candidates, -(-wanted * bought // verified)) if verified else candidates
    mean_usd = spent_usd / bought if bought else 0.0
    return Counterfactual(
        order=order, bought=bought, spent_usd=spent_usd, other_bought=others, other_usd=others * mean_usd
    )
