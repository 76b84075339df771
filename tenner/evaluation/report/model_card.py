"""The model card: the README of the student's folder, as the Hugging Face hub reads it."""

import json

from huggingface_hub import EvalResult, ModelCardData

from tenner.core.formats import ThinkFormat
from tenner.core.licenses import is_open
from tenner.evaluation.report import selection_worth
from tenner.evaluation.report.facts import BenchmarkFacts, RunFacts
from tenner.evaluation.report.markdown import fenced, markdown_table, without_html
from tenner.evaluation.report.run_tables import family_tables
from tenner.evaluation.report.score_tables import score_tables
from tenner.evaluation.report.sentences import comparison_note, headline, own_policy_note, spend_note
from tenner.evaluation.report.tables import interval

QUESTION = "What is the sum of 7, 5, 9, 4?"
UNKNOWN = {"unknown", "other", ""}
"""Licences without a name of their own on the hub."""


def model_card(facts: RunFacts) -> str:
    """`student/README.md`: YAML front matter, use, scores, limits and spend."""
    parts = [
        _front_matter(facts),
        without_html(f"# {_title(facts)}, by tenner ({facts.title})"),
        without_html(f"{headline(facts)} {comparison_note(facts)}"),
        _think_format(facts.think_format),
        "## Use",
        fenced(_usage(facts), "python"),
        "With a thinking budget: `tenner serve student` answers OpenAI's chat completions, where "
        '`"thinking": {"max_tokens": 64}` ends the thinking after at most 64 tokens; so does vLLM, started with '
        "`--logits-processors tenner.inference.vllm:ForcingProcessor`, by `vllm_xargs`.",
        *filter(None, [own_policy_note(facts)]),
        "## Scores",
        *map(markdown_table, score_tables(facts)),
        *map(markdown_table, family_tables(facts)),
        *filter(None, [without_html(selection_worth.note(facts))]),
        "## Limits",
        without_html(
            f"It was trained on {facts.samples_count:,} samples and measured on unseen questions of these only: "
            f"{'; '.join(map(_with_domains, facts.benchmarks))}. Nothing is known about other questions, other "
            f"languages or safety; its size and all other weaknesses are those of {facts.base_model}. "
            f"{facts.older_benchmarks}".rstrip()
        ),
        "## Licence",
        without_html(_license_note(facts)),
        "## Spend",
        without_html(spend_note(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: RunFacts) -> str:
    """The hub's metadata, the results among them as a model index."""
    data = ModelCardData(
        base_model=facts.base_model,
        license=None if facts.license in UNKNOWN else facts.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tenner", "reasoning", "budget-forcing"],
        datasets=list(facts.datasets) or None,
        model_name=f"{facts.title}, {_name(facts)}",
        eval_results=[_result(benchmark) for benchmark in facts.benchmarks],
    )
    return f"---\n{data.to_yaml()}\n---"


def _result(benchmark: BenchmarkFacts) -> EvalResult:
    """The distilled student's accuracy, in percent, and in the metric's name its interval and n."""
    score = benchmark.after
    return EvalResult(
        task_type="text-generation",
        dataset_type=benchmark.dataset or benchmark.name,
        dataset_name=benchmark.name,
        metric_type="accuracy",
        metric_value=round(100 * score.accuracy, 1),
        metric_name=f"accuracy (95 % interval {interval(score)}, n = {score.n})",
    )


def _title(facts: RunFacts) -> str:
    """Of a student that was right at all it is said that it thinks."""
    is_right_at_all = any(benchmark.after.accuracy > 0 for benchmark in facts.benchmarks)
    return f"{_name(facts)} that thinks" if is_right_at_all else f"{_name(facts)}, fine-tuned on reasoning traces"


def _license_note(facts: RunFacts) -> str:
    """Whose terms the student may be under."""
    own = "is not known" if facts.license in UNKNOWN else f"is {facts.license}"
    parts = [f"The licence of {facts.base_model} {own}, and the student inherits it."]
    for row in facts.sources:
        if row.trained_on and not is_open(row.source.license or ""):
            said = f"is under {row.source.license}" if row.source.license else "states no licence"
            parts.append(f"{row.source.source}, of which {row.trained_on:,} questions were trained on, {said}.")
    if teachers := [name for name in facts.teachers if not name.startswith("reference-solution")]:
        parts.append(
            f"The traces were written by {', '.join(teachers)}; the terms of a provider may limit what its output may "
            "be used for."
        )
    return " ".join(parts)


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
    fmt, question = facts.think_format, facts.question or QUESTION
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
