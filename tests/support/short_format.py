"""A think format whose delimiters a random model comes upon."""

from tenner.core.formats import ThinkFormat

SHORT = ThinkFormat("short", open="<|im_start|>t", close="\x10", cue="=")
"""Its close is one id, so that a random model comes upon it."""
