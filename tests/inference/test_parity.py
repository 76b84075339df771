"""One machine, three engines: the embedded one, a real vLLM and a real server give the same ids, greedily, in fp32.

    TENNER_CAMPAIGN=5 pytest -m vllm tests/inference/test_parity.py    # 100 questions; CI has 24

Where two engines part, it must be their arithmetic: the two tokens are as likely as each other to the embedded model.
"""

import itertools
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import torch
import vllm_sweep
from divergence import ReferenceModel
from transformers import AutoTokenizer
from vllm_server import PROGRAM, VLLMServer, environment

from tenner.core import recipe
from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import EarlyExit, Grace, Policy, Sampling
from tenner.data import puzzles
from tenner.inference.api import ApiEngine
from tenner.inference.engine import Generation
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Prompt
from tenner.training import student_address

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PROGRAM, reason="TENNER_VLLM names no vllm program (see scripts/install_vllm.sh)"),
]
by_engine, by_server = pytest.mark.xdist_group("vllm engine"), pytest.mark.xdist_group("vllm server")
TIMES = int(os.environ.get("TENNER_CAMPAIGN", "1"))
PROMPTS, ANSWER_TOKENS_MAX = min(100, 24 * TIMES), 16
FEWER = min(100, 8 * TIMES)
"""Where each completion costs several times what it costs in one engine."""
LOGIT_GAP_MAX = 1e-3
"""Sums in another order differ by this much in fp32, with logits around 20."""
POLICIES = [
    Policy(thinking_tokens_max=0),
    Policy(thinking_tokens_max=12),
    Policy(thinking_tokens_max=40),
    Policy(thinking_tokens_max=40, waits=1),
    Policy(thinking_tokens_max=48, waits=2),
    Policy(thinking_tokens_max=32, thinking_tokens_min=24),
]
STOPPED_EARLY = [
    Policy(thinking_tokens_max=40, early_exit=EarlyExit(every_tokens=8, trial_tokens=8)),
    Policy(thinking_tokens_max=40, early_exit=EarlyExit(at="sentence", agree=1, probability=0.7)),
    Policy(thinking_tokens_max=40, waits=1, early_exit=EarlyExit(at="wait", agree=1, probability=0.5)),
    Policy(thinking_tokens_max=48, waits=2, early_exit=EarlyExit(at="wait")),
    Policy(thinking_tokens_max=48, thinking_tokens_min=24, grace=Grace(tokens=20, candidates=100)),
    Policy(
        thinking_tokens_max=32, thinking_tokens_min=12, grace=Grace(tokens=4, candidates=20),
        early_exit=EarlyExit(every_tokens=4, agree=1, probability=0.6),
    ),
]  # fmt: skip
HOT = Sampling(temperature=0.7, top_p=0.9, seed=5)


class Sweep(NamedTuple):
    """What all engines are asked."""

    prompts: int
    policies: list[Policy]
    sampling: Sampling = Sampling()


SWEEPS = {
    "greedy": Sweep(PROMPTS, POLICIES), "stopped early": Sweep(min(100, 20 * TIMES), STOPPED_EARLY),
    "sampled": Sweep(24, POLICIES, HOT),
}  # fmt: skip
Results = dict[tuple[str, Policy], tuple[tuple[int, ...], tuple[tuple[str, int, int], ...], int]]
"""The ids, the interventions and the trial tokens of each prompt and policy."""
FORCED = ("open", "wait", "cut", "close", "cue")


@pytest.fixture(scope="module")
def model_dir() -> Path:
    return student_address.resolve(recipe.load("demo").student.model)


@pytest.fixture(scope="module")
def prompts(model_dir: Path) -> list[Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    questions = puzzles.generate(PROMPTS, families=list(puzzles.FAMILIES), split="train", seed=0, distinct=True)
    return [
        Prompt(str(i), ChatTemplate(tokenizer, system_prompt=None).question(q.question).text)
        for i, q in enumerate(questions)
    ]


@pytest.fixture(scope="module")
def hf(model_dir: Path) -> HFEngine:
    return HFEngine.load(model_dir, dtype=torch.float32, rows=64)


def results_of(generations: Iterable[Generation]) -> Results:
    return {
        (g.prompt_id, g.policy): (
            g.token_ids,
            tuple((i.kind, i.position, i.tokens) for i in g.interventions),
            g.trial_tokens,
        )
        for g in generations
    }


@pytest.fixture(scope="module")
def by_vllm(model_dir: Path, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """What one vLLM engine makes of each of `SWEEPS`."""
    return swept(model_dir, prompts, list(SWEEPS), tmp_path_factory.mktemp("vllm") / "out")


def swept(
    model_dir: Path, prompts: list[Prompt], names: Sequence[str], out: Path, **options: Any
) -> dict[str, Results]:  # fmt: skip
    """What a vLLM engine with these options makes of some of `SWEEPS`."""
    fixed = {"format": "s1", "answer_tokens_max": ANSWER_TOKENS_MAX}
    sweeps: list[list[dict[str, Any]]] = vllm_sweep.run(
        {
            "model": str(model_dir), "rows": 32, "dtype": "float32", "options": options,
            "sweeps": [
                {
                    "prompts": [p.text for p in prompts[: SWEEPS[name].prompts]],
                    "sampling": SWEEPS[name].sampling.model_dump(),
                    "policies": [p.model_dump() for p in SWEEPS[name].policies], **fixed,
                }
                for name in names
            ],
        },
        out,
    )  # fmt: skip
    return {
        name: {
            (g["prompt_id"], Policy(**g["policy"])): (
                tuple(g["token_ids"]),
                tuple((i["kind"], i["position"], i["tokens"]) for i in g["interventions"]),
                g["trial_tokens"],
            )
            for g in generations
        }
        for name, generations in zip(names, sweeps, strict=True)
    }


@pytest.fixture(scope="module")
def embedded_of(hf: HFEngine, prompts: list[Prompt]) -> Callable[[str], Results]:
    """What the embedded engine makes of one of `SWEEPS`."""

    @cache
    def results(name: str) -> Results:
        sweep = SWEEPS[name]
        return results_of(
            hf.sweep(
                prompts[: sweep.prompts], sweep.policies, FORMATS["s1"],
                answer_tokens_max=ANSWER_TOKENS_MAX, sampling=sweep.sampling,
            )
        )  # fmt: skip

    return results


def compare(
    name: str,
    ours: Results,
    theirs: Results,
    model_dir: Path,
    prompts: list[Prompt],
    kinds_seen: Sequence[str] = FORCED,
) -> None:
    """Print how many are the same, and of each that is not the gap between the two tokens where they part."""
    assert set(ours) == set(theirs)
    kinds = Counter(kind for _, log, _ in ours.values() for kind, _, _ in log)
    assert all(kinds[kind] for kind in kinds_seen), kinds
    parted = [key for key in ours if ours[key] != theirs[key]]
    print(f"\n{name}: {len(ours) - len(parted)} of {len(ours)} completions are the same, forced {dict(kinds)}")
    if not parted:
        return
    reference = ReferenceModel(model_dir)
    for prompt_id, policy in parted:
        at, gap = reference.first_divergence(
            prompts[int(prompt_id)].text, ours[prompt_id, policy][0], theirs[prompt_id, policy][0]
        )
        print(f"  prompt {prompt_id}, {policy!r}: they part at id {at}, between logits that differ by {gap:.2e}")
        assert gap < LOGIT_GAP_MAX


@by_engine
def test_vllm_has_loaded_the_kernels_of_this_processor() -> None:
    """With `--isa avx2` of one without AVX-512."""
    tell = (
        "import torch.cpu, vllm.platforms; vllm.platforms.current_platform.import_kernels(); "
        "print(torch.cpu._is_avx512_supported(), 'vllm/_C_AVX2.' in open('/proc/self/maps').read())"
    )
    python = Path(PROGRAM).parent / "python"
    done = subprocess.run([python, "-c", tell], check=True, env=environment(), stdout=subprocess.PIPE, text=True)
    has_avx512, loaded_avx2 = done.stdout.split()[-2:]
    played = torch.backends.cpu.get_cpu_capability() != "AVX512"
    assert (has_avx512, loaded_avx2) == (str(not played), str(played))


@by_engine
def test_vllm_gives_the_ids_of_the_embedded_engine(
    embedded_of: Callable[[str], Results], by_vllm: dict[str, Results], model_dir: Path, prompts: list[Prompt]
) -> None:
    compare("vllm", embedded_of("greedy"), by_vllm["greedy"], model_dir, prompts)


@by_engine
def test_and_where_thinking_is_stopped_early(
    embedded_of: Callable[[str], Results], by_vllm: dict[str, Results], model_dir: Path, prompts: list[Prompt]
) -> None:
    ours, theirs = embedded_of("stopped early"), by_vllm["stopped early"]
    compare("vllm, stopped early", ours, theirs, model_dir, prompts, ["wait", "cut", "exit", "grace"])
    assert sum(trial_tokens for _, _, trial_tokens in theirs.values()) > 0


@by_engine
def test_and_so_by_sampling_since_a_draw_belongs_to_its_position(
    embedded_of: Callable[[str], Results], by_vllm: dict[str, Results]
) -> None:
    ours, theirs = embedded_of("sampled"), by_vllm["sampled"]
    assert set(ours) == set(theirs)
    same = sum(ours[key] == theirs[key] for key in ours)
    print(f"\nvllm, sampled: {same} of {len(ours)} completions are the same")
    assert same >= 0.97 * len(ours), "but for a uniform that falls between two sums"


@by_engine
def test_speculation_changes_no_id(
    embedded_of: Callable[[str], Results], model_dir: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    """Drafts are n-grams of the ids so far, which are seldom right."""
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
    names = ["greedy", "stopped early"]
    swept_with_drafts = swept(model_dir, prompts[:FEWER], names, tmp_path / "out", speculative_config=drafts)
    for name, kinds in zip(names, (FORCED, ["wait", "cut", "exit", "grace"]), strict=True):
        embedded, theirs = embedded_of(name), swept_with_drafts[name]
        ours = {key: embedded[key] for key in theirs}
        compare(f"vllm with n-grams, {name}", ours, theirs, model_dir, prompts, kinds)


@by_engine
def test_nor_does_a_draft_model_which_is_always_right(
    embedded_of: Callable[[str], Results], model_dir: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    """But where tokens are injected, or drawn by chance."""
    drafts = {"method": "draft_model", "model": str(model_dir), "num_speculative_tokens": 3}
    theirs = swept(model_dir, prompts[:FEWER], ["sampled"], tmp_path / "out", speculative_config=drafts)["sampled"]
    embedded = embedded_of("sampled")
    same = sum(embedded[key] == theirs[key] for key in theirs)
    print(f"\nvllm with a draft model, sampled: {same} of {len(theirs)} completions are the same")
    assert same >= 0.97 * len(theirs), "but for a uniform that falls between two sums"


REFUSED = """
from pathlib import Path
from tenner.core.errors import TennerError
from tenner.inference.vllm import VLLMEngine
import sys
for drafts in ({"method": "telepathy"}, {
    "method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2, "rejection_sample_method": "synthetic",
    "synthetic_acceptance_length": 1.5,
}):
    try:
        VLLMEngine.load(Path(sys.argv[1]), max_model_len=256, kv_cache_memory_bytes=1 << 28, speculative_config=drafts)
    except TennerError as error:
        print("REFUSED", error, error.hint)
"""


@by_engine
def test_speculation_that_cannot_be_forced_is_refused_in_one_line(model_dir: Path) -> None:
    python = Path(PROGRAM).parent / "python"
    done = subprocess.run(
        [python, "-c", REFUSED, model_dir], check=True, env=environment(), stdout=subprocess.PIPE, text=True
    )
    unknown, by_chance = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert "vLLM rejects evaluate.vllm" in unknown
    assert "method" in unknown
    assert "accepts drafts by chance" in by_chance


@pytest.fixture(scope="module")
def api(vllm_server: VLLMServer, hf: HFEngine) -> ApiEngine:
    return ApiEngine(vllm_server.url, "m", hf.tokenizer, context_tokens=2048, speaks="ids")


@pytest.fixture(scope="module")
def plain(vllm_server: VLLMServer) -> openai.OpenAI:
    """A client that knows nothing of forcing."""
    return openai.OpenAI(base_url=vllm_server.url, api_key="none")


@by_server
def test_a_server_continued_round_by_round_gives_them_too(
    api: ApiEngine, embedded_of: Callable[[str], Results], model_dir: Path, prompts: list[Prompt]
) -> None:
    theirs = results_of(api.sweep(prompts[:FEWER], POLICIES, FORMATS["s1"], answer_tokens_max=ANSWER_TOKENS_MAX))
    embedded = embedded_of("greedy")
    compare("api", {key: embedded[key] for key in theirs}, theirs, model_dir, prompts)


@by_server
def test_the_processor_alone_forces_what_a_request_asks_for(
    plain: openai.OpenAI,
    hf: HFEngine,
    embedded_of: Callable[[str], Results],
    model_dir: Path,
    prompts: list[Prompt],
) -> None:
    """One plain request a completion, `vllm serve` and nothing else of tenner between."""

    def ask(prompt: Prompt, policy: Policy) -> tuple[int, ...]:
        forcing_args = {f"tenner_{k}": v for k, v in policy.model_dump().items()}
        forcing_args |= {"tenner_format": "s1", "tenner_answer_tokens_max": ANSWER_TOKENS_MAX}
        completion = plain.completions.create(
            model="m", prompt=prompt.text, max_tokens=200, temperature=0,
            extra_body={"vllm_xargs": forcing_args, "return_token_ids": True, "add_special_tokens": False},
        )  # fmt: skip
        ids = (completion.choices[0].model_extra or {})["token_ids"]
        assert completion.choices[0].finish_reason == "stop"
        assert ids[-1] == hf.tokenizer.eos_token_id
        return tuple(ids[:-1])

    asked = list(itertools.product(prompts[:6], POLICIES))
    with ThreadPoolExecutor(len(POLICIES)) as pool:
        answers = list(pool.map(lambda one: ask(*one), asked))
    embedded = embedded_of("greedy")
    theirs: Results = {
        (prompt.id, policy): (ids, *embedded[prompt.id, policy][1:])
        for (prompt, policy), ids in zip(asked, answers, strict=True)
    }
    compare("vllm serve", {key: embedded[key] for key in theirs}, theirs, model_dir, prompts)


@by_server
@pytest.mark.parametrize(
    ("forcing_args", "message"),
    [
        ({"tenner_waits": 1}, "tenner_format: Field required"),
        ({"tenner_format": "s2"}, "'s2' is not one of"),
        ({"tenner_format": "s1", "tenner_wait": 1}, "tenner_wait: Extra inputs are not permitted"),
        ({"tenner_ticket": 0}, "tenner_format: Field required"),
        ({"tenner_format": "s1", "tenner_row": 1}, "tenner_row: Extra inputs are not permitted"),
        ({"tenner_format": "s1", "tenner_waits": -1}, "tenner_waits: Input should be greater"),
    ],
)
def test_invalid_forcing_arguments_are_refused(
    plain: openai.OpenAI, forcing_args: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        plain.completions.create(model="m", prompt="x", max_tokens=9, extra_body={"vllm_xargs": forcing_args})


@by_server
def test_text_in_and_out_serves_too_and_an_ignored_budget_is_an_error(
    vllm_server: VLLMServer, hf: HFEngine, prompts: list[Prompt]
) -> None:
    text = ApiEngine(vllm_server.url, "m", hf.tokenizer, context_tokens=2048, speaks="text")
    generations = list(text.sweep(prompts[:8], POLICIES, FORMATS["plain"], answer_tokens_max=ANSWER_TOKENS_MAX))
    assert len(generations) == 8 * len(POLICIES)
    assert all(g.thinking_tokens <= (g.policy.thinking_tokens_max or 0) for g in generations)
    ids = ApiEngine(vllm_server.url, "m", hf.tokenizer, context_tokens=2048, speaks="ids")

    def ask_all() -> None:
        for prompt in prompts[:20]:  # one that ends its thinking at once would keep any budget
            ids.by_own_budget(prompt, 3, FORMATS["s1"], answer_tokens_max=40, knob="thinking_budget_tokens")

    with pytest.raises(TennerError, match=r"ignored thinking_budget_tokens: \d+ thinking tokens"):
        ask_all()  # vLLM accepts the knob without a word, and does not know it
