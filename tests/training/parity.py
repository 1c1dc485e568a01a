"""Train with FlagEmbedding's stock runner and with this project, and write both lots of losses as JSON.

    python parity.py MODEL DATA OUTPUT [plain] [deepspeed]      # also under torchrun

All in one process (or one group of processes), for starting one takes longer than the trainings.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "train_reranker"
sys.path.insert(0, str(SCRIPTS))
os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

from utils.training import launch
from utils.training.job import prepare
from utils.training.settings import TrainingSettings

GROUP, LENGTH, RATE = 4, 32, 1e-3


def ours(model: Path, data: Path, output: Path, batch: int, deepspeed: bool) -> list[float]:
    """Return the losses of this project's training."""
    settings = TrainingSettings(
        model_path=str(model), train_data=[str(data)], output_dir=str(output), epochs=2, batch_size=batch,
        learning_rate=RATE, query_max_len=LENGTH, passage_max_len=LENGTH, train_group_size=GROUP, save_steps=0,
        eval_fraction=0, report_to="none", use_deepspeed=deepspeed, no_mixed_precision=True,
        max_tokens_per_micro_batch=150, gradient_checkpointing=deepspeed,
    )  # fmt: skip
    job = prepare(settings)
    with launch.environment(deepspeed):
        from utils.training.fit import make_trainer, memory_budget, training_arguments

        trainer = make_trainer(job, training_arguments(job), memory_budget(job))
        trainer.train()
    return losses(trainer)


def stock(model: Path, data: Path, output: Path, batch: int, deepspeed: bool) -> list[float]:
    """Return the losses of FlagEmbedding's training."""
    with launch.environment(deepspeed):
        from FlagEmbedding.abc.finetune.reranker import (
            AbsRerankerDataArguments,
            AbsRerankerModelArguments,
            AbsRerankerTrainingArguments,
        )
        from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerRunner

        arguments = AbsRerankerTrainingArguments(
            output_dir=str(output), num_train_epochs=2, per_device_train_batch_size=batch, learning_rate=RATE,
            warmup_steps=0.1, weight_decay=0.01, save_strategy="no", logging_steps=1, report_to="none", seed=42,
            data_seed=42, use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
            deepspeed=str(SCRIPTS / "ds_stage0.json") if deepspeed else None,
        )  # fmt: skip
        runner = EncoderOnlyRerankerRunner(
            AbsRerankerModelArguments(model_name_or_path=str(model)),
            AbsRerankerDataArguments(
                train_data=[str(data)], train_group_size=GROUP, query_max_len=LENGTH, passage_max_len=LENGTH,
                pad_to_multiple_of=8,
            ),
            arguments,
        )  # fmt: skip
        runner.trainer.train()
    return losses(runner.trainer)


def losses(trainer: Any) -> list[float]:
    """Return what the trainer logged, a number a step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Run the trainings that are named and let the first process write their losses."""
    model, data, output, *modes = sys.argv[1:]
    batch = 4 // int(os.environ.get("WORLD_SIZE", "1"))
    found = {
        f"{run.__name__} {mode}": run(
            Path(model), Path(data), Path(output) / f"{run.__name__}-{mode}", batch, mode != "plain"
        )
        for mode in modes
        for run in (stock, ours)
    }
    if launch.is_main_process():
        Path(output, "losses.json").write_text(json.dumps(found))
    launch.leave_process_group()


if __name__ == "__main__":
    main()
