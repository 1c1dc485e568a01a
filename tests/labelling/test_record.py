"""The record of a judged source: what it says by hand, in files, and in files of version 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miniature import CORPUS
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.evaluation.run_comparison import Run
from utils.labelling.record import ARM, JudgedSource, Trial
from utils.schema import BridgeEntity, Outcome, SubQuestion, Verdict

HOPS = (SubQuestion("Which?", "the lake", "A"), SubQuestion("What of it?", "its depth", "B"))
USABLE = Verdict(Outcome.USABLE, "says it", HOPS)
UNUSABLE, ERROR = Verdict(Outcome.UNUSABLE, "says nothing"), Verdict(Outcome.ERROR, "no answer")
LAKE = BridgeEntity("Lake Merrow", "lake", "a town on Lake Merrow", "How deep is Lake Merrow?")
DATA = Path(__file__).parents[1] / "fixtures"


def source(*verdicts: Verdict, entity: BridgeEntity | None = LAKE, error: str | None = None) -> JudgedSource:
    ids = [str(number) for number in range(1, 6)]
    return JudgedSource("0", entity, {ARM: Trial(ids, list(verdicts))} if entity else {}, error)


def test_outcomes_by_hand() -> None:
    assert source(UNUSABLE, USABLE).outcome == "example"
    assert source(ERROR, UNUSABLE, USABLE).outcome == "example"
    assert source(ERROR, USABLE).outcome == "error"
    assert source(UNUSABLE, UNUSABLE).outcome == source().outcome == "no positive"
    assert source(USABLE).outcome == "no negative"
    assert source(entity=None).outcome == "no entity"
    assert source(entity=None, error="timeout").outcome == "error"


def test_unanswered_is_only_what_has_no_answer_at_all() -> None:
    assert source(entity=None, error="timeout").unanswered
    assert source(ERROR, ERROR).unanswered
    assert not any(one.unanswered for one in (source(ERROR, UNUSABLE), source(), source(entity=None)))
    assert source(ERROR, UNUSABLE).complaint == "no answer"
    assert source(entity=None, error="timeout").complaint == "timeout"
    assert source(UNUSABLE).complaint is None


def test_an_error_leaves_a_trial_open() -> None:
    failed, ended = source(UNUSABLE, ERROR), source(UNUSABLE, USABLE)
    assert failed.decided(ARM) is None
    assert failed.trials[ARM].to_json()["attempts"] is failed.trials[ARM].to_json()["success"] is None
    trial = ended.decided(ARM)
    assert trial is not None
    assert (trial.attempts, trial.success, trial.within(1).success) == (2, True, False)
    assert ended.decided("zs") is None


def test_example_has_each_text_once_and_no_positive_as_negative(tmp_path: Path) -> None:
    texts = ["source", "deep", "deep", "dry", "dry", "wet"]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": i, "contents": text}) + "\n" for i, text in enumerate(texts)))
    corpus = Corpus(path)
    example = source(USABLE, UNUSABLE, UNUSABLE, UNUSABLE, ERROR).example(corpus)
    assert example is not None
    assert (example.query, example.pos, example.neg) == (LAKE.query, ["deep"], ["dry"])
    assert source(USABLE, UNUSABLE).example(corpus) is None  # the only negative is the positive's text
    assert source(USABLE).example(corpus) is None


def test_files_keep_all_of_a_source() -> None:
    two = JudgedSource("7", LAKE, {"zs": Trial(["1", "2"], [UNUSABLE, USABLE]), ARM: Trial(["2"], [USABLE])})
    hashed = two._replace(text_hash="a1", trials={ARM: Trial(["2"], [USABLE._replace(text_hash="b2")])})
    others = source(), source(entity=None), source(entity=None, error="timeout"), two._replace(trials={})
    for one in (two, hashed, *others):
        assert JudgedSource.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert two.verdicts == {"1": UNUSABLE, "2": USABLE}


def test_an_example_never_holds_another_text_than_was_judged(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"id": i, "contents": text}) + "\n" for i, text in enumerate(["source", "deep", "dry"])]
    path.write_text("".join(rows))
    corpus = Corpus(path)
    verdicts = [v._replace(text_hash=corpus.get(i).text_hash) for v, i in ((USABLE, "1"), (UNUSABLE, "2"))]
    one = source(*verdicts)._replace(text_hash=corpus.get("0").text_hash)
    assert one.is_about(corpus.get("0"), corpus)
    assert not one.is_about(corpus.get("1"), corpus)
    for document_id, old, new in (("0", "source", "SOURCE"), ("1", "deep", "dull"), ("2", "dry", "wet")):
        path.write_text("".join(rows).replace(old, new))  # in place: the file that is open changes
        assert not one.is_about(corpus.get("0"), corpus)
        with pytest.raises(InputError, match=f'document "{document_id}" is not what was judged'):
            (one.example(corpus), one.text("0", corpus))
    path.write_text("".join(rows))
    assert one.example(corpus) == (LAKE.query, ["deep"], ["dry"], None, None, None)


def test_what_a_candidate_says_is_kept() -> None:
    told = USABLE._replace(doc_b_segment="It has two outlets.")
    row = JudgedSource("7", LAKE, {ARM: Trial(["2"], [told])}).to_json()
    assert row["arms"][ARM]["verdicts"][0]["doc_b_segment"] == "It has two outlets."
    assert JudgedSource.from_json(row).verdicts == {"2": told}


def test_rows_of_a_generator_of_version_1_are_read() -> None:
    rows = [json.loads(line) for line in (DATA / "provenance_v1.jsonl").read_text().splitlines()[1:]]
    for row in rows:
        one = JudgedSource.from_json(row)
        assert (one.source, one.outcome) == (row["source"], row["outcome"])
        if row["entity"] is None:
            assert not one.trials
            continue
        assert one.entity is not None
        assert one.entity._asdict() == row["entity"]
        trial = one.trials[ARM].to_json()
        assert trial["retrieved"] == row["retrieved"]
        assert trial["verdicts"] == [verdict | {"doc_b_segment": "", "text_hash": ""} for verdict in row["verdicts"]]
    assert {"example", "no positive"} <= {row["outcome"] for row in rows}
    assert any(JudgedSource.from_json(row).example(Corpus(CORPUS)) for row in rows)


def test_a_result_file_of_version_1_is_read() -> None:
    run = Run.read(str(DATA / "ablation_v1.json"))
    rows = json.loads(run.path.read_text())["sources"]
    sources = run.result.sources
    assert len(sources) == len(rows) == 3
    for one, row in zip(sources, rows, strict=True):
        assert one.entity is not None
        assert (one.entity.name, one.entity.type, one.entity.segment) == (row["entity"], row["type"], row["segment"])
        assert one.query == row["query"]
        decided = one.decided(ARM)
        assert decided is not None
        assert (decided.success, decided.attempts) == (row["arms"][ARM]["success"], row["arms"][ARM]["attempts"])
    failed = {**rows[0], "entity": None, "type": None, "segment": None, "query": None, "error": "timeout", "arms": {}}
    assert JudgedSource.from_json(failed) == JudgedSource(rows[0]["source"], None, {}, "timeout")


@pytest.mark.parametrize(
    "damage",
    [
        {"source": None}, {"source": ["1"]}, {"entity": ["a"], "query": ["q"]}, {"arms": []}, {"arms": {"x": [1]}},
        {"arms": {"x": {"retrieved": "ab", "verdicts": []}}}, {"arms": {"x": {"retrieved": [1], "verdicts": []}}},
        {"arms": {"x": {"retrieved": [], "verdicts": [{"outcome": "usable", "reason": "more than retrieved"}]}}},
        {"arms": {"x": {"retrieved": ["a"], "verdicts": [{"outcome": "fine", "reason": ""}]}}}, {"error": 5},
    ],
)  # fmt: skip
def test_a_damaged_row_is_no_record(damage: dict) -> None:
    row = JudgedSource("1", None, {}).to_json()
    assert JudgedSource.from_json(row).source == "1"
    with pytest.raises(ValueError, match=r"must be|more verdicts"):
        JudgedSource.from_json(row | damage)
