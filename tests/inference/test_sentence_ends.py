"""Which ids end a sentence."""

from pathlib import Path


def test_marks_and_line_breaks_end_a_sentence_and_control_tokens_do_not(tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    from tenner.inference.sentence_ends import sentence_ends

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    ends = sentence_ends(tokenizer)
    assert ends == {tokenizer.convert_tokens_to_ids(mark) for mark in (".", "!", "?", "\u010a")}
    assert sentence_ends(tokenizer) is ends, "read once"
