"""The student: which model it is, and how it is asked."""

from typing import Annotated

from pydantic import Field

from tenner.core.sections.base import FormatName, Resume, Section, TemplateArguments
from tenner.core.sections.selection import PromptForm


class Model(Section):
    """A model that an engine runs, and how it is prompted."""

    model: str
    """`wheel:…`, `hf:org/name@revision`, or the path of a model folder."""
    format: FormatName
    """Its think format (see `formats.FORMATS`); `auto`: taken from its chat template."""
    system_prompt: str | None = None
    """Default: that of the chat template."""
    chat_template: str | None = None
    """`chatml`, `plain` or a file, for a base model that has none. Default: the model's own."""
    chat_template_kwargs: TemplateArguments = {}
    """Arguments of the chat template, such as enable_thinking or reasoning_effort."""

    @property
    def form(self) -> "PromptForm":
        """Its default prompt form: its own format, without a suffix."""
        return PromptForm(name=self.format, format=self.format)


class Student(Model):
    """The model that is trained."""

    base_model: str
    """Its name on the Hugging Face hub, for the model card."""
    license: str
    """Its licence, such as `apache-2.0`, which the trained student inherits."""
    released: Annotated[str | None, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$"), Resume.FREE] = None
    """The month in which its weights came out, such as 2024-11: older benchmarks are marked in the report. Default:
    known for a few families."""
    format: FormatName = "s1"
    """The think format that it is taught."""
