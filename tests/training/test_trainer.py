"""Trainings that diverge or cannot write, and what they keep."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from trainings import distillation_by_hand, softmax, train_evaluated, weights, write_rows
from utils.errors import InputError, RunError
from utils.training import checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


def test_full_disk_keeps_complete_checkpoints(
    tiny_reranker: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.training import trainer

    save = trainer.RerankerTrainer._save_optimizer_and_scheduler

    def fill(self: Any, folder: str) -> None:
        save(self, folder)
        if self.state.global_step == 8:
            os.truncate(Path(folder) / "optimizer.pt", 99)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.RerankerTrainer, "_save_optimizer_and_scheduler", fill)
    with pytest.raises(RunError, match=r"checkpoint-8 .*No space left on device.*resume with --resume"):
        train_evaluated(tiny_reranker, data, tmp_path / "out", "--save_total_limit", "1")
    assert [*(tmp_path / "out").glob("checkpoint-*")] == [checkpoints.last_complete(tmp_path / "out")]
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    assert not (tmp_path / "out" / checkpoints.STAGING).exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_loss_of_nan_stops_the_training(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    from utils.training import fit

    def explode(self: Any, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            next(model.parameters()).data.fill_(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.StepCallback, "on_step_begin", explode, raising=False)
        with pytest.raises(RunError, match=r"stopped at step 6: the loss is nan; the best model, of step 4, is in"):
            train_evaluated(tiny_reranker, data, tmp_path / "out")


def test_equal_scores_stop_the_training(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    flat = spoil(tiny_reranker, tmp_path / "flat", "classifier.weight", 0.0)
    flags = ("--learning_rate", "1e-12", "--eval_fraction", "0", "--epochs", "2", "--save_steps", "0")
    with pytest.raises(RunError, match="all scores are the same in 20 batches in a row; there is no checkpoint yet"):
        train_evaluated(flat, data, tmp_path / "out", *flags)
    with pytest.raises(RunError, match="all held-out pairs have the same score"):
        train_evaluated(flat, data, tmp_path / "other", "--learning_rate", "1e-12")


def test_a_weight_of_nan_is_refused(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    broken = spoil(tiny_reranker, tmp_path / "broken", "bert.pooler.dense.bias", float("nan"))
    with pytest.raises(InputError, match=r"weights that are not finite \(bert.pooler.dense.bias\)"):
        train_evaluated(broken, data, tmp_path / "out")


@pytest.mark.parametrize(
    ("longest", "multiple", "expected"), [(8192, 8, 128), (1024, 8, 128), (512, 8, 64), (504, 8, 8), (160, 8, 16),
                                          (32, 8, 8), (8192, 1, 1), (8192, 256, 256)],
)  # fmt: skip
def test_a_gpu_sees_few_widths(longest: int, multiple: int, expected: int) -> None:
    from utils.training.fit import few_widths

    assert few_widths(longest, multiple) == expected


ROWS = [
    {"query": f"what of {n}?", "pos": [f"a river {n}"], "neg": [f"the market {n}", f"a lake {n}"],
     "pos_scores": [n / 5], "neg_scores": [2.0, -1.0]}
    for n in range(8)
]  # fmt: skip


def first_batch(
    model: Path, data: Path, output: Path, **chosen: Any
) -> tuple[dict[str, Any], list[list[float]], float]:
    """Return a batch of all groups with the scores and the loss that a trainer's model gives before its first step."""
    from utils.training import fit
    from utils.training.job import prepare
    from utils.training.settings import TrainingSettings

    sizes = {"train_group_size": 3, "eval_fraction": 0, "no_mixed_precision": True, "passage_max_len": 64}
    job = prepare(TrainingSettings(str(model), [str(data)], output_dir=str(output), **(sizes | chosen)))
    trainer = fit.make_trainer(job, fit.training_arguments(job), fit.memory_budget(job))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    found = trainer.model.train()(**trainer._prepare_inputs(batch))
    return batch, in_groups(found.scores.flatten().tolist()), found.loss.item()


def labels_by_hand(scores: list[list[float]]) -> list[float]:
    return [-math.log(softmax(group)[0]) for group in scores]


def in_groups(values: list[float], size: int = 3) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def test_soft_labels_alone_are_the_distillation(still_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", ROWS)
    chosen = {"knowledge_distillation": True, "soft_labels_only": True}
    batch, scores, loss = first_batch(still_model, data, tmp_path / "out", **chosen)
    targets = in_groups(batch["teacher_scores"])
    assert [sorted(group) for group in targets] == [sorted([n / 5, 2.0, -1.0]) for n in range(8)]
    assert loss == pytest.approx(distillation_by_hand(scores, targets), rel=1e-4)


@pytest.mark.parametrize("soft_only", [True, False])
def test_rows_without_scores_learn_from_their_labels(soft_only: bool, still_model: Path, tmp_path: Path) -> None:
    """Of eight rows, two have no scores, two are one negative short, and two have one more than a group."""
    short = [row | {"neg": row["neg"][:1], "neg_scores": row["neg_scores"][:1]} for row in ROWS[2:4]]
    bare = [{key: row[key] for key in ("query", "pos", "neg")} for row in ROWS[:2]]
    more = [
        row | {"neg": [*row["neg"], f"a hill {i}"], "neg_scores": [2.0, -1.0, 0.5]} for i, row in enumerate(ROWS[4:6])
    ]
    data = write_rows(tmp_path / "train.jsonl", [*bare, *short, *more, *ROWS[6:]])
    chosen = {"knowledge_distillation": True, "soft_labels_only": soft_only}
    batch, scores, loss = first_batch(still_model, data, tmp_path / "out", **chosen)
    targets, labels = in_groups(batch["teacher_scores"]), labels_by_hand(scores)
    unknown = [[value != value for value in group] for group in targets]
    assert unknown == [[True] * 3] * 2 + [[False, False, True]] * 2 + [[False] * 3] * 4
    expected = []
    for ours, theirs, label in zip(scores, targets, labels, strict=True):
        known = [i for i, value in enumerate(theirs) if value == value]
        ours, theirs = [ours[i] for i in known], [theirs[i] for i in known]
        if soft_only:
            expected.append(distillation_by_hand([ours], [theirs]) if known else label)
        else:
            pairs = zip(softmax(theirs), softmax(ours), strict=True)
            expected.append(label - sum(p * math.log(q) for p, q in pairs))
    assert loss == pytest.approx(fmean(expected), rel=1e-4)


def test_grades_are_shares_of_the_target(still_model: Path, tmp_path: Path) -> None:
    graded = [row | {"pos": ["a river", "a bridge"], "pos_scores": None, "pos_grades": [3, 1]} for row in ROWS[:4]]
    data = write_rows(tmp_path / "train.jsonl", [*graded, *ROWS[4:]])
    batch, scores, loss = first_batch(still_model, data, tmp_path / "out", train_group_size=4)
    shares = [[grade / sum(group) for grade in group] for group in in_groups(batch["grades"], 4)]
    assert [max(group) for group in shares] == [0.75] * 4 + [1] * 4
    pairs = zip(shares, in_groups([score for group in scores for score in group], 4), strict=True)
    expected = [-sum(p * math.log(q) for p, q in zip(share, softmax(ours), strict=True)) for share, ours in pairs]
    assert loss == pytest.approx(fmean(expected), rel=1e-4)


def test_staying_close_adds_the_distance_from_a_reranker(still_model: Path, trained: Path, tmp_path: Path) -> None:
    from utils.scoring import open_reranker

    data = write_rows(tmp_path / "train.jsonl", ROWS)
    _, _, plain = first_batch(still_model, data, tmp_path / "out")
    _, _, base = first_batch(still_model, data, tmp_path / "out", keep_close=2.0)
    assert base == pytest.approx(plain, abs=1e-4)  # nothing has changed yet
    chosen = {"keep_close": 2.0, "keep_close_to": str(trained)}
    batch, scores, loss = first_batch(still_model, data, tmp_path / "out", **chosen)
    targets = in_groups(batch["close_scores"])
    assert loss == pytest.approx(plain + 2 * distillation_by_hand(scores, targets), rel=1e-4)
    teacher = open_reranker(trained, half=False)
    for row, found in zip(ROWS, targets, strict=True):
        own = teacher.score([(row["query"], text) for text in (*row["pos"], *row["neg"])])
        assert sorted(found) == pytest.approx(sorted(own.tolist()), abs=1e-4)


@pytest.mark.parametrize("flags", [[], ["--use_deepspeed"], ["--gradient_checkpointing"]])
def test_frozen_embeddings_stay_and_all_else_is_trained(
    flags: list[str], tiny_reranker: Path, data: Path, tmp_path: Path
) -> None:
    import torch

    # In half precision DeepSpeed would round them.
    flags = [*flags, "--freeze_embeddings", "--save_steps", "0", "--eval_fraction", "0", "--no_mixed_precision"]
    assert train_evaluated(tiny_reranker, data, tmp_path / "out", *flags) == 0
    base, found = weights(tiny_reranker), weights(tmp_path / "out")
    kept = {name for name in base if torch.equal(base[name], found[name])}
    assert kept == {"bert.embeddings.word_embeddings.weight"}


def spoil(model: Path, folder: Path, name: str, value: float) -> Path:
    """Copy a model and fill one of its weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].fill_(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
