"""Defaults of engines and servers: the recipe's own where it has one, for use without a recipe."""

from tenner.core.sections import Evaluate

WAIT_TEXT: str = Evaluate.model_fields["wait_text"].default
ANSWER_TOKENS_MAX: int = Evaluate.model_fields["answer_tokens_max"].default
ROWS: int = Evaluate.model_fields["rows"].default
CONCURRENCY_MAX = 64
"""Answers that a server gives at a time."""
REQUEST_BYTES_MAX = 1 << 20
"""The largest body of a request to a server."""
