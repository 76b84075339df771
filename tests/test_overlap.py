from tenner.ask.overlap import drop_benchmark_overlap, drop_duplicates, normalise
from tenner.records import Question


def question(id, text):
    return Question(id=id, question=text, source="test")


def clean(pool, benchmark, boilerplate=3):
    pool = [question(f"q{i}", text) for i, text in enumerate(pool)]
    benchmark = [question(f"b{i}", text) for i, text in enumerate(benchmark)]
    return drop_benchmark_overlap(pool, benchmark, ngram_words=4, boilerplate_questions=boilerplate)


def test_normalising_takes_case_punctuation_and_spacing_away():
    assert normalise("What  is 7+4,\n“Ann”?") == "what is 7 4 ann"


def test_a_duplicate_names_the_question_that_stays():
    cleaned = drop_duplicates([question("a", "What is 2+2?"), question("b", "what is 2 + 2"), question("c", "No.")])
    assert [q.id for q in cleaned.kept] == ["a", "c"]
    assert [(d.id, d.reason, d.evidence) for d in cleaned.dropped] == [("b", "duplicate", "same words as a")]


def test_a_question_of_the_benchmark_is_dropped_however_short():
    cleaned = clean(["Two plus two?", "Three plus two?"], ["two PLUS two"])
    assert [(d.id, d.reason) for d in cleaned.dropped] == [("q0", "in the benchmark")]


def test_a_shared_ngram_is_dropped_with_its_witness():
    cleaned = clean(["a b c d e", "x y z"], ["0 b c d e 1"])
    (drop,) = cleaned.dropped
    assert (drop.id, drop.evidence) == ("q0", "b0: “b c d e”")


def test_wording_that_many_questions_share_is_no_leak_unless_the_whole_question_is():
    pool = ["how many are 1", "how many are 2", "how many are there if 3", "how many are there if 4"]
    template = ["how many are there if 9", "how many are 1"]
    assert [d.id for d in clean(pool, template, boilerplate=2).dropped] == ["q0"]
    assert [d.id for d in clean(pool, template, boilerplate=3).dropped] == ["q0", "q2", "q3"]
