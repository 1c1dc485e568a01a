r"""Fine-tune a reranker on query/pos/neg rows, on GPUs or the CPU, in one process or several.

    python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --epochs 2
    python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --batch_size 16 \
        --gradient_accumulation_steps 4 --learning_rate 5e-6 --use_deepspeed --ds_config ./ds_stage0.json
    CUDA_VISIBLE_DEVICES=0,1 python train_reranker.py --num_gpus 2 --output_dir ./output_new

The folder that it writes loads as it is in FlagEmbedding (FlagReranker), sentence-transformers (CrossEncoder)
and transformers. Progress goes to stderr, the folder's name to stdout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils import cli, training
from utils.training import TrainingSettings


def main(argv: list[str] | None = None) -> int:
    """Check the inputs, train in this process or launch several, and say where the model is."""
    argv = sys.argv[1:] if argv is None else argv
    job = training.prepare(parse_settings(argv))
    processes = training.count_processes(job.settings)
    if processes > 1:
        return training.launch(__file__, argv, processes)
    folder = training.run(job)
    if training.is_main_process():
        report(folder)
    return 0


def parse_settings(argv: list[str]) -> TrainingSettings:
    """Return the settings that a command line asks for."""
    values = vars(build_parser().parse_args(argv))
    del values["local_rank"]
    return TrainingSettings(**values)


def build_parser() -> cli.Parser:
    """Return the parser of this script's flags; the defaults are those of :class:`TrainingSettings`."""
    parser = cli.Parser(__doc__.partition("\n")[0] if __doc__ else None)
    add_inputs(parser)
    add_optimisation(parser)
    add_groups(parser)
    add_devices(parser)
    add_records(parser)
    # DeepSpeed's launcher adds this flag to the script's; the environment says the same.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    parser.set_defaults(**vars(TrainingSettings()))
    return parser


def add_inputs(parser: cli.Parser) -> None:
    """Add what is read and what is written."""
    data = " ".join(TrainingSettings.train_data)
    add = parser.add_argument
    add("--model_path", "--model_name_or_path", help="folder of the reranker, or encoder, to start from")
    add("--train_data", nargs="+", metavar="PATH", help=f"JSONL files, or folders of them (default: {data})")
    add("--output_dir", help="folder for the trained model")
    flag(parser, "--overwrite_output_dir", "replace the model and the checkpoints in --output_dir")
    add("--cache_dir", help="where transformers keeps downloaded files")
    add("--cache_path", help="accepted for older commands; reading the data needs no cache")


def add_optimisation(parser: cli.Parser) -> None:
    """Add how long and how fast to learn."""
    add = parser.add_argument
    add("--epochs", "--num_train_epochs", type=float, help="passes over the data")
    add("--batch_size", "--per_device_train_batch_size", type=int, help="rows (groups) a device and step")
    add("--gradient_accumulation_steps", type=int, help="batches whose gradients are summed before a step")
    add("--learning_rate", type=float, help="peak learning rate")
    add("--warmup_ratio", type=float, help="share of the steps in which the learning rate rises")
    add("--weight_decay", type=float, help="AdamW's weight decay")
    add("--seed", type=int, help="seed of the order, the draws and the dropout")


def add_groups(parser: cli.Parser) -> None:
    """Add how rows become groups of pairs, and pairs become tokens."""
    add = parser.add_argument
    add("--train_group_size", type=int, help="passages a query and step: one positive, the rest negatives")
    add("--query_max_len", type=int, help="longest query in tokens")
    add(
        "--passage_max_len",
        type=int,
        help="longest passage in tokens (default: what the query leaves)",
    )
    add(
        "--pad_to_multiple_of",
        type=int,
        help="pad to a multiple of so many tokens; 0 pads no further",
    )
    flag(parser, "--knowledge_distillation", "also learn from the rows' pos_scores and neg_scores")


def add_devices(parser: cli.Parser) -> None:
    """Add where to train, and in which precision."""
    add = parser.add_argument
    add(
        "--num_gpus",
        type=int,
        help="processes to train in (default: as many as GPUs are visible, or 1)",
    )
    flag(parser, "--use_deepspeed", "train with DeepSpeed")
    add("--ds_config", "--deepspeed_config", help="DeepSpeed's configuration, with --use_deepspeed")
    flag(parser, "--fp16", "mixed precision in fp16")
    flag(parser, "--bf16", "mixed precision in bf16")
    flag(parser, "--no_mixed_precision", "fp32 (default: bf16 or else fp16 on a GPU, fp32 on a CPU)")
    flag(parser, "--gradient_checkpointing", "recompute activations to spare memory (default: on a GPU only)")
    parser.add_argument(
        "--no-gradient_checkpointing", "--no_gradient_checkpointing", dest="gradient_checkpointing",
        action="store_false", help="keep activations (default: on a CPU only)",
    )  # fmt: skip


def add_records(parser: cli.Parser) -> None:
    """Add what a run leaves beside the model."""
    add = parser.add_argument
    add("--save_steps", type=int, help="steps between checkpoints; 0 writes none")
    add("--save_total_limit", type=int, help="checkpoints to keep")
    add("--report_to", choices=training.REPORTERS, help="where the loss is logged beside the progress bar")


def flag(parser: cli.Parser, name: str, text: str) -> None:
    """Add a flag that is given alone, or with true or false as older commands give it."""
    parser.add_argument(name, nargs="?", const=True, type=parse_bool, metavar="BOOL", help=text)


def parse_bool(text: str) -> bool:
    """Return the truth value that a flag's argument spells."""
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"true or false is wanted, not {text!r}") from None


def report(folder: Path) -> None:
    """Say where the model is and what to run next."""
    print(f"model: {folder}")
    if any(folder.glob("checkpoint-*")):
        print("its checkpoint-* folders hold the optimizer's state as well; they may be deleted")
    print(f"next: python test_reranker.py --model_path {folder} --test_data ./data/test_data.jsonl")


if __name__ == "__main__":
    cli.run(main)
