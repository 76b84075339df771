"""Small tables in the schemas of s1's sources, saved to disk as the datasets library saves them."""

import datasets

GPQA = {
    "Question": "Which gas?", "Correct Answer": "neon", "Incorrect Answer 1": "argon", "Incorrect Answer 2": "xenon",
    "Incorrect Answer 3": "radon", "Explanation": "Ten electrons.", "High-level domain": "Chemistry", "Subdomain": "x",
}  # fmt: skip
AGIEVAL = {
    "passage": "A text.", "question": "What follows?", "options": ["(A)this", "(B)that"], "label": "A",
    "other": {"solution": "Because."},
}  # fmt: skip
MATH = {
    "problem": "What is 1+2?",
    "answer": "3",
    "solution": "Add.",
    "subject": "Algebra",
    "level": 2,
    "unique_id": "u/1",
}
OLYMPIAD = {
    "id": 7, "question": "Prove it.", "context": "Let x be 3.", "solution": ["Because.", "Or so."],
    "final_answer": ["3"], "question_type": "OE", "subject": "Math",
}  # fmt: skip
ROWS = {
    "MATH": [MATH],
    "OlympicArena": [
        {"problem": "Why?", "solution": "So.", "subject": "Math", "language": "EN", "modality": "text-only"},
        {"problem": "Warum?", "solution": "So.", "subject": "Math", "language": "DE", "modality": "text-only"},
        {"problem": "Seen?", "solution": "So.", "subject": "Math", "language": "EN", "modality": "multi-modal"},
    ],
    "TheoremQA": [
        {"Question": "How many?", "Answer": "3", "Answer_type": "integer", "Picture": None},
        {"Question": "See.", "Answer": "3", "Answer_type": "integer", "Picture": "bytes"},
    ],
    "NuminaMATH": [
        {"source": "aops_forum", "problem": "Find x.", "solution": "3", "messages": [{"role": "user", "content": "x"}]},
        {"source": "cn_k12", "problem": "Find y.", "solution": "3", "messages": [{"role": "user", "content": "y"}]},
    ],
    "OmniMath": [
        {"domain": ["Mathematics -> Algebra"], "difficulty": 8.0, "problem": "Find z.", "solution": "S.", "answer": "3",
         "source": "imo"},
    ],
    "SciEval": [
        {"question": f"What is {i}?\n\nAnswer:", "answer": ["A"] if i % 3 else None, "category": "physics",
         "task_name": "SocraticQA" if i % 2 else "MedQA", "type": "multiple-choice"}
        for i in range(600)
    ],
    "OlympiadBench": [OLYMPIAD],
    "JEEBench": [{"subject": "phy", "description": "d", "gold": "B", "index": 3, "type": "MCQ", "question": "A body."}],
    **{
        name: [AGIEVAL]
        for name in ("AGIEval", "AGIEval SAT maths", "AGIEval LSAT analysis", "AGIEval LSAT logic",
                     "AGIEval LSAT reading", "AGIEval LogiQA", "AGIEval AQuA-RAT")
    },
    "AGIEval MATH": [
        {"question": "Hard?", "answer": "3", "other": {"solution": "S.", "level": 5, "type": "Algebra"}},
        {"question": "Easy?", "answer": "3", "other": {"solution": "S.", "level": 1, "type": "Algebra"}},
    ],
    "s1-prob": [{"question": "Show it.", "solution": "It is."}],
    "GPQA": [GPQA],
    "xword": [
        {"instruction": "Solve.", "input": f"### Clue: {i} (3)", "output": "ABC"} for i in range(1100)
    ],
    "USACO": [{"problem_id": "1", "question": " Cows. ", "test_cases": "[]"}],
    "s1-teasers": [{"Question": "A bet.", "Answer": "3"}],
    "LiveCodeBench": [
        {"question_content": "Sort.", "difficulty": "hard", "platform": "leetcode", "question_id": "a"},
        {"question_content": "Add.", "difficulty": "easy", "platform": "leetcode", "question_id": "b"},
    ],
    "AIME": [
        {"ID": f"{year}-I-1", "Year": year, "Problem Number": 1, "Question": f"In {year}?", "Answer": "3", "Part": "I"}
        for year in (1983, 2021, 2022, 2024)
    ],
    "s1K-1.1": [
        {"question": f"How many {word}s are left of {n}?", "solution": "3", "cot_type": "math", "source_type": "AIME",
         "metadata": "{}", "gemini_thinking_trajectory": "g", "gemini_attempt": "3", "gemini_grade": "Yes",
         "deepseek_thinking_trajectory": f"Okay, {n} {word}s.", "deepseek_attempt": f"So **{n}**.\n\n\\boxed{{{n}}}"}
        for n, word in enumerate(("hen", "owl", "emu", "rook"), 2)
    ],
    "AIME24": [{"id": 60, "problem": "Aya walks.", "solution": "S.", "answer": "204", "url": "", "year": "2024"}],
    "MATH500": [MATH],
    "GPQA Diamond": [GPQA],
}  # fmt: skip


def save(source, folder, change=lambda table: table):
    """The table of a source of the recipe, in all its configurations and splits, each of them changed."""
    piece = 0
    for config in source.configs or [""]:
        tables = {}
        for split in source.splits:
            # Every configuration and split has questions of its own.
            rows = [{k: _numbered(k, v, piece) for k, v in row.items()} for row in ROWS[source.name]]
            tables[split], piece = change(datasets.Dataset.from_list(rows)), piece + 1
        datasets.DatasetDict(tables).save_to_disk(str(folder / config))


def _numbered(column, value, piece):
    return f"{value} ({piece})" if piece and column in ("question", "problem") else value
