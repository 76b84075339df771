"""A recipe's plan: its arithmetic by hand, the built-in recipes, the cap, and the machines to choose from."""

import json

import pytest
from commands import tenner_here
from published_configs import CONFIGS

from tenner.budget import assumptions as assumed
from tenner.budget import machines
from tenner.budget.estimate import Estimate
from tenner.core import hardware, recipe
from tenner.core.errors import TennerError
from tenner.core.records import StagePlan
from tenner.core.sections import Train
from tenner.inference.speed_probe import DecodingSpeed
from tenner.stages import plan_page, run_plan
from tenner.stages.plan_speeds import Machine, Size, UnknownSize
from tenner.training.architecture import Architecture
from tenner.training.memory_plan import forecast

QWEN_32B = {
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
SIXTEEN_H100 = Machine(machines.card("h100"), 16)


@pytest.fixture(scope="module")
def size_32b() -> Size:
    return Size.of(Architecture.of(QWEN_32B))


def plan_of(name: str, *overrides: str) -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in plan_page.stages_of(recipe.load(name, overrides=list(overrides)))}


def test_a_size_is_told_by_the_architecture_or_by_the_name(size_32b):
    named = Size.by_name("Qwen/Qwen2.5-32B-Instruct")
    assert named.parameters == 32e9
    assert size_32b.kv_bytes == 64 * 8 * 128 * 2 * 2
    assert size_32b.forward_flops == pytest.approx(2 * (32.76e9 - 5120 * 152064), rel=0.01)
    assert named.kv_bytes == pytest.approx(size_32b.kv_bytes, rel=0.1)
    assert Size.by_name("x", "HuggingFaceTB/SmolLM2-135M-Instruct").parameters == 135e6
    assert Size.by_name("Qwen3.5-0.8B").parameters == 0.8e9
    with pytest.raises(UnknownSize, match="its name tells no size"):
        Size.by_name("some/folder", "GPT-J6")


def test_training_is_six_operations_a_parameter_over_the_cards_best(size_32b):
    full = Train(epochs=5, lr=1e-5, tokens_per_step=1, tokens_max=32768)
    assert size_32b.train_flops(full, 0.0) == pytest.approx(6 * 32.0e9, rel=0.01)
    assert size_32b.train_flops(full.model_copy(update={"method": "lora"}), 0.0) == pytest.approx(4 * 32.0e9, rel=0.01)
    half = size_32b.train_flops(full.model_copy(update={"frozen_layers": 32}), 0.0)
    assert half == pytest.approx(4 * 32.0e9, rel=0.01)
    tokens = Estimate.exactly(27e6)  # s1's
    seconds = SIXTEEN_H100.train_seconds(size_32b, full, tokens, Estimate.exactly(5400.0))
    assert seconds.low < 26 * 60 < seconds.high, "the paper's 26 minutes"
    by_hand = 27e6 * size_32b.train_flops(full, 5400.0) / (0.35 * 16 * 989.5e12)
    assert seconds.expected == pytest.approx(by_hand)


def test_the_teacher_is_paid_by_the_token():
    trace = plan_of("gsm8k-small")["trace"]
    assert trace.questions == round(1000 / assumed.KEPT_SHARE.expected)
    assert trace.usd is not None
    assert trace.usd.expected == pytest.approx(1000 / 0.75 * (150 * 0.15 + 2000 * 0.60) / 1e6, rel=0.01)
    as_it_is = plan_of("gsm8k-small", "trace.keep=first")["trace"]
    assert as_it_is.questions == 1000
    batch = plan_of("gsm8k-small", "trace.price={input_usd_per_mtok=0.15,output_usd_per_mtok=0.6,batch_multiplier=0.5}",
                    "trace.batch=true")["trace"]  # fmt: skip
    assert batch.usd is not None
    assert batch.usd.expected == pytest.approx(trace.usd.expected / 2, rel=0.01)


@pytest.mark.parametrize("name", recipe.built_in())
def test_the_cap_of_a_built_in_recipe_is_above_what_is_expected(name):
    described = recipe.load(name)
    stages = run_plan.stage_plans(
        described, Size.by_name(described.student.base_model), plan_page.machine_of(described)
    )
    if described.machine.card:  # a CPU that others keep busy may be slow
        assert run_plan.check_cap(stages, described.budget_usd) is None
    usd = run_plan.total_usd(stages)
    assert 0 < usd.low < usd.expected < usd.high
    assert usd.low < described.budget_usd


def test_the_demo_takes_minutes_and_about_a_cent():
    stages = plan_of("demo")
    usd = run_plan.total_usd(list(stages.values()))
    paid_usd = 0.0068 if hardware.has_native_bf16("cpu") else 0.0148  # as README says, and by 8.9 minutes
    assert usd.low < paid_usd < usd.high
    assert 0.001 < usd.expected < 0.1
    assert stages["trace"].what == "free"


@pytest.mark.parametrize(("width", "lines_of_a_stage"), [(120, 1), (80, 2), (50, 3)])
def test_a_plan_keeps_to_the_width_of_the_terminal(width, lines_of_a_stage):
    stages = [
        StagePlan(
            stage="evaluate", what="530 answers under 9 policies, by both students",
            usd=Estimate(5.85, 24.5, 320.0), seconds=Estimate(330.0, 1386.0, 18000.0),
        )
    ]  # fmt: skip
    plan = plan_page.RunPlan(
        "r", 100.0, "16 H100 SXM, listed", 63.84, stages, None, "not known", [], [], ["word " * 40]
    )
    lines = plan.as_text(width).splitlines()
    assert max(map(len, lines)) <= width
    (place,) = (n for n, line in enumerate(lines) if line.startswith("evaluate"))
    assert lines[place + lines_of_a_stage].startswith("together")
    told = " ".join(" ".join(lines[place : place + lines_of_a_stage]).split())
    assert (
        told
        == "evaluate 5.5 min / 23.1 min / 5.0 h $5.85 / $24.50 / $320 530 answers under 9 policies, by both students"
    )


def test_a_cap_is_held_against_the_plan():
    stages = [
        StagePlan(stage="trace", what="", usd=Estimate(1.0, 2.0, 4.0)),
        StagePlan(stage="train", what="", usd=Estimate(0.5, 3.0, 9.0)),
        StagePlan(stage="evaluate", what="not known"),
    ]
    with pytest.raises(TennerError, match=r"the cap of \$1.40 is below what the run takes at least: \$1.50 to \$13"):
        run_plan.check_cap(stages, 1.4)
    warning = run_plan.check_cap(stages, 1.5)
    assert warning is not None
    assert "the cap of $1.50 is below what is expected" in warning
    assert "most of it for train" in warning
    assert run_plan.check_cap(stages, 5.0) is None


def test_what_is_not_known_is_said():
    stages = plan_of("demo", "evaluate.benchmarks=[{name='b', file='b.jsonl'}]")
    assert stages["evaluate"].usd is None
    assert "does not say its number of questions" in stages["evaluate"].what


def test_the_rows_of_a_file_on_this_machine_are_counted(tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("\ufeffquestion,answer\n1 + 1?,2\n2 + 2?,4\n", "utf-8")
    stages = plan_of("demo", f"evaluate.benchmarks=[{{name='mine', file='{mine}'}}]", "evaluate.questions=0")
    assert stages["evaluate"].questions == 2


def test_machines_and_changes_are_compared(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(QWEN_32B))
    made = json.loads(tenner_here("plan", "s1k-32b", "--config", config, "--json").stdout)
    by_what = {option["what"]: option for option in made["options"]}
    low, _, high = by_what["16 H100 SXM"]["usd"]
    assert low / high == pytest.approx(2.69 / 3.99)
    assert [option for option in by_what if "LoRA" in option]
    assert made["fits"] is True
    assert made["changes"][0]["saved_usd"] > 0
    assert sum(stage["usd"][1] for stage in made["stages"]) == pytest.approx(made["total_usd"][1])
    text = tenner_here("plan", "s1k-32b", "--config", config, "--set", "budget_usd=10").stdout
    assert "\nfits in 80 GB" in text
    assert "16 H100 SXM: " in text
    assert "warning: the cap of $10 is below what the run takes at least" in text


def test_a_service_is_among_them():
    made = json.loads(tenner_here("plan", "s1k-qwen3-8b-lora", "--json").stdout)
    (tinker,) = [option for option in made["options"] if option["what"].startswith("tinker")]
    assert tinker["usd"][1] == pytest.approx(0.44 * made["stages"][-3]["tokens"][1] / 1e6)


def test_training_by_a_service_is_paid_by_the_token(tmp_path):
    text = recipe.built_in()["s1k-qwen3-8b-lora"].replace('quantization = "nf4"', 'backend = "tinker"')
    service = 'tinker = { base_url = "http://localhost:1", model = "Qwen/Qwen3-8B", price_usd_per_mtok = 0.5 }'
    (tmp_path / "mine.toml").write_text(text.replace('activations = "inputs"', service))
    made = json.loads(tenner_here("plan", tmp_path / "mine.toml", "--json").stdout)
    (train,) = [stage for stage in made["stages"] if stage["stage"] == "train"]
    assert train["usd"] == [pytest.approx(tokens * 0.5e-6) for tokens in train["tokens"]]
    assert train["seconds"] is None
    assert made["memory_note"] == "a service trains"


MEASURED = run_plan.Measured(
    questions=24, lengths=run_plan.Tokens(*map(Estimate.exactly, (40.0, 28.0, 6.0))), longest_tokens=180,
    base_thinking=Estimate.exactly(50.0), base_answer=Estimate.exactly(7.0), teacher_input=None, teacher_output=None,
    kept_share=None, service_token_seconds=0.01, service_start_seconds=7.0,
    decoding=DecodingSpeed(0.05, 0.001, 0.001), loading_seconds=1000.0, train_token_seconds=0.002,
    train_loading_seconds=5.0, trial_seconds=3.0,
)  # fmt: skip


def after_a_probe(*overrides: str, size: Size | None = None, measured: run_plan.Measured = MEASURED):
    described = recipe.load("demo", overrides=["select.samples=1000", *overrides])
    stages = run_plan.stage_plans(described, size or Size.by_name("SmolLM2-135M"), Machine(None, 1), measured)
    return {stage.stage: stage for stage in stages}


def test_after_a_probe_each_student_is_loaded_once_a_stage_and_no_longer_than_it_took():
    stages = after_a_probe()
    assert stages["attempt"].seconds and stages["train"].seconds and stages["evaluate"].seconds  # noqa: PT018
    assert 1003 < stages["attempt"].seconds.expected < 1100, "once for three prompt forms"
    assert 2000 < stages["evaluate"].seconds.expected < 2200, "both students"
    tokens = 1000 * (40 + 28 + 6 + assumed.TEMPLATE_TOKENS)
    assert stages["train"].seconds == pytest.approx((5 + 0.002 * tokens,) * 3)


SERVICE = [
    "train.frozen_layers=0", 'train.method="lora"', 'train.backend="tinker"', "train.checkpoint_seconds=600",
    'train.tinker={base_url="http://localhost:1", model="m", price_usd_per_mtok=0.5, '
    "sampling_price={input_usd_per_mtok=0.1, output_usd_per_mtok=0.4}}",
]  # fmt: skip


def test_a_service_is_paid_for_all_tokens_but_the_last_of_each_sample_and_takes_as_long_as_it_was_seen_to():
    train = after_a_probe(*SERVICE)["train"]
    tokens = 1000 * (40 + 28 + 6 + assumed.TEMPLATE_TOKENS - 1)
    assert train.tokens == Estimate.exactly(tokens)
    assert train.seconds == pytest.approx((7 + 0.01 * tokens,) * 3)
    assert train.usd and train.usd.expected == pytest.approx(0.5e-6 * tokens + (7 + 0.01 * tokens) * 0.1 / 3600)  # noqa: PT018
    assert train.memory_bytes is None


def test_what_a_service_is_paid_for_the_comparison_is_in_the_plan():
    plain, more = (
        after_a_probe(*SERVICE, f"train.tinker.compare_questions={count}")["evaluate"].usd for count in (0, 20)
    )
    assert plain and more  # noqa: PT018
    assert more.expected - plain.expected == pytest.approx(20 * (40 * 0.1 + (28 + 6) * 0.4) / 1e6, abs=1e-6)
    assert more.high - plain.high == pytest.approx(20 * ((40 + 40 + 28) * 0.1 + (28 + 6) * 0.4) / 1e6, abs=1e-6)


def test_a_training_is_said_to_take_the_memory_of_the_longest_sample_that_is_expected():
    size = Size.of(Architecture.of(CONFIGS["Qwen3-0.6B"]))
    long, short = "train.tokens_per_row=8192", "train.tokens_max=180"
    as_seen, limited, unseen = (
        stages["train"].memory_bytes
        for stages in (
            after_a_probe(long, size=size),
            after_a_probe(long, short, size=size),
            after_a_probe(long, size=size, measured=MEASURED._replace(longest_tokens=512)),
        )
    )
    assert as_seen and unseen  # noqa: PT018
    assert as_seen == limited < unseen


def test_a_row_is_no_longer_than_a_step_and_the_sample_that_ends_it(size_32b):
    architecture = size_32b.architecture
    settings = Train(epochs=1, lr=1e-5, tokens_per_step=4000, tokens_max=1000, tokens_per_row=8192, precision="bf16")

    def said(ranks: int, **changes: int) -> int:
        return forecast(
            architecture, settings.model_copy(update=changes), longest_tokens=1000, ranks=ranks
        ).total_bytes  # fmt: skip

    assert said(1) == said(1, tokens_per_row=5000) > said(1, tokens_per_row=4999)
    assert said(4) == said(4, tokens_per_row=2000) > said(4, tokens_per_row=1999)


def test_small_students_too():
    size = Size.of(Architecture.of(CONFIGS["Qwen3-0.6B"]))
    assert size.parameters == pytest.approx(0.6e9, rel=0.01)


def test_a_control_arm_is_in_the_plan_with_its_traces_its_training_and_its_answers():
    plain, more = plan_of("gsm8k-small"), plan_of("gsm8k-small", 'select.control="random"')
    assert list(more) == [*list(plain)[:-2], "control", "evaluate", "report"]
    assert {name: stage for name, stage in more.items() if name in plain and name != "evaluate"} == {
        name: stage for name, stage in plain.items() if name != "evaluate"
    }
    trace, train, control = plain["trace"], plain["train"], more["control"]
    assert control.seconds == train.seconds
    assert trace.usd and train.usd and control.usd  # noqa: PT018  for mypy
    assert control.usd.high == pytest.approx(trace.usd.high + train.usd.high)
    assert train.usd.expected < control.usd.expected < trace.usd.expected + train.usd.expected
    before, after = plain["evaluate"].seconds, more["evaluate"].seconds
    assert before and after  # noqa: PT018
    assert before.expected < after.expected < 2 * before.expected


def test_the_teachers_that_are_asked_are_in_the_plan():
    cheap = "{input_usd_per_mtok=0.0, output_usd_per_mtok=0.1}"
    candidates = f'trace.candidates=[{{base_url="http://localhost:1/v1", model="n", price={cheap}}}]'
    plain, more = plan_of("gsm8k-small"), plan_of("gsm8k-small", candidates, "trace.candidate_questions=20")
    assert list(more) == [*list(plain)[:4], "teachers", *list(plain)[4:]]
    trace, asked = more["trace"], more["teachers"]
    assert plain["trace"].usd and trace.usd and asked.usd  # noqa: PT018
    own = 20 * (150 * 0.15 + 2000 * 0.60) / 1e6
    assert asked.usd.expected == pytest.approx(own + 20 * 2000 * 0.1 / 1e6, rel=0.01)
    assert (asked.questions, trace.questions) == (40, plain["trace"].questions)
    assert trace.usd.low < plain["trace"].usd.low
    assert trace.usd.high < plain["trace"].usd.high
    assert "2 teachers are asked 20 questions each" in asked.what
