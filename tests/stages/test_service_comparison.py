"""The merged student beside the service that trained it: which tokens are compared, what it costs, what is refused."""

from tenner.core.records import Completion, Grade, Intervention, Policy
from tenner.stages.service_comparison import Stretch, stretches


def completion(ids, *interventions):
    return Completion(
        question_id="q", task="heldout", student="distilled", prompt="s1", policy=Policy(thinking_tokens_max=4),
        thinking="", answer="", token_ids=ids, thinking_tokens=2, answer_tokens=2, truncated=False,
        interventions=interventions, grade=Grade(extracted=None, verdict="wrong"),
    )  # fmt: skip


def test_only_what_the_student_sampled_itself_is_compared():
    opened = Intervention(kind="open", position=0, tokens=2)
    cut = Intervention(kind="cut", position=4, tokens=0)
    close, cue = (Intervention(kind=kind, position=at, tokens=1) for kind, at in (("close", 4), ("cue", 5)))
    found = list(stretches([1, 2], completion((10, 11, 12, 13, 14, 15, 16), opened, cut, close, cue)))
    assert found == [Stretch([1, 2, 10, 11], (12, 13)), Stretch([1, 2, 10, 11, 12, 13, 14, 15], (16,))]
    assert list(stretches([1], completion((2, 3)))) == [Stretch([1], (2, 3))]
    assert list(stretches([1], completion((2, 3), Intervention(kind="open", position=0, tokens=2)))) == []
