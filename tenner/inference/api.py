"""Budget forcing through any server of OpenAI's protocol: continued round by round, or by the server's own budget.

Continuing means /v1/completions: the prompt and all that has been said so far go out, and the machine is given what
comes back. A server with a prefix cache computes only what is new. Of a server that speaks token ids (vLLM does) the
ids are used as they are; of any other the text, which is encoded again to be counted.

What came back is counted in every case. A server that gave more than it was allowed to has ignored the budget, and
that is an error, never an assumption.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import Policy, Sampling
from tenner.core.seeds import rng
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.engine import EngineInfo, Generation, JobEngine, Piece, Transcript
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.job import GREEDY, Job, Prompt

Speaks = Literal["ids", "text"]
SEED_BITS = 31


class ApiEngine(JobEngine):
    """A student behind a URL. `tokenizer` must be the served model's own; `context_tokens` is what the server holds."""

    def __init__(
        self,
        base_url: str,
        model: str,
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        speaks: Speaks,
        api_key: str = "none",
        requests: int = 16,
        wait_text: str = WAIT_TEXT,
    ) -> None:
        """`requests` are made at a time."""
        super().__init__(tokenizer, wait_text=wait_text, context_tokens=context_tokens)
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key)
        self._model = model
        self._speaks = speaks
        self._requests = requests

    @property
    def info(self) -> EngineInfo:
        """The served model's precision and device are not known."""
        return EngineInfo("api", None, None, ("openai",))

    def _decode(self, jobs: Sequence[Job]) -> Iterator[Generation]:
        """Raise TennerError where the server fails or ignores its limits."""
        with ThreadPoolExecutor(self._requests) as pool:
            for job, machines in zip(jobs, pool.map(self._finish, jobs), strict=True):
                yield from (Generation.of(job.prompt.id, machine, self.tokenizer) for machine in machines)

    def _decode_stream(self, job: Job, transcript: Transcript) -> Iterator[Piece]:
        """A round at a time."""
        for number in itertools.count():
            if transcript.machine.phase is Phase.DONE:
                return
            self._round(job, transcript.machine, number)
            yield from transcript.fresh()

    def by_own_budget(
        self,
        prompt: Prompt,
        thinking_tokens_max: int,
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        knob: str = "thinking_token_budget",
        sampling: Sampling = GREEDY,
    ) -> Generation:
        """One answer in one request, the budget left to the server's own `knob`, which goes into the body as it is.

        The server closes the thinking by its own rule and does not say when it did, so no cut is in the log.
        Raise TennerError where the thinking that came back is longer than the budget: the server has ignored it.
        """
        job = self._job(prompt, [Policy()], fmt, answer_tokens_max, sampling)
        (machine,) = job.waiting
        tokens_max = thinking_tokens_max + machine.format_ids.injected_tokens_max + answer_tokens_max
        said = self._say(job, machine, tokens_max, stops=False, number=0, body={knob: thinking_tokens_max})
        self._push(machine, said)
        if machine.phase is Phase.THINKING or machine.thinking_tokens > thinking_tokens_max:
            raise TennerError(
                f"the server ignored {knob}: {machine.thinking_tokens} thinking tokens for prompt {prompt.id} "
                f"where {thinking_tokens_max} were allowed",
                hint="start it with a reasoning parser and its delimiters, or force by continuation",
            )
        if machine.phase is Phase.ANSWERING:  # the server took an end of text inside the thinking for the end of all
            machine.push(min(machine.format_ids.eos))
        policy = Policy(thinking_tokens_max=thinking_tokens_max)
        return Generation.of(prompt.id, machine, self.tokenizer)._replace(policy=policy)

    def _finish(self, job: Job) -> list[ForcingMachine]:
        """Bring all policies of a job to their end, first the one that may think longest: it passes others' cuts."""
        done: list[ForcingMachine] = []
        rounds = itertools.count()
        while job.waiting:
            machine = max(job.waiting, key=lambda m: m.budget)
            job.waiting.remove(machine)
            while machine.phase is not Phase.DONE:
                self._round(job, machine, next(rounds))
                machine.recall()
            done += [machine, *job.take_done()]
        return done

    def _round(self, job: Job, machine: ForcingMachine, number: int) -> None:
        """Ask for what may still come in this phase, and give it to the machine."""
        if machine.phase is Phase.THINKING:
            room = machine.budget - machine.thinking_tokens
        else:
            room = machine.answer_tokens_max - machine.answer_tokens
        self._push(machine, self._say(job, machine, room, stops=machine.phase is Phase.THINKING, number=number))

    def _push(self, machine: ForcingMachine, said: list[int]) -> None:
        """What comes after an intervention has been said to something else: a text encoded again may be longer."""
        for token in said:
            before = len(machine.interventions)
            machine.push(token)
            if machine.phase is Phase.DONE or len(machine.interventions) > before:
                return

    def _say(
        self,
        job: Job,
        machine: ForcingMachine,
        room: int,
        *,
        stops: bool,
        number: int,
        body: dict[str, Any] | None = None,
    ) -> list[int]:
        """One request for up to `room` tokens, which `stops` at the delimiter; the end of text is given as its id."""
        sampling, close = job.rng.sampling, machine.format_ids.close
        until = close[:1] if self._speaks == "ids" or machine.held else close
        before = [*job.prompt_ids, *machine.ids]
        extra: dict[str, Any] = dict(body or {})
        stop: list[str] | None = None
        if self._speaks == "ids":
            extra |= {"return_token_ids": True, "skip_special_tokens": False}
            if stops and until:
                extra["stop_token_ids"] = list(until)
        elif stops and until:
            stop = [self._decode(until)]
        try:
            completion = self._client.completions.create(
                model=self._model,
                prompt=before if self._speaks == "ids" else self._decode(before),
                max_tokens=room,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                # Every round draws anew: the same seed again would say again what was just replaced.
                seed=rng(sampling.seed, "round", f"{job.prompt.id} {number}").getrandbits(SEED_BITS),
                stop=stop,
                extra_body=extra,
            )
        except openai.OpenAIError as error:
            raise TennerError(
                f"{self._client.base_url}: {error}", hint="is the server up, and the model's name right?"
            ) from error
        if not completion.choices:
            raise TennerError(f"{self._client.base_url} came back without a choice", hint="look at the server's log")
        choice = completion.choices[0]
        facts, end_of_text = choice.model_extra or {}, min(machine.format_ids.eos)
        ended = choice.finish_reason == "stop"
        if self._speaks == "ids":
            if "token_ids" not in facts:
                raise TennerError(
                    f"{self._client.base_url} gives no token ids", hint='speak text with it: speaks="text"'
                )
            ids: list[int] = list(facts["token_ids"])
            if ended and (not ids or ids[-1] not in {end_of_text, *until}):
                ids.append(end_of_text)
        else:
            ids = self.tokenizer.encode(choice.text, add_special_tokens=False)
            if ended:  # vLLM says which it was; of other servers it is taken for the delimiter they were to stop at
                ids += until if stop and facts.get("stop_reason", stop) is not None else [end_of_text]
        given = completion.usage.completion_tokens if completion.usage else 0
        if given > room:
            raise TennerError(
                f"{self._client.base_url} gave {given} tokens where {room} were allowed",
                hint="it ignores max_tokens: no budget can be kept with it",
            )
        if not ids:
            raise TennerError(f"{self._client.base_url} gave nothing", hint="look at the server's log")
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text
