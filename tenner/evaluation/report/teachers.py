"""The teachers that were asked the same questions before one was chosen."""

from tenner.evaluation.report.facts import RunFacts
from tenner.evaluation.report.tables import DASH, Table, mean_tokens, p_value

NOTE = (
    "Every teacher was asked the same questions before traces were bought. Of those that the exact McNemar test does "
    "not find worse than the best one (p > 0.05), the one whose verified traces cost the least was chosen."
)


def tables(facts: RunFacts) -> list[Table]:
    """What each teacher made of the questions; none where the recipe names one teacher."""
    rows = [
        (
            row.teacher or DASH, f"{row.verified:,} of {row.questions:,}", f"{row.failed:,}",
            mean_tokens(row.output_tokens_mean), f"${row.cost_usd:.6f}",
            DASH if row.usd_per_verified is None else f"${row.usd_per_verified:.6f}",
            p_value(row.p_value), "chosen" if row.is_chosen else "",
        )
        for row in facts.teacher_probes
    ]  # fmt: skip
    header = (
        "teacher", "verified", "failed calls", "mean tokens", "cost", "for each verified", "against the best", "",
    )  # fmt: skip
    return [Table("The teachers that were asked", "lrrrrrrl", header, rows)] if rows else []
