"""What a plan assumes of lengths, shares and speeds before anything is measured, each with its source.

`tenner plan --probe N` measures lengths and speeds, and then these are not used for them.
"""

import math

from tenner.budget.estimate import Estimate

TEACHER_PROMPT_TOKENS = Estimate(60, 150, 400)
"""Of a question as a teacher reads it. s1K's questions have about 150 (simplescaling/s1K)."""
TRACE_SHARE = Estimate(0.1, 0.25, 0.5)
"""Of the limit of output tokens, or of train.tokens_max, a trace uses so much: limits are commonly set to several times
the mean. s1's traces had 4,700 thinking tokens on average, s1.1's about 9,000, with a limit of 32,768
(arXiv 2501.19393, Table 8; simplescaling/s1K-1.1)."""
KEPT_SHARE = Estimate(0.95, 0.75, 0.54)
"""Of the bought traces, so many are right and complete, the low bill first: 63 % of R1's and 54 % of Gemini's on s1K
(arXiv 2501.19393, appendix), nearly all on grade-school questions."""
BASE_SHARE = Estimate(0.4, 0.85, 1.0)
"""Of its limits, an untrained student uses so much, where they are short: it seldom ends on its own."""
BASE_THINKING_TOKENS, BASE_ANSWER_TOKENS = Estimate(500, 2000, math.inf), Estimate(50, 300, math.inf)
"""It uses at most so many, however high the limits are: an instruct model solves a question and stops. The high case is
one that runs on, or that thinks already."""
WAIT_SHARE, WAIT_TOKENS = 0.5, 300
"""How much longer a student thinks at each wait: so much of its first thinking (the demo's students), at most so many
tokens (s1-32B, from 6,984 without waits to about 8,470 with six on AIME24: arXiv 2501.19393, Table 8 and Figure 4)."""
SENTENCE_TOKENS = 20
"""Of a sentence of thinking, after each of which early exit may try an answer. A student is taken to begin a "Wait" of
its own every WAIT_TOKENS tokens."""
CHARACTERS_PER_TOKEN = Estimate(4.0, 3.0, 2.2)
"""Of generated puzzles, which are full of digits; the short bill first."""
TEMPLATE_TOKENS = 20
"""What a chat template and a think format put around a question, a trace and an answer."""
LABEL_PROMPT_TOKENS, LABEL_OUTPUT_TOKENS = Estimate(600, 800, 1200), Estimate(50, 300, 1000)
"""Of sorting one question into the subjects of `distill/msc.toml`, whose list has about 600 tokens."""

GPU_MFU = Estimate(0.45, 0.35, 0.20)
"""Of a card's best in bfloat16, training reaches so much, the fast case first: 22 % in s1's own run (see
`published_runs.toml`), 39 % of torchtitan with Qwen3-32B on eight H100 (its performance page)."""
RECOMPUTED = {"all": 1.0, "products": 1.1, "inputs": 4 / 3}
"""Work with `train.activations`, as a multiple of the work that MFU counts: a second forward pass is a third."""
QUANTIZED = 1.3
"""Products with weights in 4 bits take so much longer, as each is unpacked first (bitsandbytes; QLoRA, arXiv
2305.14314, reports no more than this for its largest models)."""
BANDWIDTH_SHARE = {"hf": Estimate(0.7, 0.4, 0.2), "vllm": Estimate(0.8, 0.6, 0.35)}
"""Of a card's memory bandwidth, decoding reaches so much, the fast case first. vLLM's own benchmarks lie about 60 %."""
LAUNCH_SECONDS = {"hf": Estimate(4e-5, 8e-5, 2e-4), "vllm": Estimate(5e-6, 1e-5, 3e-5)}
"""Of a decoding step, each layer takes so long beside reading its weights: its kernels are started one by one, or as
one graph."""
DECODING_MFU = Estimate(0.5, 0.3, 0.15)
"""Of a card's best, the products of prefilling and of full batches reach so much, the fast case first."""

CPU_SHARE = {"bf16": Estimate(0.4, 0.18, 0.08), "fp32": Estimate(0.9, 0.6, 0.25)}
"""Of the product that `hardware.speeds` times, training reaches so much on a CPU, the fast case first
(bench/results/train_cpu_bf16.txt: 438 to 693 tokens/s of SmolLM2-135M; the demo's training, whose steps are small, 400
to 500, and in float32 215 to 243)."""
CPU_DECODING_SHARE = {"bf16": Estimate(0.5, 0.15, 0.06), "fp32": Estimate(0.8, 0.45, 0.18)}
"""The same of decoding (bench/results/forcing_bf16.txt: 496 tokens/s of 30 rows of the same model; in float32 the
demo's evaluation took 3.4 minutes)."""
CORE_GFLOPS = {"bf16": 500.0, "fp32": 100.0}
"""What a core does at best, natively: the low estimate is never above what an idle machine could reach, though another
program keeps this one busy right now."""
CPU_BANDWIDTH_GB_PER_SECOND = Estimate(40.0, 12.0, 5.0)
"""Memory that decoding reads on a CPU, the fast case first."""
LOADING_BYTES_PER_SECOND = Estimate(2e9, 5e8, 2e8)
"""Reading a model's weights from disk and onto its device, the fast case first."""


def base_tokens(thinking_tokens_max: int, answer_tokens_max: int) -> tuple[Estimate, Estimate]:
    """Thinking and answer of an untrained student under these limits."""
    thinking, answer = (BASE_SHARE.times(limit) for limit in (thinking_tokens_max, answer_tokens_max))
    return thinking.at_most(BASE_THINKING_TOKENS), answer.at_most(BASE_ANSWER_TOKENS)
