"""Budget forcing through a server of OpenAI's protocol: by continuation in rounds, or by the server's own budget.

Continuation uses /v1/completions: each request sends the prompt and all ids so far, and the forcing machine consumes
the completion. A server with a prefix cache computes only what is new. If the server supports token ids (as vLLM
does), they are used directly; otherwise its text is encoded again to be counted.

The tokens of every response are counted. A server that returned more than max_tokens has ignored the budget, which is
an error.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import openai
from pydantic import BaseModel, Field, ValidationError, field_validator

from tenner.core.errors import TennerError
from tenner.core.finish_reasons import ending_of
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import Policy, Sampling
from tenner.core.sections import Speaks
from tenner.core.seeds import rng
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.engine import EngineInfo, Generation, JobEngine, Piece, Transcript
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.job import GREEDY, Job, Prompt
from tenner.inference.servers import Lease, Servers

SEED_BITS = 31
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Choice(BaseModel):
    """What is read of a choice."""

    text: str = ""
    finish_reason: str | None = None
    stop_reason: Any = None
    token_ids: list[TokenId] | None = None

    @field_validator("text", mode="before")
    @classmethod
    def _whole_characters(cls, text: object) -> object:
        """Half a character, as a server sends it that cuts between two tokens of an emoji, is "?"."""
        return text.encode(errors="replace").decode() if isinstance(text, str) else text


class Tokens(BaseModel):
    """What is read of the usage."""

    completion_tokens: int | None = None


class Completion(BaseModel):
    """What is read of the body of a completion."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Tokens | None = None


def read_completion(body: bytes, *, where: str) -> Completion:
    """The completion in a body; `where` names the server. Raises TennerError where there is none."""
    try:
        fields = json.loads(body)
        if isinstance(fields, dict) and fields.get("choices") in ([], None):
            raise TennerError(f"{where} returned no choice", hint="look at the server's log")
        return Completion.model_validate(fields)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise TennerError(
            f"{where} returned no completion: {place}: {first['msg']}", hint="look at the server's log"
        ) from e
    except TennerError:
        raise
    except (ValueError, RecursionError) as e:
        raise TennerError(
            f"{where} returned something else than JSON",
            hint="check the address: that of an OpenAI-compatible server usually ends in /v1",
        ) from e


class ApiEngine(JobEngine):
    """A student behind a URL, or several. `tokenizer` is the served model's, `context_tokens` the context length."""

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        speaks: Speaks,
        api_key: str = "none",
        requests: int = 16,
        wait_text: str = WAIT_TEXT,
        model_dir: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """At most `requests` are made at a time, of all servers. `model_dir` holds the served model's configuration, if
        it is known. `say` gets a line about a server that failed where others go on.
        """
        super().__init__(tokenizer, wait_text=wait_text, context_tokens=context_tokens, model_dir=model_dir)
        base_urls = [base_url] if isinstance(base_url, str) else base_url
        self._servers = Servers(base_urls, api_key=api_key, say=say)
        self._model = model
        self._speaks = speaks
        self._requests = requests

    @property
    def info(self) -> EngineInfo:
        """What is known of it: not the precision and device of the server."""
        return EngineInfo("api", None, None, ("openai",))

    @property
    def exits_early(self) -> bool:
        """By requests for the trial answers."""
        return True

    @property
    def measures(self) -> bool:
        """Servers tell at most the probabilities of what they sampled, and not of an end."""
        return False

    def refuse(self, policy: Policy) -> None:
        """Raise TennerError for grace, for a probability, and for switch points at which a server cannot stop."""
        super().refuse(policy)
        if policy.early_exit is not None and policy.early_exit.at == "sentence" and self._speaks == "text":
            raise TennerError(
                "the engine api cannot stop at each sentence where it speaks text",
                hint='set speaks = "ids", or early_exit.at = "tokens" or "wait"',
            )

    def _job(
        self, prompt: Prompt, policies: Sequence[Policy], fmt: ThinkFormat, answer_tokens_max: int, sampling: Sampling
    ) -> Job:
        """Raise TennerError where a text would be read by the server as another one."""
        if prompt.literal and self._speaks == "text":
            start, end = prompt.literal[0]
            raise TennerError(
                f"prompt {prompt.id} holds {prompt.text[start:end]} as text, which the server would take for the token",
                hint='set speaks = "ids", or leave this question out',
            )
        return super()._job(prompt, policies, fmt, answer_tokens_max, sampling)

    def _decode(self, jobs: Sequence[Job]) -> Iterator[Generation]:
        """Raise TennerError where the server fails or ignores its limits."""
        with ThreadPoolExecutor(self._requests) as pool:
            for job, machines in zip(jobs, pool.map(self._finish, jobs), strict=True):
                yield from (Generation.of(job.prompt.id, machine, self.tokenizer) for machine in machines)

    def _decode_stream(self, job: Job, transcript: Transcript) -> Iterator[Piece]:
        """A round at a time."""
        with self._servers.lease() as lease:
            rounds = itertools.count()
            while transcript.machine.phase is not Phase.DONE:
                self._advance(job, transcript.machine, rounds, lease)
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
        """One answer in one request; the server enforces the budget, which is sent as the body's field `knob`.

        The server does not report where it closed the thinking, so the interventions have no cut.
        Raise TennerError where the thinking is longer than the budget: the server has ignored it.
        """
        job = self._job(prompt, [Policy()], fmt, answer_tokens_max, sampling)
        (machine,) = job.waiting
        tokens_max = thinking_tokens_max + machine.format_ids.injected_tokens_max + answer_tokens_max
        with self._servers.lease() as lease:
            ids = self._request(
                job, machine, tokens_max, lease, stops=False, number=0, body={knob: thinking_tokens_max}
            )
        self._push(machine, ids)
        if machine.phase is Phase.THINKING or machine.thinking_tokens > thinking_tokens_max:
            raise TennerError(
                f"the server ignored {knob}: {machine.thinking_tokens} thinking tokens for prompt {prompt.id} "
                f"where {thinking_tokens_max} were allowed",
                hint="start it with a reasoning parser and its delimiters, or force by continuation",
            )
        if machine.phase is Phase.ANSWERING:  # the server stopped at an end of text inside the thinking
            machine.push(machine.format_ids.end_of_text)
        policy = Policy(thinking_tokens_max=thinking_tokens_max)
        return Generation.of(prompt.id, machine, self.tokenizer)._replace(policy=policy)

    def _finish(self, job: Job) -> list[ForcingMachine]:
        """Run all policies of a job, the largest budget first: the others share its thinking up to their own cuts."""
        done: list[ForcingMachine] = []
        rounds = itertools.count()
        with self._servers.lease() as lease:
            while job.waiting:
                machine = max(job.waiting, key=lambda m: m.budget)
                job.waiting.remove(machine)
                while machine.phase is not Phase.DONE:
                    self._advance(job, machine, rounds, lease)
                    machine.recall()
                done += [machine, *job.take_done()]
        return done

    def _advance(self, job: Job, machine: ForcingMachine, rounds: Iterator[int], lease: Lease) -> None:
        """A round, or as many as the trial answer takes that is due."""
        if not machine.trial_due:
            self._round(job, machine, next(rounds), lease)
            return
        trial = machine.trial()
        while trial.phase is not Phase.DONE:
            self._round(job, trial, next(rounds), lease)
            trial.recall()
        machine.conclude(trial)

    def _round(self, job: Job, machine: ForcingMachine, number: int, lease: Lease) -> None:
        """Request the remaining tokens of this phase, or those up to the next switch point, and push them."""
        if machine.phase is Phase.THINKING:
            room = machine.next_switch - machine.thinking_tokens
        else:
            room = machine.answer_tokens_max - machine.answer_tokens
        stops = machine.phase is Phase.THINKING
        self._push(machine, self._request(job, machine, room, lease, stops=stops, number=number))

    def _push(self, machine: ForcingMachine, ids: list[int]) -> None:
        """Push ids up to the first intervention or trial: those after it continue a text that was replaced, or may be
        thought in vain.
        """
        for token in ids:
            before = len(machine.interventions)
            machine.push(token)
            if machine.phase is Phase.DONE or machine.trial_due or len(machine.interventions) > before:
                return

    def _request(
        self,
        job: Job,
        machine: ForcingMachine,
        room: int,
        lease: Lease,
        *,
        stops: bool,
        number: int,
        body: dict[str, Any] | None = None,
    ) -> list[int]:
        """The ids that the leased server returns, or another where it fails: each request holds all that is needed."""
        while True:
            try:
                return self._ask(lease.server.client, job, machine, room, stops=stops, number=number, body=body)
            except TennerError as error:
                lease.move(error)

    def _ask(
        self,
        client: openai.OpenAI,
        job: Job,
        machine: ForcingMachine,
        room: int,
        *,
        stops: bool,
        number: int,
        body: dict[str, Any] | None,
    ) -> list[int]:
        """Request up to `room` tokens, which `stops` at the delimiter; an end of text is returned as its id."""
        sampling, close = job.rng.sampling, machine.format_ids.close
        until = close[:1] if self._speaks == "ids" or machine.held else close
        before = [*job.prompt_ids, *machine.ids]
        extra: dict[str, Any] = dict(body or {})
        stop: list[str] | None = None
        if self._speaks == "ids":
            until = (*until, *sorted(machine.switch_ids - set(until)))
            extra |= {"return_token_ids": True, "skip_special_tokens": False}
            further_ends = machine.format_ids.eos - {machine.format_ids.end_of_text}
            if stopping := [*(until if stops else ()), *sorted(further_ends)]:
                extra["stop_token_ids"] = stopping
        elif stops and until:
            stop = [self._text_of(until)]
        try:
            answer = client.completions.with_raw_response.create(
                model=self._model,
                prompt=before if self._speaks == "ids" else self._text_of(before),
                max_tokens=room,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                # A seed for each round: with the same one, a server would sample again what was just replaced.
                seed=rng(sampling.seed, "round", f"{job.prompt.id} {number}").getrandbits(SEED_BITS),
                stop=stop,
                extra_body=extra,
            )
        except openai.OpenAIError as error:
            raise TennerError(
                f"{client.base_url}: {error}", hint="check that the server is running, and the model's name"
            ) from error
        completion = read_completion(answer.http_response.content, where=str(client.base_url))
        ids = self._ids_of(completion.choices[0], machine, until, stop, where=str(client.base_url))
        returned = (completion.usage and completion.usage.completion_tokens) or 0
        if returned > room:
            raise TennerError(
                f"{client.base_url} returned {returned} tokens where {room} were allowed",
                hint="it ignores max_tokens, so no budget can be enforced",
            )
        if not ids:
            raise TennerError(f"{client.base_url} returned no tokens", hint="look at the server's log")
        return ids

    def _ids_of(
        self, choice: Choice, machine: ForcingMachine, until: Sequence[int], stop: list[str] | None, *, where: str
    ) -> list[int]:
        """The ids of a choice, with the delimiter `until` or the end of text that it stopped at."""
        ending, end_of_text = ending_of(choice.finish_reason), machine.format_ids.end_of_text
        if ending not in ("complete", "cut"):
            raise TennerError(
                f"{where} ended a completion with finish_reason {choice.finish_reason}",
                hint="neither an end of text nor a limit of tokens: look at the server's log",
            )
        ended = ending == "complete"
        if self._speaks == "ids":
            if choice.token_ids is None:
                raise TennerError(f"{where} returns no token ids", hint='set speaks = "text"')
            ids = list(choice.token_ids)
            if ended and (not ids or ids[-1] not in machine.format_ids.eos | set(until)):
                ids.append(end_of_text)
            return ids
        ids = self.tokenizer.encode(choice.text, add_special_tokens=False)
        if ended:  # vLLM reports which stop it was; of other servers, assume the delimiter
            is_stop = "stop_reason" not in choice.model_fields_set or choice.stop_reason is not None
            ids += until if stop and is_stop else [end_of_text]
        return ids

    def _text_of(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text
