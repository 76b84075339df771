import time

import pytest

from tenner.evaluation.grading.extraction import answer_part, shortened, stated_answers, unboxed

FIRST = [  # a response, and the answer that it states; None: none
    (r"so \boxed{7}.", "7"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed {7}", "7"),
    (r"\fbox{3} and \boxed 7", "7"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\left\{ x : x > 0 \right\}}", r"\left\{ x : x > 0 \right\}"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"First \boxed{5}. That is wrong; the answer is \boxed{7}.", "7"),
    (r"\boxed{35 cm} ++++++ \boxed{4}", "4"),
    (r"\boxed{1}, \boxed{2}, and \boxed{3}", "1, 2, 3"),
    (r"$\boxed{1}$ or $\boxed{2}$", "1, 2"),
    (r"\boxed{1}. Then again \boxed{2}", "2"),
    (r"\boxed{7}, which is \boxed{8}", "8"),
    (r"So \boxed{7} for now. Let me redo it: \boxed{", None),
    (r"So \boxed{7} for now. Let me redo it: \boxed{8", None),
    (r"Answer: \boxed{8", None),
    (r"\boxed{}", None),
    ("The answer is 7.", "7."),
    ("The answer is 5. Wait. The answer is 7", "7"),
    ("**Final Answer:** 7", "7"),
    ("The answer to part (b) is 7", "7"),
    ("\\textbf{Answer: 7}", "7"),
    ("The answer should be 7", "7"),
    ("Final Answer: The final answer is $7$. I hope it is correct.", "$7$. I hope it is correct."),
    ("**Final Answer**\n\n7\n\nDone.", "7"),
    ("### Final Answer\n**7**", "7"),
    ("✅ Final Answer: **73**", "73"),
    ("**Answer**: 7", "7"),
    ("ANSWER = 7", "7"),
    ("It goes on.\n#### 7", "7"),
    ("Answer:\n\\[\nx = 7\n\\]", "x = 7"),
    ("Answer:\n$$\n\\frac{1}\n{2}\n$$", r"\frac{1} {2}"),
    ("Answer:\n\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}", r"\begin{pmatrix} 1\\ 2 \end{pmatrix}"),
    ("7", "7"),
    ("It is hard.\nI give up.", None),
    ("Thinking about 4\nand 4 again", None),
    ("Answer:", None),
    ("", None),
]


@pytest.mark.parametrize(("response", "stated"), FIRST)
def test_the_last_box_counts_then_what_is_stated(response, stated):
    found = stated_answers(response)
    assert (found[0].text if found else None) == stated


THINKING = [
    (r"<think>\boxed{3}</think>It is unclear to me.", "It is unclear to me."),
    (r"<think>\boxed{3}", ""),  # it never came to an answer
    (r"\boxed{3}</think>\boxed{4}", r"\boxed{4}"),  # the opening tag was in the prompt
    (r"<|im_start|>think\boxed{3}<|im_start|>answer\boxed{4}<|im_end|>", r"\boxed{4}"),
    (r"<|channel|>analysis<|message|>\boxed{3}<|channel|>final<|message|>4<|return|>", "4"),
    (r"[THINK]\boxed{3}[/THINK]4", "4"),
    (r"\boxed{3}", r"\boxed{3}"),
]


@pytest.mark.parametrize(("response", "part"), THINKING)
def test_thinking_is_no_answer(response, part):
    assert answer_part(response) == part


def test_a_box_in_the_thinking_alone_is_no_answer():
    assert stated_answers("<think>\n\\boxed{3}\n</think>\n\nI have\nno idea.") == []


@pytest.mark.parametrize(
    ("statement", "short"),
    [
        ("5. Wait, no", "5"), ("3.5 cm.", "3.5 cm"), ("42 because 6*7=42", "42"), ("42 (since 6*7=42)", "42"),
        ("7, since it is prime", "7"),
        ("x = 7 where x > 0", "x = 7"), ("option B", "B"), ("0.5", "0.5"), ("5! Hooray", "5"), ("5!", "5!"),
    ],
)  # fmt: skip
def test_a_statement_ends_where_its_sentence_does(statement, short):
    assert shortened(statement) == short


def test_a_reference_may_be_boxed():
    assert (unboxed(r"\boxed{\dfrac{9}{7}}"), unboxed("9/7"), unboxed(r"\boxed{9")) == (
        r"\dfrac{9}{7}",
        "9/7",
        r"\boxed{9",
    )


def test_hostile_responses_take_no_time():
    began = time.perf_counter()
    for hard in (
        r"\boxed{" * 100_000, "{" * 500_000, r"\boxed{1}," * 30_000, "answer is " * 50_000,
        "Answer: " + "a" * 900_000,
        "\\boxed{" + "{" * 400_000 + "}" * 400_000 + "}", "answer:" + " ; " * 100_000, "\n" * 900_000, "**" * 400_000,
    ):  # fmt: skip
        for stated in stated_answers(hard):
            shortened(stated.text)
    assert time.perf_counter() - began < 5
