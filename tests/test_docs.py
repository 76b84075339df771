"""README and docs: links lead somewhere, and every block is executed, read, or says what it needs."""

import io
import json
import re
import shutil
import tomllib

import pytest
from commands import tenner_here
from doc_blocks import BLOCKS, LINK, NEEDS, PAGES, USER_PAGES, blocks_of
from paths import ROOT
from published_configs import QWEN25_32B

from tenner import cli
from tenner.budget import machines
from tenner.core import recipe

COMMANDS = sorted({" ".join(words): words for b in BLOCKS if b.language == "sh" for words in b.commands}.items())
RUNNABLE = [b for b in BLOCKS if b.language in ("sh", "python") and not b.needs]
EXECUTED = [pytest.param(b, marks=[] if b.is_quick else pytest.mark.slow, id=str(b)) for b in RUNNABLE]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text("utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


def test_every_page_is_reached_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page.name)
        links = (page.parent / link for link in LINK.findall(page.read_text("utf-8")) if link.endswith(".md"))
        ahead += [link for link in links if link.name not in reached]
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - reached == set()


def test_newcomers_read_one_short_page():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 100
    assert len(COMMANDS) > 10


def test_the_architecture_names_every_module():
    named = set(re.findall(r"\w+", (ROOT / "ARCHITECTURE.md").read_text("utf-8")))
    modules = {
        p.stem for p in (ROOT / "tenner").rglob("*.py") if p.parent.name != "commands" and not p.stem.startswith("__")
    }
    assert modules - named == set()


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=" ".join)
def test_a_command_in_the_docs_is_understood(words):
    parsed = cli.parser(words[1]).parse_args(words[1:])
    assert parsed.verb == words[1]


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)
def test_a_command_stands_in_a_block_that_is_executed_or_marked(page):
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text("utf-8"))
    assert re.findall(r"(?m)^(?:    )+(?:tenner|vllm|pip|curl) .*$", prose) == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.needs], ids=str)
def test_a_mark_names_what_is_missing(block):
    assert (named := re.match(r"[a-z_]+", block.needs))
    assert named[0] in NEEDS


@pytest.mark.parametrize("page", USER_PAGES, ids=lambda page: page.name)
def test_no_block_is_of_a_kind_that_nothing_looks_at(page):
    assert page.read_text("utf-8").count("\n```") == 2 * len(blocks_of(page))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=str)
def test_settings_are_read_as_they_stand(block, tmp_path, monkeypatch):
    said = tomllib.loads(block.code)
    if isinstance(said.get("machine"), list):
        (tmp_path / "tenner").mkdir()
        (tmp_path / "tenner" / "prices.toml").write_text(block.code)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        assert {row["provider"] for row in said["machine"]} <= {offer.provider for offer in machines.offers()}
    elif "name" in said:
        said["evaluate"]["benchmarks"] = [{"task": "AIME24"}]  # --task says it there
        recipe.validate(recipe.Measurement, said, text=block.code, where=str(block))
    else:
        rest = tomllib.loads(recipe.built_in()["s1k-tinker" if "train" in said else "demo"])
        merged = rest | {name: rest[name] | section for name, section in said.items()}
        recipe.validate(recipe.Recipe, merged, text=block.code, where=str(block))


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with the files that the docs name."""
    sums = [{"id": f"q{n}", "question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(50)]
    (tmp_path / "questions.jsonl").write_text(jsonl(*sums))
    (tmp_path / "questions.csv").write_text("id,question,answer\n" + "".join(",".join(q.values()) + "\n" for q in sums))
    (tmp_path / "math500.jsonl").write_text(jsonl({"question": "What is 3 + 3?", "answer": "6"}))
    (tmp_path / "responses.jsonl").write_text(jsonl({"id": "a", "response": "So \\boxed{6}.", "answer": "6"}))
    (tmp_path / "config.json").write_text(json.dumps(QWEN25_32B))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished_demo(tiny_recipe, tmp_path_factory):
    """A finished run of the demo as the tiny student does it."""
    path = tmp_path_factory.mktemp("docs") / "demo"
    done = tenner_here("run", tiny_recipe, "--run-dir", path, "--set", 'name="demo"')
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def runs(files, finished_demo, tiny_recipe, monkeypatch):
    """The runs that the docs name; "demo" is the tiny student's recipe."""
    for name in ("runs/demo", "RUN", "RUN_A", "RUN_B"):
        shutil.copytree(finished_demo, files / name)
    text = tiny_recipe.read_text().replace('name = "tiny"', 'name = "demo"', 1)
    shipped = recipe.built_in()
    monkeypatch.setattr(recipe, "built_in", lambda: {**shipped, "demo": text})
    (files / "RECIPE").write_text(text)


@pytest.mark.parametrize("block", EXECUTED)
def test_a_block_runs(block, request, monkeypatch):
    request.getfixturevalue("files" if block.is_quick else "runs")
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 2?\n"))
    if block.language == "python":
        exec(compile(block.code, str(block), "exec"), {})
        return
    assert len(block.commands) == len(block.code.replace("\\\n", " ").splitlines()), "another program's has a mark"
    for words in block.commands:
        done = tenner_here(*words[1:])
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
