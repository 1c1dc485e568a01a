"""The command line and the settings that it makes."""

from __future__ import annotations

import train_reranker
from utils.training.settings import TrainingSettings


def parse(argv: list[str]) -> TrainingSettings:
    return train_reranker.parse_settings(argv)[0]


def test_both_spellings_parse() -> None:
    new = parse(["--epochs", "3", "--batch_size", "16", "--use_deepspeed", "--ds_config", "d.json", "--fp16"])
    old = parse(
        [
            *("--num_train_epochs", "3", "--per_device_train_batch_size=16", "--use_deepspeed", "True"),
            *("--deepspeed_config", "d.json", "--fp16", "true", "--knowledge_distillation", "False"),
        ]
    )
    assert new == old
    assert parse([]) == TrainingSettings()
    assert parse(["--no-gradient_checkpointing"]).gradient_checkpointing is False
    micro_batch = parse(["--max_tokens_per_micro_batch", "64"])
    assert micro_batch == parse(["--max_tokens_per_chunk", "64"]) == TrainingSettings(max_tokens_per_micro_batch=64)
    assert [parse(["--resume", *value]).resume for value in ([], ["true"], ["out/checkpoint-4"])] == [
        True, True, "out/checkpoint-4",
    ]  # fmt: skip
