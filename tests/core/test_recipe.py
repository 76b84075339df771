import pytest

from tenner.core.errors import TennerError
from tenner.core.recipe import built_in, load, parse, split_cap
from tenner.core.sections import Labeller

DEMO = built_in()["demo"]


def line_of(text, part):
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


def refusal(text, **kwargs):
    with pytest.raises(TennerError) as caught:
        parse(text, where="my.toml", **kwargs)
    return caught.value


@pytest.mark.parametrize("name", built_in())
def test_every_built_in_recipe_is_valid_and_survives_being_written_out(name):
    recipe = load(name)
    assert parse(recipe.to_toml(), where="copy") == recipe


def test_a_misspelt_key_is_refused_with_its_line_and_the_right_name():
    text = DEMO.replace("lr = ", "lrr = ")
    error = refusal(text)
    assert str(error) == f"my.toml, line {line_of(text, 'lrr')}: unknown key train.lrr"
    assert error.hint == "did you mean lr?"


def test_a_misspelt_key_in_a_list_of_tables_too():
    text = DEMO.replace("suffix", "sufix")
    error = refusal(text)
    assert str(error) == f"my.toml, line {line_of(text, 'sufix')}: unknown key attempt.prompts.1.sufix"
    assert error.hint == "did you mean suffix?"


def test_a_misspelt_section():
    error = refusal(DEMO.replace("[select]", "[selct]"))
    assert "unknown key selct" in str(error)
    assert error.hint == "did you mean select?"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples = 620", 'samples = "many"', "select.samples: Input should be a valid integer (got 'many')"),
        ("samples = 620", "samples = 0", "select.samples: Input should be greater than 0 (got 0)"),
        ("samples = 620", "samples = 9000", "select.samples = 9000 cannot be picked out of gather.questions = 2000"),
        ('format = "s1"\nsystem', 'format = "s2"\nsystem', "student.format: no think format is called 's2'"),
        ("[0, 16, 32, 64]", "[8, 0]", "thinking_tokens_max must ascend"),
        (
            'client = "reference-solution"',
            'client = "reference-solution"\nbase_url = "http://["',
            "trace.base_url: not a URL such as https://",
        ),
        (
            'client = "reference-solution"',
            'client = "reference-solution"\nbase_url = "host/v1"',
            "trace.base_url: not a URL such as https://",
        ),
        ("[0, 16, 32, 64]", "[8]\nthinking_tokens_min = 8", "thinking_tokens_min must be below"),
        ("epochs = 1", "epochs = 1.5", "train.epochs: Input should be a valid integer"),
        ("budget_usd = 0.05", "budget_usd = nan", "budget_usd: Input should be a finite number"),
        ("budget_usd = 0.05", "budget_usd = 1e400", "budget_usd: Input should be a finite number"),
        (
            "price_usd_per_hour = 0.10",
            "price_usd_per_hour = inf",
            "machine.price_usd_per_hour: Input should be a",
        ),
        (
            "samples = 620",
            'samples = 2000\ncontrol = "random"',
            "select.control has no effect where all of gather.questions = 2000 are selected",
        ),
        (
            'client = "reference-solution"',
            'client = "reference-solution"\ncandidate_questions = 4\ncandidates = [{preset = "deepseek", model = "m"}]',
            "trace: candidates are compared with the teacher of trace itself, and reference-solution is free",
        ),
        (
            'client = "reference-solution"',
            'client = "reference-solution"\ncandidate_questions = 4',
            "trace: candidates and candidate_questions belong together",
        ),
        (
            'client = "reference-solution"',
            'client = "openai"\npreset = "deepseek"\nmodel = "m"\ncandidate_questions = 4\n'
            'candidates = [{preset = "deepseek", model = "m"}]',
            "candidates: two of the teachers are the same",
        ),
        (
            'client = "reference-solution"',
            'client = "openai"\npreset = "deepseek"\nmodel = "m"\ncandidate_questions = 4\n'
            'candidates = [{model = "n"}]',
            "candidates: the openai client needs preset or base_url",
        ),
        (
            'client = "reference-solution"',
            'client = "openai"\npreset = "deepseek"\nmodel = "m"\ncandidate_questions = 621\n'
            'candidates = [{preset = "deepseek", model = "n"}]',
            "trace.candidate_questions = 621 is above select.samples = 620",
        ),
        ("waits = [2]", "waits = [2]\nthinking_tokens_min = 65", "thinking_tokens_min must be below the largest"),
    ],
)
def test_wrong_types_and_impossible_values(old, new, message):
    assert old in DEMO
    assert message in str(refusal(DEMO.replace(old, new)))


def test_a_missing_key_is_named():
    assert "train.lr is missing" in str(refusal(DEMO.replace("lr = ", "# lr = ")))


def test_what_is_not_toml_is_refused_with_its_place():
    assert "my.toml is not valid TOML" in str(refusal("name = \n"))


def test_overrides_go_on_top_and_are_checked_like_the_rest():
    recipe = load("demo", overrides=["train.epochs=3", "student.model=/some/folder", "seed=7"])
    assert (recipe.train.epochs, recipe.student.model, recipe.seed) == (3, "/some/folder", 7)
    assert str(refusal(DEMO, overrides=["train.epoch=3"])) == "--set: unknown key train.epoch"
    assert "has no '='" in str(refusal(DEMO, overrides=["train.epochs"]))


def test_a_recipe_that_is_not_there():
    with pytest.raises(TennerError, match="no recipe is called dmo") as caught:
        load("dmo")
    assert caught.value.hint == "did you mean demo?"
    with pytest.raises(TennerError, match=r"recipe none\.toml cannot be read: No such file"):
        load("none.toml")


@pytest.mark.parametrize("number", ["nan", "inf", "1e400"])
@pytest.mark.parametrize("key", ["budget_usd", "machine.price_usd_per_hour", "train.lr"])
def test_every_number_is_finite(key, number):
    error = refusal(DEMO, overrides=[f"{key}={number}"])
    assert str(error).startswith(f"--set: {key}: Input should be ")


def test_waits_need_a_budget_to_apply_at():
    error = refusal(DEMO, overrides=["evaluate.thinking_tokens_max=[]", "evaluate.waits=[1]"])
    assert "waits apply at the largest of thinking_tokens_max" in str(error)


def test_the_command_line_names_one_cap_at_most():
    assert split_cap(["seed=1"]) == (None, ["seed=1"])
    assert split_cap(["seed=1", "budget_usd = 0.01"]) == (0.01, ["seed=1"])
    assert split_cap([], 2.0) == (2.0, [])
    for overrides, flag in ((["budget_usd=1"], 2.0), (["budget_usd=nan"], None), (["budget_usd=x"], None)):
        with pytest.raises(TennerError) as caught:
            split_cap(overrides, flag)
        assert caught.value.hint


@pytest.mark.parametrize("client", ["replay", "reference-solution"])
def test_only_a_model_that_answers_can_label(client: str) -> None:
    with pytest.raises(ValueError, match="'openai' or 'gemini'"):
        Labeller.model_validate({"client": client, "model": "m", "replay_from": "runs/x"})


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"name={DEEP}", "its value is nested too deeply"),
        (".".join("a" * 30) + "=1", "is nested too deeply"),
        ("student.system_prompt=\ud83d", "half characters"),
        ("seed=" + "9" * 5000, "seed"),
    ],
)
def test_an_override_that_no_setting_can_be(override, said):
    with pytest.raises(TennerError, match=said):
        load("demo", overrides=[override])


@pytest.mark.parametrize("text", [f"a = {DEEP}", "a = " + "{a = " * 1000 + "1" + "}" * 1000, "seed = " + "9" * 5000])
def test_a_file_that_no_recipe_can_be(text):
    with pytest.raises(TennerError, match=r"^x is"):
        parse(text, where="x")


@pytest.mark.parametrize("name", ["\0", "\0.toml", "d" * 100_000, "\ud83d"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(TennerError, match="recipe"):
        load(name)


def test_files_beside_a_recipe_are_found_wherever_the_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "questions.jsonl").touch()
    sources = '[[gather.sources]]\nname = "a"\nfile = "questions.jsonl"\ncolumns = { question = "q" }\n'
    sources += '[[gather.sources]]\nname = "b"\nfile = "elsewhere.jsonl"\ncolumns = { question = "q" }\n\n[clean]'
    (tmp_path / "mine" / "my.toml").write_text("\ufeff" + DEMO.replace("[clean]", sources), "utf-8")
    monkeypatch.chdir(tmp_path)
    a, b = load("mine/my.toml").gather.sources
    assert (a.file, b.file) == (str(tmp_path / "mine" / "questions.jsonl"), "elsewhere.jsonl")
    monkeypatch.chdir(tmp_path / "mine")
    assert load("my.toml").gather.sources[0].file == "questions.jsonl"  # as runs from before have it


def test_a_candidate_takes_from_trace_what_it_does_not_say():
    text = DEMO.replace(
        'client = "reference-solution"',
        'client = "openai"\npreset = "deepseek"\nmodel = "m"\noutput_tokens_max = 900\nsuffix = "!"\n'
        "parameters = {temperature = 0.6}\ncandidate_questions = 4\n"
        'candidates = [{base_url = "http://localhost:1/v1", model = "n"}, {client = "gemini", model = "g", '
        "output_tokens_max = 50}]",
    )
    section = parse(text, where="my.toml").trace
    own, second, third = section.teachers
    assert own == section.model_copy(update={"candidates": None, "candidate_questions": None})
    assert (second.preset, second.base_url, second.model) == (None, "http://localhost:1/v1", "n")
    assert (second.output_tokens_max, second.suffix, second.parameters) == (900, "!", {})
    assert (third.client, third.output_tokens_max) == ("gemini", 50)
    assert parse(parse(text, where="my.toml").to_toml(), where="copy").trace.teachers == section.teachers


def test_a_control_arm_is_not_trained_by_a_service():
    with pytest.raises(TennerError, match=r'select\.control has no effect with train\.backend = "tinker"'):
        load("s1k-tinker", overrides=['select.control="random"'])


def test_an_address_too_long_for_a_file_is_left_as_it_is(tmp_path):
    """As a signed address of a file is: none lies beside the recipe."""
    address = f"https://files.example/rows.jsonl?signature={'a' * 600}"
    table = f'[[gather.sources]]\nname = "mine"\nfile = "{address}"\ncolumns = {{ question = "q" }}\n'
    (tmp_path / "mine.toml").write_text(built_in()["demo"] + table)
    assert load(str(tmp_path / "mine.toml")).gather.sources[-1].file == address


@pytest.mark.parametrize("setting", ["seed", "budget_usd", "train.epochs"])
def test_a_number_that_python_cannot_write_is_refused(setting):
    digits = f"0x{'f' * 5000}"
    with pytest.raises(TennerError):
        parse(built_in()["demo"], where="mine.toml", overrides=[f"{setting}=[{digits}]"])
    with pytest.raises(TennerError, match=r"mine\.toml is not valid TOML: an integer has 20,000 bits"):
        parse(built_in()["demo"] + f"\n[a]\nb = [[{{ c = {digits} }}]]\n", where="mine.toml")


def test_an_override_sets_one_setting():
    with pytest.raises(TennerError, match="seed: Input should be a valid integer"):
        parse(built_in()["demo"], where="demo", overrides=["seed=1\nbudget_usd=9"])


@pytest.mark.parametrize("value", ["1979-05-27", "07:32:00", "[{b = 1979-05-27T07:32:00Z}]", "inf", "nan"])
def test_an_argument_of_the_chat_template_is_a_value_of_json(value):
    """It is written into the template of the saved student."""
    with pytest.raises(TennerError, match=r"student\.chat_template_kwargs: not JSON"):
        parse(built_in()["demo"], where="demo", overrides=[f"student.chat_template_kwargs={{a = {value}}}"])


def test_an_answer_cannot_stand_behind_nothing():
    table = '[[gather.sources]]\nname = "a"\nfile = "a.jsonl"\ncolumns = { question = "q", answer_after = "" }\n'
    with pytest.raises(TennerError, match=r"answer_after: String should have at least 1 character"):
        parse(built_in()["demo"] + table, where="mine.toml")
