"""The model card: the README of the student's folder, as the Hugging Face hub reads it."""

import json

from tenner.core.formats import ThinkFormat
from tenner.evaluation.report.facts import BenchmarkFacts, RunFacts
from tenner.evaluation.report.markdown import fenced, markdown_table, without_html
from tenner.evaluation.report.run_tables import family_tables
from tenner.evaluation.report.score_tables import score_tables
from tenner.evaluation.report.sentences import comparison_note, headline, spend_note


def model_card(facts: RunFacts) -> str:
    """`student/README.md`: YAML front matter, use, scores, limits and spend."""
    parts = [
        _front_matter(facts),
        without_html(f"# {_name(facts)} that thinks, by tenner ({facts.title})"),
        without_html(f"{headline(facts)} {comparison_note(facts)}"),
        _think_format(facts.think_format),
        "## Use",
        fenced(_usage(facts), "python"),
        "## Scores",
        *map(markdown_table, score_tables(facts)),
        *map(markdown_table, family_tables(facts)),
        "## Limits",
        without_html(
            f"It was trained on {facts.samples_count:,} samples and measured on unseen questions of these only: "
            f"{'; '.join(map(_with_domains, facts.benchmarks))}. Nothing is known about other questions, other "
            f"languages or safety; its size and all other weaknesses are those of {facts.base_model}."
        ),
        "## Spend",
        without_html(spend_note(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: RunFacts) -> str:
    """YAML, every value written as JSON, which YAML contains."""
    fields = {
        "base_model": facts.base_model,
        "license": facts.license,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tenner", "reasoning", "budget-forcing"],
        "datasets": [],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _name(facts: RunFacts) -> str:
    return facts.base_model.rsplit("/", 1)[-1]


def _with_domains(benchmark: BenchmarkFacts) -> str:
    """A benchmark's name, and the domains of its questions where they have any."""
    domains = sorted({s.domain for s in benchmark.scores if s.domain is not None})
    return f"{benchmark.name} ({', '.join(domains)})" if domains else benchmark.name


def _think_format(fmt: ThinkFormat) -> str:
    answer = f"the answer follows `{fmt.cue.strip()}`."
    if not fmt.close:
        return answer.capitalize()
    return f"It thinks between `{fmt.open.strip()}` and `{fmt.close.strip()}`; {answer}"


def _usage(facts: RunFacts) -> str:
    """A snippet that runs as it stands, in the folder above the student."""
    fmt, question = facts.think_format, "What is the sum of 7, 5, 9, 4?"
    opening = fmt.open if facts.opening is None else facts.opening
    kwargs = "".join(f", {name}={value!r}" for name, value in facts.chat_template_kwargs.items())
    if facts.is_self_contained:
        kwargs, turns = "", [{"role": "user", "content": question}]
    elif facts.system_prompt is None or not facts.has_system_role:
        system = f"{facts.system_prompt}\n\n" if facts.system_prompt else ""
        turns = [{"role": "user", "content": system + question}]
    else:
        turns = [{"role": "system", "content": facts.system_prompt}, {"role": "user", "content": question}]
    added = f"prompt += {json.dumps(opening)}\n" if opening else ""
    return f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("student")
model = AutoModelForCausalLM.from_pretrained("student")

turns = {json.dumps(turns)}
prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True{kwargs})
{added}inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=256, do_sample=False)
text = tokenizer.decode(output[0, inputs["input_ids"].shape[1]:])
thinking, _, answer = text.partition({json.dumps(fmt.close or fmt.cue)})
print(thinking, answer, sep="\\n---\\n")"""
