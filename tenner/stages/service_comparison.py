"""Whether the merged student says what the service says that trained it, token for token."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tenner.budget import prices
from tenner.budget.ledger_rows import Payee
from tenner.budget.prices import Price
from tenner.clients import tinker
from tenner.clients.tinker import Rejected, TinkerClient
from tenner.core.chat_template import encode_prompt, set_template
from tenner.core.errors import TennerError
from tenner.core.formats import Tokenizer
from tenner.core.recipe import Recipe
from tenner.core.records import Completion, Question, ServiceComparison, Usage
from tenner.core.run import Run, render, template_to_ask_with
from tenner.core.sections import TrainingService
from tenner.core.seeds import digest
from tenner.stages import evaluation
from tenner.stages.paid_steps import PROVIDER

FILE = "service-comparison"
NOT_LOADED = "not loaded"
"""Of a refusal: SkyRL's server samples from the adapters of a model only while the model is in its memory."""


def check(recipe: Recipe) -> None:
    """Refuse a comparison that cannot be made. Raises TennerError."""
    service = recipe.train.tinker
    if service is None or not service.compare_questions:
        return
    if recipe.evaluate.sampling.temperature > 0:
        raise TennerError(
            "train.tinker.compare_questions compares greedy answers, and evaluate.sampling.temperature is above 0",
            hint="leave one of them out",
        )
    sampling_price(service)


def sampling_price(service: TrainingService) -> Price:
    """The price of the service's sampling. Raises TennerError where it is not known."""
    return prices.price_of(PROVIDER, service.model, service.sampling_price)


class Stretch(NamedTuple):
    """Tokens that the student sampled one after the other, and all tokens before them."""

    before_ids: Sequence[int]
    ids: Sequence[int]


def stretches(prompt_ids: Sequence[int], completion: Completion) -> Iterator[Stretch]:
    """The stretches of a completion between those that forcing put in."""
    ids, done = completion.token_ids, 0
    for intervention in completion.interventions:
        if intervention.position > done:
            yield Stretch([*prompt_ids, *ids[:done]], ids[done : intervention.position])
        done = intervention.position + intervention.tokens
    if len(ids) > done:
        yield Stretch([*prompt_ids, *ids[:done]], ids[done:])


def compare(run: Run) -> None:
    """Let the service continue the distilled student's completions at each stretch, and write how much is the same.

    The completions are those under the largest budget. Every call is paid once. Raises BudgetReached before a call that
    does not fit under the cap, and TennerError where the service does not answer.
    """
    service = run.recipe.train.tinker
    if service is None or not service.compare_questions:
        return
    from tenner.stages import managed_training

    path = managed_training.AtService.of(run).adapter
    if path is None:  # it was deleted after an earlier comparison
        return
    with run.machine_time("evaluate") as meter, tinker.connect(service) as client, tinker.rejections(client):
        sampler = _Sampler(run, client, service, path)
        tokenizer = _tokenizer(run)
        rows = []
        for question, completion in _chosen(run, service.compare_questions):
            prompt = render(tokenizer, question, run.recipe.student.form, run.recipe)
            found = list(stretches(encode_prompt(tokenizer, prompt), completion))
            same = sum(_same(stretch.ids, sampler.sample(stretch, tokenizer)) for stretch in found)
            tokens = sum(len(stretch.ids) for stretch in found)
            rows.append(ServiceComparison(question_id=question.id, tokens=tokens, same_tokens=same))
            meter.tick()
        run.folder.write(FILE, rows)
        sampler.unload()
        if service.delete:
            managed_training.delete_all(run, client)


class _Sampler:
    """Greedy sampling of the service under the cap, each stretch paid once."""

    def __init__(self, run: Run, client: TinkerClient, service: TrainingService, path: str) -> None:
        self._run, self._ledger, self._client, self._path = run, run.ledger, client, path
        self._loaded: tuple[str, str] | None = None
        """The model that was loaded for this, and where its adapters are."""
        self._price = sampling_price(service)
        self._payee = Payee("evaluate", PROVIDER, service.model, self._price.label())

    def sample(self, stretch: Stretch, tokenizer: Tokenizer) -> list[int]:
        """What the service says after the tokens before a stretch, as many tokens as it has."""
        request = json.dumps({"path": self._path, "ids": list(stretch.before_ids), "max_tokens": len(stretch.ids)})
        key = digest(PROVIDER, "sample", request)
        if stored := self._ledger.response(key):
            return list(json.loads(stored.body))
        worst = Usage(input_tokens=len(stretch.before_ids), output_tokens=len(stretch.ids))
        reservation = self._ledger.reserve(self._payee, self._price.microusd(worst))
        try:
            said = self._ask(stretch, tokenizer.eos_token_id)
        except Rejected as e:
            self._ledger.release(reservation)
            if self._loaded or NOT_LOADED not in str(e):
                raise
            from tenner.stages import managed_training

            self._loaded = managed_training.load_trained(self._run, self._client)
            return self.sample(stretch, tokenizer)
        except BaseException:
            self._ledger.lose(reservation)
            raise
        usage = worst.model_copy(update={"output_tokens": len(said)})
        with self._ledger.together():
            spend_id = self._ledger.keep(
                reservation, key=key, request=request, body=json.dumps(said).encode(), content_type="application/json"
            )
            self._ledger.settle(spend_id, usage, self._price.microusd(usage))
        return said

    def _ask(self, stretch: Stretch, end_id: int | None) -> list[int]:
        path = self._loaded[1] if self._loaded else self._path
        return self._client.sample(
            path, stretch.before_ids, max_tokens=len(stretch.ids), stop_ids=[] if end_id is None else [end_id], seed=0
        )

    def unload(self) -> None:
        """Let go of what was loaded for this."""
        if self._loaded:
            self._client.unload(self._loaded[0])


def _tokenizer(run: Run) -> Tokenizer:
    from tenner.training.student import load_tokenizer

    tokenizer = load_tokenizer(run.folder.path / "student")
    set_template(tokenizer, template_to_ask_with(run.folder, run.recipe.student))
    return tokenizer


def _chosen(run: Run, count: int) -> Iterator[tuple[Question, Completion]]:
    """The first questions, and the distilled student's completions of them under the largest budget, without waits."""
    wanted = run.recipe.evaluate
    policy = wanted.policies[len(wanted.thinking_tokens_max) - 1]
    of_student = {
        c.question_id: c
        for c in run.folder.read(evaluation.COMPLETIONS, Completion)
        if (c.student, c.policy, c.sample_index) == ("distilled", policy, 0)
    }
    for question in run.folder.read("benchmark", Question)[:count]:
        yield question, of_student[question.id]


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens there are before the first difference."""
    differences = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differences, min(len(one), len(other)))
