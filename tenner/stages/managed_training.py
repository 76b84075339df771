"""The train stage where a service trains: the same samples, steps and learning rates, the adapters brought back."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tenner.budget.prices import MICROUSD_PER_USD
from tenner.clients import tinker
from tenner.clients.tinker import Adam, Datum, Rejected, TinkerClient
from tenner.core import turn_end
from tenner.core.errors import BudgetReached, Preempted, TennerError
from tenner.core.progress import Bar
from tenner.core.records import TrainStep
from tenner.core.run import Meter, Run
from tenner.core.sections import Train, TrainingService
from tenner.core.seeds import derived, digest
from tenner.stages import training
from tenner.stages.paid_steps import BoughtStep, PaidSteps, Step
from tenner.training import lora, packing, student
from tenner.training.loop import learning_rate
from tenner.training.loss_mask import Encoded
from tenner.training.optimizer import EPSILON
from tenner.training.signals import termination_noted
from tenner.training.speed_probe import TrainingSpeed
from tenner.training.trackers import tracker_of

SERVICE_FILE = "service.json"
"""What the service holds of a run: see `AtService`."""
ADAPTER = "adapter"
SKYRL_METRICS = "skyrl.ai/"
TRIED_STEPS = 2
"""By which a probe finds out how fast the service is."""


class AtService(NamedTuple):
    """The models that the service made for a run, the last one being trained, and what it stores of the trained one."""

    models: list[str]
    adapter: str | None = None
    """The path of the adapters."""
    state: str | None = None
    """The path of what training would go on from."""

    @classmethod
    def of(cls, run: Run) -> "AtService":
        """As it was written."""
        path = run.folder.path / SERVICE_FILE
        return cls(**json.loads(path.read_text("utf-8"))) if path.exists() else cls([])

    def write(self, run: Run) -> None:
        """Write it into the run's folder."""
        run.folder.write_text(SERVICE_FILE, json.dumps(self._asdict()))


class Schedule(NamedTuple):
    """All steps of a training."""

    encoded: Sequence[Encoded]
    steps: Sequence[tuple[int, ...]]
    """Sample indices."""
    settings: Train

    def step(self, number: int) -> Step:
        """A step as the service is given it: every trained token of it has the same weight, and all of them 1."""
        samples = [self.encoded[i] for i in self.steps[number]]
        weight = 1 / sum(sum(sample.loss_mask[1:]) for sample in samples)
        data = [Datum(s.ids[:-1], s.ids[1:], [weight * trained for trained in s.loss_mask[1:]]) for s in samples]
        t = self.settings
        lr = learning_rate(number, len(self.steps), t)
        return Step(number, data, Adam(lr, t.beta1, t.beta2, EPSILON, t.weight_decay, t.grad_clip_norm))

    def tokens_from(self, number: int) -> int:
        """All tokens of this step and those after it."""
        return sum(len(self.encoded[i].ids) for indices in self.steps[number:] for i in indices)

    def microusd_from(self, number: int, paid: PaidSteps) -> int:
        """What this step and those after it cost."""
        lengths = [[len(self.encoded[i].ids) - 1 for i in indices] for indices in self.steps[number:]]
        return sum(paid.microusd(sum(step)) for step in lengths)

    def row(self, step: Step, bought: BoughtStep, *, cost_usd: float) -> TrainStep | None:
        """The step as it is kept for the loss curve; None where its loss is not known."""
        if bought.loss is None:
            return None
        tokens = self.tokens_from(step.number) - self.tokens_from(step.number + 1)
        return TrainStep(
            step=step.number, steps=len(self.steps), loss=bought.loss, grad_norm=bought.grad_norm,
            lr=step.adam.learning_rate, tokens=tokens, tokens_left=self.tokens_from(step.number + 1),
            trained_tokens=sum(weight > 0 for datum in step.data for weight in datum.weights),
            tokens_per_second=tokens / bought.seconds if bought.seconds else None, cost_usd=cost_usd,
        )  # fmt: skip


def learn(run: Run) -> tuple[int, int]:
    """Let the service fine-tune the student on the samples, download the adapters, and merge them into it."""
    recipe, service = run.recipe, run.recipe.train.tinker
    assert service is not None, "the recipe's check"
    base, encoded, dropped, _validation = training.prepare(run)
    lengths = [len(e.ids) for e in encoded]
    steps = packing.plan(lengths, recipe.train.tokens_per_step, epochs=recipe.train.epochs, seed=recipe.seed)
    schedule = Schedule(encoded, steps, recipe.train)
    with run.machine_time("train") as meter, tinker.connect(service) as client, tinker.rejections(client):
        paid = PaidSteps(
            client, run.ledger, service, fingerprint=_fingerprint(recipe.train, recipe.seed, encoded),
            say=run.screen.say,
        )  # fmt: skip
        model_id, first = _continue(run, client, paid, schedule)
        if first < len(steps):
            _buy_steps(run, meter, client, paid, schedule, model_id, first)
        path = client.save_for_sampler(model_id, run.recipe.name)
        trained = paid.bought(len(steps) - 1)
        AtService.of(run)._replace(adapter=path, state=trained and trained.state_path).write(run)
        adapter = run.folder.path / ADAPTER
        client.download(path, adapter)
        lora.complete_config(adapter, base_model=recipe.student.base_model)
        _merge(run, base, adapter)
        for name in ("student", ADAPTER):
            run.folder.wrote_folder(name)
        client.unload(model_id)
        if service.delete and not service.compare_questions:
            delete_all(run, client)
        elif not service.delete:
            run.screen.say(f"train: the service stores the adapters, which it may bill: {path}")
    return len(encoded) + len(dropped), len(encoded)


def tried_speed(run: Run, encoded: Sequence[Encoded], stage: str) -> TrainingSpeed | None:
    """How fast the service trains, by steps on a model of their own, which are paid as `stage`, each once.

    None where no process saw how long they took. The last of them counts: what the others took longer, for the service
    may compile, is part of what comes before, as is the making of a model.

    Raises as the training does.
    """
    recipe, service = run.recipe, run.recipe.train.tinker
    assert service is not None, "the recipe's check"
    lengths = [len(e.ids) for e in encoded]
    step_tokens = max(1, min(recipe.train.tokens_per_step, sum(lengths) // TRIED_STEPS))
    steps = packing.plan(lengths, step_tokens, epochs=1, seed=recipe.seed)[:TRIED_STEPS]
    schedule = Schedule(encoded, steps, recipe.train)
    began = time.monotonic()
    with run.machine_time(stage), tinker.connect(service) as client, tinker.rejections(client):
        paid = PaidSteps(
            client, run.ledger, service, fingerprint=_fingerprint(recipe.train, recipe.seed, encoded, stage),
            say=run.screen.say, stage=stage,
        )  # fmt: skip
        if models := AtService.of(run).models:  # of a probe that was broken off
            paid.recover(schedule.step, models[-1])
            client.unload(models[-1])
        bought = [paid.bought(number) for number in range(len(steps))]
        if None in bought:
            model_id = _new_model(run, client)
            bought = [done or paid.buy(schedule.step(number), model_id) for number, done in enumerate(bought)]
            client.unload(model_id)
        if AtService.of(run).models:
            delete_all(run, client)
    timed = [(done.seconds, schedule.step(n).tokens) for n, done in enumerate(bought) if done and done.seconds]
    if not timed:
        return None
    token_seconds = timed[-1][0] / timed[-1][1]
    # Of steps that an earlier probe has bought, nothing is known of what came before them.
    whole = max(time.monotonic() - began, sum(seconds for seconds, _ in timed))
    return TrainingSpeed(token_seconds, max(0.0, whole - token_seconds * sum(tokens for _, tokens in timed)))


def _fingerprint(settings: Train, seed: int, encoded: Sequence[Encoded], purpose: str = "") -> str:
    fixed = settings.model_dump_json(
        exclude=dict.fromkeys(Train.free_on_resume(), True) | {"tinker": TrainingService.free_on_resume()},
        exclude_none=True,
    )
    return digest("tinker" + purpose, fixed, seed, *encoded)


def _continue(run: Run, client: TinkerClient, paid: PaidSteps, schedule: Schedule) -> tuple[str, int]:
    """A model with the state after all steps that were bought, and the number of the next."""
    models = AtService.of(run).models
    if models:
        paid.recover(schedule.step, models[-1])
    found: list[BoughtStep] = []
    while (bought := paid.bought(len(found))) is not None:
        found.append(bought)
    _mend_curve(run, schedule, found)
    if models:
        client.unload(models[-1])
    model_id = _new_model(run, client)
    if found:
        client.load_state(model_id, found[-1].state_path)
        run.screen.say(f"train: going on from step {len(found)} of {len(schedule.steps)}")
    return model_id, len(found)


def _new_model(run: Run, client: TinkerClient) -> str:
    """A model at the service, written down before anything is stored of it."""
    service, at = run.recipe.train.tinker, AtService.of(run)
    assert service is not None
    seed = derived(run.recipe.seed, "tinker") % 2**31
    model_id = client.create_model(service.model, rank=run.recipe.train.lora_rank, seed=seed)
    at._replace(models=[*at.models, model_id]).write(run)
    return model_id


def load_trained(run: Run, client: TinkerClient) -> tuple[str, str]:
    """The trained model once more, for a server that samples from loaded models only: its id, its adapters' path.

    It comes from the state after the last step, so nothing is trained again or paid for.
    """
    state = AtService.of(run).state
    if state is None:
        raise TennerError(
            "the service samples from loaded models only, and this run did not write down where the trained state is",
            hint="--set train.tinker.compare_questions=0 ends the run without the comparison",
        )
    model_id = _new_model(run, client)
    client.load_state(model_id, state)
    return model_id, client.save_for_sampler(model_id, run.recipe.name)


def _mend_curve(run: Run, schedule: Schedule, found: Sequence[BoughtStep]) -> None:
    """Let `training.jsonl` have a row for each step that was bought, also where the process ended in between."""
    rows = {row.step: row for row in run.folder.read("training", TrainStep) if row.step < len(found)}
    for number, bought in enumerate(found):
        if number not in rows:
            row = schedule.row(schedule.step(number), bought, cost_usd=run.ledger.spent_usd())
            rows |= {number: row} if row else {}
    run.folder.write("training", [rows[number] for number in sorted(rows)])


def _buy_steps(
    run: Run, meter: Meter, client: TinkerClient, paid: PaidSteps, schedule: Schedule, model_id: str, first: int
) -> None:
    """Buy the steps from `first` on; each one's state is stored before that of the step before it is deleted."""
    left_usd = schedule.microusd_from(first, paid) / MICROUSD_PER_USD
    run.screen.say(f"train: {len(schedule.steps) - first} steps at {paid.payee.price}: ${left_usd:.6f}")
    before = paid.bought(first - 1)
    count = len(schedule.steps)
    with (
        run.screen.bar("train", count) as bar,
        tracker_of(run.recipe) as track,
        termination_noted(ctrl_c=False) as termination,
    ):
        for number in range(first, count):
            step = schedule.step(number)
            try:
                bought = paid.buy(step, model_id)
            except BudgetReached as stopped:
                raise _with_remaining_cost(run, stopped, schedule.microusd_from(number, paid), count - number) from None
            meter.tick()
            if row := schedule.row(step, bought, cost_usd=run.ledger.spent_usd()):
                run.folder.append("training", [row])
                track(row)
            _show(run, bar, bought, number + 1, count)
            if number == first:
                _tell_differences(run, bought)
            if before is not None and not client.delete(before.state_path) and number == max(first, 1):
                run.screen.say("train: the service cannot delete what it stores: one state a step is left there")
            before = bought
            meter.check()
            if termination.asked:
                raise Preempted(
                    f"the system asked to stop after step {number + 1} of {count}: everything is saved",
                    hint="the same command goes on from here",
                )


def _show(run: Run, bar: Bar, bought: BoughtStep, done: int, total: int) -> None:
    loss = "" if bought.loss is None else f"loss {bought.loss:.3f}  "
    bar.update(done, loss + run.spent(), total=total)


def _tell_differences(run: Run, bought: BoughtStep) -> None:
    """Say what a server computes otherwise than tenner, where its answers show which server it is."""
    if any(name.startswith(SKYRL_METRICS) for name in bought.metrics):
        run.screen.say(
            "train: this server weighs samples alike, however long they are, and does not clip gradients "
            "(train.grad_clip_norm)"
        )


def _with_remaining_cost(run: Run, stopped: BudgetReached, left_microusd: int, steps: int) -> BudgetReached:
    enough_usd = run.ledger.spent_usd() + left_microusd / MICROUSD_PER_USD
    return BudgetReached(
        str(stopped),
        hint=f"{steps:,} steps are left, which cost ${left_microusd / MICROUSD_PER_USD:.6f}, without this machine's "
        f"time: the same command with --budget-usd {enough_usd * 1.01:.4f} goes on from here",
    )


def _merge(run: Run, base: Path, adapter: Path) -> None:
    """Save the student with its adapters merged, in the precision that its weights are stored in."""
    tokenizer = student.load_tokenizer(base, run.recipe.student.chat_template)
    model = lora.merge_folder(base, adapter)
    student.save(model, tokenizer, run.folder.path / "student", model.dtype, end_ids=turn_end.end_ids(base, tokenizer))


def delete_all(run: Run, client: TinkerClient) -> None:
    """Delete all that the service stores of the models of this run. What it will not delete is named."""
    left = []
    for model_id in AtService.of(run).models:
        try:
            left += [path for path in client.checkpoints(model_id) if not client.delete(path)]
        except (Rejected, TennerError) as e:
            left.append(f"{model_id} ({e})")
    if not left:
        (run.folder.path / SERVICE_FILE).unlink()
    else:
        run.screen.say(f"train: the service did not delete {len(left)} of what it stores: {', '.join(left[:3])}, …")
