"""Groups, pairs and micro-batches: what is drawn, encoded and planned."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from utils.models.lengths import Lengths
from utils.schema import ContrastiveExample
from utils.training import groups
from utils.training.groups import plan_micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")


ROW = ContrastiveExample("q", ["p0", "p1"], ["n0", "n1", "n2", "n3"], [10.0, 11.0], [0.0, 1.0, 2.0, 3.0])
LENGTHS = [30, 7, 120, 64, 8, 9, 100, 31]


def test_pairs_are_encoded_as_flagembedding_does(tiny_reranker: Path) -> None:
    from FlagEmbedding.abc.finetune.reranker import AbsRerankerDataArguments, AbsRerankerTrainDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    theirs = AbsRerankerTrainDataset.__new__(AbsRerankerTrainDataset)
    theirs.tokenizer = tokenizer
    theirs.args = AbsRerankerDataArguments(train_data=[], query_max_len=16, passage_max_len=24)
    passages = ["Arden lies on a river.", "Belmont holds a market each week. " * 9]
    ours = groups.encode_pairs(tokenizer, "what of arden?", passages, Lengths(16, 24))
    assert ours == [dict(theirs.create_one_example("what of arden?", p)) for p in passages]
    assert len(ours[1]["input_ids"]) == 40


def test_long_query_leaves_the_passage_its_room(tiny_reranker: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    (pair,) = groups.encode_pairs(tokenizer, "a b c d e " * 20, ["z " * 90], Lengths(16, 24))
    kept = tokenizer.decode(pair["input_ids"]).split("[SEP]")
    assert len(pair["input_ids"]) == 40
    assert kept[0].split() == ["[CLS]", *"abcdeabcdeabcdea"]
    assert kept[1].split() == ["z"] * 21


def test_groups_keep_scores_beside_their_passages() -> None:
    scores = {"p0": 10.0, "p1": 11.0, "n0": 0.0, "n1": 1.0, "n2": 2.0, "n3": 3.0}
    for seed in range(20):
        places, own = groups.draw_group(ROW, 4, random.Random(seed)), groups.row_scores(ROW)
        passages, drawn = [ROW.passages[i] for i in places], [own[i] for i in places]
        assert passages[0] in ROW.pos
        assert len(set(passages[1:])) == 3
        assert set(passages[1:]) <= set(ROW.neg)
        assert drawn == [scores[passage] for passage in passages]


def test_few_negatives_are_repeated_evenly() -> None:
    places = groups.draw_group(ROW._replace(neg=["n0", "n1"], neg_scores=None), 6, random.Random(0))
    assert sorted(places[1:].count(place) for place in (2, 3)) == [2, 3]


def test_graded_rows_show_positives_beside_each_other() -> None:
    row = ROW._replace(pos=["p0", "p1", "p2"], pos_scores=None, pos_grades=[3, 1, 2])
    for size, positives in ((2, 1), (4, 2), (8, 3)):
        places = groups.draw_group(row, size, random.Random(0))
        assert [place < 3 for place in places] == [True] * positives + [False] * (size - positives)
        assert len(set(places[:positives])) == positives
    assert sum(place < 2 for place in groups.draw_group(ROW, 4, random.Random(0))) == 1  # without grades


def test_scores_are_nan_where_a_row_has_none() -> None:
    filled = ROW._replace(neg=[*ROW.neg, "of another row"])
    assert str(groups.row_scores(filled)) == "[10.0, 11.0, 0.0, 1.0, 2.0, 3.0, nan]"
    for bare in (ROW._replace(pos_scores=None), ROW._replace(neg_scores=None)):
        assert str(groups.row_scores(bare)) == str([math.nan] * 6)


def test_draws_depend_on_seed_epoch_and_row_alone(tiny_reranker: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)

    def items(seed: int, epoch: int, order: list[int]) -> list[Any]:
        dataset = groups.TrainingGroups([ROW] * 8, tokenizer, Lengths(16, 16), 3, seed)
        dataset.epoch = epoch
        drawn = {row: dataset[row] for row in order}
        return [drawn[row] for row in range(8)]

    forwards, backwards = list(range(8)), list(range(7, -1, -1))
    assert items(1, 0, forwards) == items(1, 0, backwards)
    assert items(1, 0, forwards) != items(1, 1, forwards)
    assert items(1, 0, forwards) != items(2, 0, forwards)
    assert len({str(item) for item in items(1, 0, forwards)}) > 1


def test_scores_of_both_kinds_belong_to_the_drawn_passages(tiny_reranker: Path) -> None:
    from transformers import AutoTokenizer

    own = groups.row_scores(ROW)
    close = [100 + score for score in own]
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    dataset = groups.TrainingGroups([ROW] * 8, tokenizer, Lengths(16, 16), 4, 1, distil=True, close=[close] * 8)
    batch = groups.collate([dataset[row] for row in range(8)])
    assert batch["close_scores"] == [100 + score for score in batch["teacher_scores"]]
    assert set(batch["teacher_scores"][::4]) <= {10.0, 11.0}  # positives come first
    bare = groups.TrainingGroups([ROW], tokenizer, Lengths(16, 16), 4, 1)
    assert bare[0][1:] == ([1, 0, 0, 0], None, None)
    graded = groups.TrainingGroups([ROW._replace(pos_grades=[2, 3])], tokenizer, Lengths(16, 16), 4, 1)
    assert sorted(graded[0].grades or []) == [0, 0, 2, 3]


def test_plan_holds_the_budget_and_every_pair_once() -> None:
    plan = plan_micro_batches(LENGTHS, 130, 8)
    assert sorted(i for part in plan for i in part) == list(range(8))
    assert plan[0] == [2]
    for part in plan:
        width = -(-max(LENGTHS[i] for i in part) // 8) * 8
        assert len(part) == 1 or len(part) * width <= 130
    assert plan_micro_batches([5000], 130) == [[0]]


def test_passes_of_recurring_shapes_where_each_costs_something() -> None:
    rng = random.Random(1)
    shapes = set()
    for _ in range(200):
        lengths = [rng.randint(20, 1024) for _ in range(64)]
        plan = plan_micro_batches(lengths, 65536, 128, overhead=8192)
        assert sorted(i for part in plan for i in part) == list(range(64))
        widths = [groups.round_up(max(lengths[i] for i in part), 128) for part in plan]
        assert widths == sorted(widths, reverse=True)
        cost = sum(len(part) * width + 8192 for part, width in zip(plan, widths, strict=True))
        assert cost <= 64 * widths[0] + 8192  # one pass is no cheaper
        shapes |= {(len(part), width) for part, width in zip(plan, widths, strict=True)}
    assert {rows % 8 for rows, _ in shapes} == {0}
    assert len(shapes) < 40


@pytest.mark.parametrize("pairs", [1, 3, 8, 63])
@pytest.mark.parametrize("tokens", [1, 130, 4096])
def test_costly_passes_hold_the_budget_too(pairs: int, tokens: int) -> None:
    lengths = (LENGTHS * 8)[:pairs]
    plan = plan_micro_batches(lengths, tokens, 8, overhead=100)
    assert sorted(i for part in plan for i in part) == list(range(pairs))
    for part in plan:
        assert len(part) == 1 or len(part) * groups.round_up(max(lengths[i] for i in part), 8) <= tokens
    assert plan_micro_batches([], tokens, 8, overhead=100) == []
