"""The Modelfile by which Ollama asks a student as its run did: one question, with the thinking opened."""

from collections.abc import Sequence

from tenner.core.errors import TennerError

QUESTION = "⟨the question⟩"
"""Stands for the question in a rendered prompt."""


def modelfile(gguf_name: str, prompt: str, stops: Sequence[str]) -> str:
    """The text of a Modelfile. `prompt` is all that the student reads, with `QUESTION` in the question's place; `stops`
    are the texts that end its turn. Decoding is greedy, as in the run.

    Raises TennerError where the prompt has what a Modelfile cannot hold.
    """
    before, found, after = prompt.partition(QUESTION)
    if not found or QUESTION in after:
        raise TennerError(
            "the student's chat template does not repeat the question as it is, once", hint="use the GGUF alone"
        )
    if any(mark in part for mark in ("{{", "}}", '"""') for part in (before, after)):
        raise TennerError(
            'the student\'s chat template writes "{{" or \'"""\', which a Modelfile cannot hold',
            hint="use the GGUF alone",
        )
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join([*lines, "PARAMETER temperature 0", ""])
