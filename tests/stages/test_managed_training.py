"""Training by a service: the steps of our own loop, paid exactly, never twice, whatever breaks off when."""

import json

import pytest
import torch
from tinker_server import ALPHA, KEY, MODEL, TinkerServer
from transformers import AutoModelForCausalLM

from tenner.budget.ledger_database import read_spend
from tenner.clients import tinker
from tenner.core import recipe
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.progress import Screen
from tenner.core.records import Completion, Grade, Policy, Question, Sample, ServiceComparison, TrainStep
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.core.sections import PriceSection
from tenner.stages import managed_training, service_comparison, training

PRICE = 40.0  # micro-dollars a token
MOMENTS = [
    (endpoint, number, when)
    for endpoint, number in [
        ("create_model", 1), ("forward_backward", 1), ("forward_backward", 2), ("optim_step", 2), ("save_weights", 2),
        ("save_weights_for_sampler", 1),
    ]
    for when in ("before", "after")
]  # fmt: skip

IN_DOUBT = [("forward_backward", 2, "after"), ("optim_step", 2, "after")]
"""What was sent may have been received or not."""


def sample(number):
    return Sample(
        id=f"s{number}", question_id=f"q{number}", question=f"What is {number}+1?", thinking="a thought" * number,
        answer=str(number + 1), domain="sums",
    )  # fmt: skip


@pytest.fixture
def server(tiny_model_dir):
    with TinkerServer(json.loads((tiny_model_dir / "config.json").read_text())) as running:
        yield running


@pytest.fixture
def described(tiny_recipe, server, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    return recipe.load(
        str(tiny_recipe),
        overrides=[
            "train.frozen_layers=0", "train.checkpoint_seconds=600", 'train.method="lora"', "train.lora_rank=4",
            'train.backend="tinker"', "train.tokens_per_step=200", "machine.price_usd_per_hour=0",
            f'train.tinker={{base_url="{server.url}", model="{MODEL}", price_usd_per_mtok={PRICE},'
            ' api_key_env="THE_KEY"}',
        ],
    )  # fmt: skip


def learn(path, described, *, budget_usd=None):
    """The tokens that one epoch over the samples is paid by."""
    with open_run(path, described, Screen(), budget_usd=budget_usd) as run:
        run.folder.write("samples", [sample(number) for number in range(1, 9)])
        with run.folder.stage("train"):
            assert managed_training.learn(run) == (8, 8)
        return sum(len(encoded.ids) - 1 for encoded in training.prepare(run).encoded)


def spent(path):
    """Tokens, micro-dollars and the unsettled part of the training's spend."""
    rows = [row for row in read_spend(path / "run.db") if row.provider == "tinker"]
    return (
        sum(row.input_tokens for row in rows),
        round(sum(row.cost_usd for row in rows) * 1e6),
        round(sum(row.unsettled_usd for row in rows) * 1e6),
    )


def curve(path):
    return RunFolder(path).read("training", TrainStep)


def merged_steps(path, base):
    """How many steps the service had made when the student's adapters were stored: its adapters are filled with it."""
    changed, plain = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.layers[0].self_attn.q_proj.weight
        for folder in (path / "student", base)
    )
    # rank * value * value, times alpha / rank
    return round(((changed - plain).mean().item() / ALPHA) ** 0.5 * 1000)


def test_the_steps_are_those_of_our_own_loop_and_paid_to_the_token(described, server, tiny_model_dir, tmp_path):
    tokens = learn(tmp_path, described)
    rows = curve(tmp_path)
    assert [row.step for row in rows] == list(range(len(rows)))
    assert len(rows) > 3
    assert rows[0].steps == len(rows)
    assert all(row.loss == pytest.approx(2.0) and row.grad_norm == 1 and row.tokens_per_second > 0 for row in rows)
    assert server.tokens == tokens
    assert spent(tmp_path) == (tokens, tokens * PRICE, 0)
    assert merged_steps(tmp_path, tiny_model_dir) == len(rows)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj"]
    done = RunFolder(tmp_path).done("train")
    assert done
    assert {"student/model.safetensors", "adapter/adapter_config.json", "training.jsonl"} <= done.files.keys()
    assert len(server.states) == 2, "the last state and the adapters; earlier states are deleted"
    assert json.loads((tmp_path / managed_training.SERVICE_FILE).read_text())["adapter"] in server.states


@pytest.mark.parametrize(
    "moment",
    [pytest.param(m, marks=() if m in IN_DOUBT else pytest.mark.slow, id="-".join(map(str, m))) for m in MOMENTS],
)
def test_a_connection_that_breaks_off_costs_no_step_twice(moment, described, server, tiny_model_dir, tmp_path):
    server.breaks = {moment}
    with pytest.raises(TennerError, match="did not answer"):
        learn(tmp_path, described)
    tokens = learn(tmp_path, described)
    assert server.tokens == tokens
    assert spent(tmp_path) == (tokens, tokens * PRICE, 0)
    rows = curve(tmp_path)
    assert merged_steps(tmp_path, tiny_model_dir) == rows[0].steps
    # A step whose gradients were received, but not the answer that they were, has no known loss.
    assert rows[0].steps - len(rows) == (moment[::2] == ("forward_backward", "after"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("forward_backward", 2, "after"), ("optim_step", 2, "before")])
def test_a_step_that_the_service_has_forgotten_is_booked_and_done_again(
    moment, described, server, tiny_model_dir, tmp_path, capsys
):
    server.breaks = {moment}
    with pytest.raises(TennerError, match="did not answer"):
        learn(tmp_path, described)
    server.forget_models()
    tokens = learn(tmp_path, described)
    assert "it is booked, and done again" in capsys.readouterr().err
    assert server.tokens > tokens
    _, microusd, unsettled = spent(tmp_path)
    assert microusd == server.tokens * PRICE
    assert unsettled == (server.tokens - tokens) * PRICE
    assert merged_steps(tmp_path, tiny_model_dir) == curve(tmp_path)[0].steps == len(curve(tmp_path))


@pytest.mark.slow
def test_without_the_norm_of_the_gradients_a_doubtful_step_is_booked_too(described, server, tmp_path, capsys):
    server.breaks, server.tells_norm = {("forward_backward", 2, "before")}, False
    with pytest.raises(TennerError, match="did not answer"):
        learn(tmp_path, described)
    tokens = learn(tmp_path, described)
    assert "it is booked, and done again" in capsys.readouterr().err
    assert server.tokens == tokens
    assert spent(tmp_path)[1] > tokens * PRICE


def test_a_step_that_fails_there_is_booked_and_the_next_session_goes_on(described, server, tmp_path):
    server.fails = True
    with pytest.raises(TennerError, match=r"the training service refused: .*out of memory"):
        learn(tmp_path, described)
    server.fails = False
    tokens = learn(tmp_path, described)
    assert server.tokens == tokens
    assert spent(tmp_path)[2] > 0


def test_the_cap_is_exact_to_the_micro_dollar(described, server, tmp_path):
    tokens = learn(tmp_path / "whole", described)
    steps_tokens = list(server.steps_tokens)
    two = sum(steps_tokens[:2]) * PRICE / 1e6
    server.tokens = 0
    for cap_usd, steps in ((two - 1e-6, 1), (two, 2)):
        with pytest.raises(BudgetReached, match="the cap of") as stopped:
            learn(tmp_path / "part", described, budget_usd=cap_usd)
        assert len(curve(tmp_path / "part")) == steps
        assert f"{len(steps_tokens) - steps} steps are left" in (stopped.value.hint or "")
    learn(tmp_path / "part", described, budget_usd=tokens * PRICE / 1e6)
    assert server.tokens == tokens
    assert spent(tmp_path / "part") == spent(tmp_path / "whole")


@pytest.mark.parametrize("can_delete", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_on_request_all_that_the_service_stores_is_deleted(can_delete, described, server, tmp_path, capsys):
    server.can_delete = can_delete
    service = described.train.tinker.model_copy(update={"delete": True})
    learn(tmp_path, described.model_copy(update={"train": described.train.model_copy(update={"tinker": service})}))
    assert bool(server.states) == (tmp_path / managed_training.SERVICE_FILE).exists() != can_delete
    said = capsys.readouterr().err
    assert ("cannot delete" in said, "did not delete" in said) == (not can_delete, not can_delete)


@pytest.mark.parametrize("broken", [False, True])
def test_a_probe_pays_for_two_steps_once_and_leaves_nothing_stored(broken, described, server, tmp_path):
    def tried(run):
        return managed_training.tried_speed(run, training.prepare(run).encoded, "probe")

    with open_run(tmp_path, described, Screen(), budget_usd=None) as run:
        run.folder.write("samples", [sample(number) for number in range(1, 9)])
        if broken:
            server.breaks = {("optim_step", 2, "after")}
            with pytest.raises(TennerError, match="did not answer"):
                tried(run)
        for _ in range(2):  # the second time all is known
            speed = tried(run)
    assert speed is not None
    assert 0 < speed.token_seconds < 1
    assert 0 <= speed.loading_seconds < 10
    assert len(server.steps_tokens) == managed_training.TRIED_STEPS
    assert spent(tmp_path) == (server.tokens, server.tokens * PRICE, 0)
    assert {row.stage for row in read_spend(tmp_path / "run.db") if row.provider == "tinker"} == {"probe"}
    assert not server.states
    assert not server.models
    server.tokens = 0
    tokens = learn(tmp_path, described)
    assert server.tokens == tokens, "the training is paid as if there had been no probe"


def compared(described, path):
    """A recipe whose service is compared, and its run after training and evaluation, whose completions are made up."""
    price = PriceSection(input_usd_per_mtok=2.0, output_usd_per_mtok=3.0)
    more = {"compare_questions": 2, "sampling_price": price, "delete": True}
    service = described.train.tinker.model_copy(update=more)
    described = described.model_copy(update={"train": described.train.model_copy(update={"tinker": service})})
    learn(path, described)
    policy = Policy(thinking_tokens_max=described.evaluate.thinking_tokens_max[-1])
    questions = [Question(id=f"q{n}", question=f"What is {n}+1?", source="s", answer=str(n + 1)) for n in range(3)]
    with open_run(path, described, Screen(), budget_usd=None) as run:
        run.folder.write("benchmark", questions)
        run.folder.write("completions", [
            Completion(
                question_id=q.id, task="heldout", student="distilled", prompt="s1", policy=policy, thinking="",
                answer="", token_ids=(7, 8, 8), thinking_tokens=2, answer_tokens=1, truncated=False, interventions=(),
                grade=Grade(extracted=None, verdict="wrong"),
            )
            for q in questions
        ])  # fmt: skip
    return described


def spent_comparing(path):
    """The rows of what the service was paid for sampling."""
    return [row for row in read_spend(path / "run.db") if (row.stage, row.provider) == ("evaluate", "tinker")]


@pytest.mark.parametrize("from_memory_only", [False, True])
def test_the_student_is_compared_with_the_service_and_each_call_paid_once(
    from_memory_only, described, server, tmp_path
):
    described = compared(described, tmp_path)
    assert server.states, "what is compared is not deleted yet"
    server.says, server.samples_from_memory_only = [[7, 8, 9], [7, 8]], from_memory_only
    with open_run(tmp_path, described, Screen(), budget_usd=None) as run:
        for _ in range(2):  # the second time all is there
            service_comparison.compare(run)
        found = run.folder.read(service_comparison.FILE, ServiceComparison)
    assert [(row.question_id, row.tokens, row.same_tokens) for row in found] == [("q0", 3, 2), ("q1", 3, 2)]
    assert server.asked["asample"] == (3 if from_memory_only else 2), "refused once, and not paid for"
    (row,) = spent_comparing(tmp_path)
    assert (row.output_tokens, row.unsettled_usd) == (5, 0)
    assert round(row.cost_usd * 1e6) == 2 * row.input_tokens + 3 * row.output_tokens
    assert not server.states
    assert not server.models


@pytest.mark.parametrize("from_memory_only", [False, True])
def test_a_run_that_did_not_write_its_trained_state_down_is_compared_only_where_nothing_need_be_loaded(
    from_memory_only, described, server, tmp_path
):
    described = compared(described, tmp_path)
    written = tmp_path / managed_training.SERVICE_FILE
    fields = json.loads(written.read_text())
    del fields["state"]  # as a run of an older version
    written.write_text(json.dumps(fields))
    models = dict(server.models)
    server.says, server.samples_from_memory_only = [[7, 8, 9], [7, 8]], from_memory_only
    with open_run(tmp_path, described, Screen(), budget_usd=None) as run:
        if not from_memory_only:
            service_comparison.compare(run)
            assert len(spent_comparing(tmp_path)) == 1
            return
        with pytest.raises(TennerError, match="did not write down where the trained state is") as refused:
            service_comparison.compare(run)
    assert "\n" not in str(refused.value)
    assert refused.value.hint == "--set train.tinker.compare_questions=0 ends the run without the comparison"
    assert not sum(row.cost_usd for row in spent_comparing(tmp_path)), "nothing was sampled"
    assert server.models == models, "no model was made that nobody would unload"


def test_a_comparison_that_cannot_be_made_is_refused(described):
    text = described.to_toml()
    asked = "train.tinker.compare_questions=2"
    with pytest.raises(TennerError, match="the price of tinker/org/tiny is not known"):
        service_comparison.check(recipe.parse(text, where="it", overrides=[asked]))
    hot = [asked, "evaluate.sampling.temperature=0.5"]
    with pytest.raises(TennerError, match="compares greedy answers"):
        service_comparison.check(recipe.parse(text, where="it", overrides=hot))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.tokens_per_row=2048", "train.tokens_per_row has no effect"),
        ("train.lora_alpha=16", "train.lora_alpha has no effect"),
        ("train.checkpoint_seconds=90", "train.checkpoint_seconds has no effect"),
        ('train.method="full"', 'set train.method = "lora"'),
    ],
)
def test_settings_that_the_service_decides_are_refused(override, said, described):
    with pytest.raises(TennerError, match=said):
        recipe.parse(described.to_toml(), where="it", overrides=[override])


def test_a_key_or_a_model_that_the_service_does_not_know_stops_before_anything(described, monkeypatch):
    tinker.check(described.train.tinker)
    with pytest.raises(TennerError, match="does not train org/tinny") as refused:
        tinker.check(described.train.tinker.model_copy(update={"model": "org/tinny"}))
    assert refused.value.hint == "did you mean org/tiny?"
    monkeypatch.setenv("THE_KEY", "wrong")
    with pytest.raises(TennerError, match="bad_key"):
        tinker.check(described.train.tinker)


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["save_weights", "optim_step"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("first", IN_DOUBT)
def test_a_recovery_that_breaks_off_too_pays_nothing_that_is_not_booked(
    first, when, endpoint, described, server, tiny_model_dir, tmp_path
):
    server.breaks = {first}
    with pytest.raises(TennerError, match="did not answer"):
        learn(tmp_path, described)
    server.breaks = {(endpoint, server.asked[endpoint] + 1, when)}
    with pytest.raises(TennerError, match="did not answer"):
        learn(tmp_path, described)
    tokens = learn(tmp_path, described)
    _, microusd, unsettled = spent(tmp_path)
    assert microusd == server.tokens * PRICE
    assert unsettled == (server.tokens - tokens) * PRICE
    assert merged_steps(tmp_path, tiny_model_dir) == curve(tmp_path)[0].steps
    if endpoint != "optim_step" or (first, when) == (IN_DOUBT[0], "before"):  # else nothing tells what was used
        assert server.tokens == tokens
