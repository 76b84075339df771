"""The recipe's own defaults (`sections.Evaluate`), for an engine or a server that is used without a recipe."""

from tenner.core.sections import Evaluate

WAIT_TEXT: str = Evaluate.model_fields["wait_text"].default
ANSWER_TOKENS_MAX: int = Evaluate.model_fields["answer_tokens_max"].default
ROWS: int = Evaluate.model_fields["rows"].default
