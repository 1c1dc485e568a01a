"""False negatives: which are asked about, what becomes of them, and how many a judge that errs finds."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

import tools.mine_negatives as script
from trainings import write_rows
from utils import cli
from utils.corpus.documents import Corpus
from utils.data.mining import Margin, Mined
from utils.data.relabelling import (
    CALLS_PER_ROW,
    DROPPED,
    KEPT,
    LISTED,
    RELABELLED,
    Finding,
    Steps,
    Suspect,
    by_margin,
    by_teacher,
    corrected,
    provenance,
    suspects_of,
)
from utils.data.rows import read_examples
from utils.errors import EXIT_UNUSABLE_INPUT
from utils.schema import ContrastiveExample, Document, Outcome, Verdict
from utils.teachers.base import Teacher

pytestmark = pytest.mark.usefixtures("one_thread")

YES, NO = Verdict(Outcome.USABLE, "yes"), Verdict(Outcome.UNUSABLE, "no")
SILENT = Verdict(Outcome.ERROR, "no reply")
ROWS = [
    ContrastiveExample("q0", ["p0"], ["far", "near"], [2.0], [-3.0, 1.5]),
    ContrastiveExample("q1", ["p1", "p1b"], ["above", "below"], [3.0, 1.0], [1.2, -1.0], [3, 2]),
]


class Scripted(Teacher):
    """Gives the variants of a script."""

    variants = 3

    def __init__(self, script: dict[str, Sequence[Verdict]]) -> None:
        self.script, self.asked = script, list[tuple[str, str, tuple[str, ...], int]]()

    async def relevant(self, query: str, positive: str, passages: Sequence[str], variant: int = 0) -> list[Verdict]:
        self.asked.append((query, positive, tuple(passages), variant))
        return [self.script[one][variant] for one in passages]


def ask(teacher: Teacher, calls: float = 99, steps: Steps = Steps()) -> dict[str, Finding]:  # noqa: B008
    findings, _ = asyncio.run(by_teacher(ROWS, suspects_of(ROWS), teacher, calls, steps))
    return {one.suspect.passage: one for one in findings}


def test_the_most_suspicious_come_first() -> None:
    assert [one.passage for one in suspects_of(ROWS)] == ["above", "near", "below", "far"]
    assert [round(one.excess, 1) for one in suspects_of(ROWS)] == [0.2, -0.5, -2.0, -5.0]


def test_certain_ones_are_relabelled_and_likely_ones_dropped() -> None:
    verdicts = {"above": [YES] * 3, "near": [NO, YES, YES], "below": [NO] * 3, "far": [YES, NO, NO]}
    teacher = Scripted(verdicts)
    found = ask(teacher)
    decisions = {passage: one.decision for passage, one in found.items()}
    assert decisions == {"above": RELABELLED, "near": DROPPED, "below": KEPT, "far": KEPT}
    assert [one.outcome for one in found["near"].verdicts] == [one.outcome for one in verdicts["near"]]
    assert ("q1", "p1", ("above", "below"), 1) in teacher.asked
    assert len(teacher.asked) == 6
    assert corrected(ROWS, found.values()) == [
        ContrastiveExample("q0", ["p0"], ["far"], [2.0], [-3.0]),
        ContrastiveExample("q1", ["p1", "p1b", "above"], ["below"], [3.0, 1.0, 1.2], [-1.0], [3, 2, 2]),
    ]
    relabel, drop, neither = (ask(teacher, steps=Steps(*one)) for one in ((False, True), (True, False), (False, False)))
    assert [relabel[one].decision for one in ("above", "near")] == [DROPPED, DROPPED]
    assert [drop[one].decision for one in ("above", "near")] == [RELABELLED, KEPT]
    assert {one.decision for one in neither.values()} == {KEPT}


def test_silence_is_no_vote() -> None:
    found = ask(Scripted({"above": [SILENT] * 3, "near": [SILENT, YES, YES], "below": [NO] * 3, "far": [NO] * 3}))
    assert (found["above"].decision, found["near"].decision) == (KEPT, RELABELLED)


def test_calls_are_never_exceeded_and_long_rows_take_several() -> None:
    for calls in range(8):
        teacher = Scripted({passage: [YES, NO, YES] for passage in ("above", "near", "below", "far")})
        found = ask(teacher, calls)
        assert len(teacher.asked) == min(calls, 6)
        assert len(found) == min(2 * calls, 4)
    names = [f"n{i}" for i in range(LISTED + 1)]
    row = ContrastiveExample("q", ["p"], names, [0.0], [-float(i) for i in range(LISTED + 1)])
    teacher = Scripted({name: [NO] * 3 for name in names})
    findings, asked = asyncio.run(by_teacher([row], suspects_of([row]), teacher, 99, Steps()))
    assert {passages for _, _, passages, _ in teacher.asked} == {tuple(names[:LISTED]), tuple(names[LISTED:])}
    assert (len(findings), asked) == (LISTED + 1, 6)
    assert asyncio.run(by_teacher([], [], teacher, 99, Steps())) == ([], 0)


def test_the_rerankers_scores_tell_what_a_single_answer_is_worth() -> None:
    names = [f"n{i}" for i in range(400)]
    scores = [1.0 if i < 200 else -1.0 for i in range(400)]
    rows = [ContrastiveExample(name, ["p"], [name], [0.0], [score]) for name, score in zip(names, scores, strict=True)]
    script = {f"n{i}": [YES if i < 100 or i == 399 else NO] * 3 for i in range(400)}
    findings, _ = asyncio.run(by_teacher(rows, suspects_of(rows), Scripted(script), 400, Steps()))
    believed = {one.suspect.passage: one.probability or 0.0 for one in findings if len(one.verdicts) == 1}
    assert believed.get("n0", 1.0) > 0.85
    assert fmean(value for name, value in believed.items() if int(name[1:]) in range(200, 399)) < 0.02


def test_without_a_teacher_the_margin_decides() -> None:
    margin = Margin(absolute=1.0)
    found = by_margin(suspects_of(ROWS), margin, Steps())
    assert [(one.suspect.passage, one.decision) for one in found] == [("above", DROPPED), ("near", DROPPED)]
    assert [one.decision for one in by_margin(suspects_of(ROWS), margin, Steps(drop=False))] == [KEPT, KEPT]


def test_provenance_joins_ranks_and_verdicts() -> None:
    mined = [Mined(0, Document("d7", "", "near"), 4, 1.5), Mined(0, Document("d9", "", "far"), 8, -3.0)]
    found = [Finding(Suspect(0, "near", 1.5, 2.0), DROPPED, 0.71234, (YES, NO, YES))]
    near, far = provenance(ROWS, mined, found)
    assert (near["row"], near["id"], near["rank"], near["score"], near["positive_score"]) == (1, "d7", 4, 1.5, 2.0)
    assert (near["label"], near["probability"]) == (DROPPED, 0.7123)
    assert [one["outcome"] for one in near["verdicts"]] == ["usable", "unusable", "usable"]
    assert (far["passage"], far["rank"], far["label"], far["verdicts"]) == ("far", 8, KEPT, [])


class NoisyJudge(Teacher):
    """Knows the truth, and errs once in ten, anew each time."""

    variants = 3

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    async def relevant(self, query: str, positive: str, passages: Sequence[str], variant: int = 0) -> list[Verdict]:
        return [YES if ("false" in one) != (self.rng.random() < 0.1) else NO for one in passages]


def noisy_rows(rng: random.Random, negatives: int, distance: float) -> list[ContrastiveExample]:
    """A thousand rows, one negative being false in 200; true ones score so many deviations below false ones."""
    wrong = set(rng.sample(range(1000), 200))
    rows = []
    for i in range(1000):
        names = [f"{'false' if i in wrong and j == 0 else 'true'} {i} {j}" for j in range(negatives)]
        scores = [rng.gauss(0 if name.startswith("false") else -distance, 1) for name in names]
        rows.append(ContrastiveExample(f"q{i}", [f"p{i}"], names, [0.0], scores))
    return rows


@pytest.mark.parametrize(("negatives", "distance"), [(1, 2.0), (3, 2.0), (7, 3.0)])
def test_planted_false_negatives_are_found_by_a_judge_that_errs(negatives: int, distance: float) -> None:
    found, lost = [], []
    for seed in range(5):
        rng = random.Random(seed)
        rows = noisy_rows(rng, negatives, distance)
        calls = CALLS_PER_ROW * len(rows)
        findings, asked = asyncio.run(by_teacher(rows, suspects_of(rows), NoisyJudge(rng), calls, Steps()))
        assert asked <= calls
        caught = [one.suspect.passage.startswith("false") for one in findings if one.decision != KEPT]
        found.append(sum(caught) / 200)
        lost.append((len(caught) - sum(caught)) / (1000 * negatives - 200))
    assert fmean(found) >= 0.92
    assert min(found) >= 0.9
    assert fmean(lost) <= 0.018
    assert max(lost) <= 0.025


@pytest.mark.usefixtures("second_documents")
def test_one_command_mines_and_corrects(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = list(Corpus(tmp_path / "corpus.jsonl"))[:6]
    rows = [{"query": f"What is told of {one.title}?", "pos": [one.text]} for one in documents]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    argv = ["--config", str(config_file), "--train_data", str(data), "--num_negatives", "20", "--range_max", "30"]
    argv += ["--calls_per_row", "20"]
    script.main([*argv, "--output_file", str(tmp_path / "mined.jsonl")])
    found = read_examples([tmp_path / "mined.jsonl"])
    known = [json.loads(line) for line in (tmp_path / "mined.provenance.jsonl").read_text().splitlines()]
    assert [row.query for row in found] == [row["query"] for row in rows]
    labels = [one["label"] for one in known if one["row"] == 1]
    assert len(labels) == 20
    assert len(found[0].neg) == labels.count(KEPT)
    assert len(found[0].pos) == 1 + labels.count(RELABELLED)
    assert {"passage", "id", "rank", "score", "positive_score", "verdicts"} <= known[0].keys()
    assert any(one["label"] != KEPT for one in known)
    assert "120 negatives mined" in capsys.readouterr().out


def test_a_margin_is_needed_without_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run(script.main, ["--judge", "margin", "--output_file", str(tmp_path / "out.jsonl")])
    assert stop.value.code == EXIT_UNUSABLE_INPUT
    assert "--judge margin needs --absolute_margin" in capsys.readouterr().err
