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

from utils import cli
from utils.errors import EXIT_REGRESSION
from utils.progress import log
from utils.training import dry_run, launch
from utils.training.held_out import BETTER, WORSE
from utils.training.job import NEGATIVE_FILLS, REPORTERS, TrainingSettings, prepare
from utils.training.run import Result, run


def main(argv: list[str] | None = None) -> int:
    """Check the inputs, train in this process or launch several, and say where the model is."""
    argv = sys.argv[1:] if argv is None else argv
    settings, options = parse_settings(argv)
    job = prepare(settings)
    processes = launch.count_processes(settings.num_gpus)
    if options.dry_run:
        print(dry_run.render(job, argv, processes))
        for note in job.facts.notes:
            log.warning("%s", note)
        return 0
    if processes > 1:
        return launch.launch(__file__, argv, processes)
    result = run(job)
    if not launch.is_main_process():
        return 0
    report(result)
    helped = result.difference is None or result.difference.verdict == BETTER
    return EXIT_REGRESSION if options.fail_on_regression and not helped else 0


def parse_settings(argv: list[str]) -> tuple[TrainingSettings, argparse.Namespace]:
    """Return the settings that a command line asks for, and what it wants beside the training."""
    values = vars(build_parser().parse_args(argv))
    options = argparse.Namespace(**{name: values.pop(name) for name in ("local_rank", "dry_run", "fail_on_regression")})
    return TrainingSettings(**values), options


def build_parser() -> cli.Parser:
    """Return the parser of this script's flags; the defaults are those of :class:`TrainingSettings`."""
    parser = cli.Parser(__doc__.partition("\n")[0] if __doc__ else None)
    add_inputs(parser)
    add_optimisation(parser)
    add_groups(parser)
    add_devices(parser)
    add_evaluation(parser)
    add_records(parser)
    # DeepSpeed's launcher adds this flag to the script's; the environment says the same.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    parser.set_defaults(**vars(TrainingSettings()), dry_run=False, fail_on_regression=False)
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
    add(
        "--negative_fill",
        choices=NEGATIVE_FILLS,
        help="where a row has too few negatives, take other rows' passages, or repeat the row's own",
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
    flag(parser, "--no_mixed_precision", "fp32 (default: the half precision that the device is fast at, if any)")
    parser.add_argument(
        "--max_tokens_per_chunk",
        type=int,
        help="tokens that go through the model at once (default: 16384 on a GPU, 4096 on a CPU)",
    )
    flag(parser, "--gradient_checkpointing", "recompute activations to spare memory (default: on a GPU only)")
    parser.add_argument(
        "--no-gradient_checkpointing", "--no_gradient_checkpointing", dest="gradient_checkpointing",
        action="store_false", help="keep activations (default: on a CPU only)",
    )  # fmt: skip


def add_evaluation(parser: cli.Parser) -> None:
    """Add how the model is compared with its base while it is trained."""
    add = parser.add_argument
    add("--eval_data", nargs="+", metavar="PATH", help="JSONL files to evaluate on (default: rows held out)")
    add("--eval_fraction", type=float, help="share of the rows that is held out; 0 evaluates nothing")
    add("--eval_steps", type=int, help="steps between evaluations (default: a fifth of all)")
    add("--patience", type=int, help="stop after so many evaluations without a better one (default: never)")
    flag(parser, "--fail_on_regression", "exit 3 unless the model is better than its base (default: exit 0)")


def add_records(parser: cli.Parser) -> None:
    """Add what a run leaves beside the model, and how one that ended early is gone on with."""
    add = parser.add_argument
    add("--save_steps", type=int, help="steps between checkpoints; 0 writes none")
    add("--save_total_limit", type=int, help="checkpoints to keep")
    add(
        "--resume", "--resume_from_checkpoint", nargs="?", const=True, type=parse_resume, metavar="CHECKPOINT",
        help="go on from the last whole checkpoint of --output_dir, or from this one (default: begin anew)",
    )  # fmt: skip
    add("--report_to", choices=REPORTERS, help="where losses and metrics are logged beside the screen")
    flag(parser, "--dry_run", "say in numbers what would be done, and do nothing (default: train)")


def parse_resume(text: str) -> bool | str:
    """Return whether to resume, or the folder to resume from."""
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def flag(parser: cli.Parser, name: str, text: str) -> None:
    """Add a flag that is given alone, or with true or false as older commands give it."""
    parser.add_argument(name, nargs="?", const=True, type=parse_bool, metavar="BOOL", help=text)


def parse_bool(text: str) -> bool:
    """Return the truth value that a flag's argument spells."""
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"true or false is wanted, not {text!r}") from None


def report(result: Result) -> None:
    """Say where the model is, whether it helped, and what to run next."""
    folder = result.folder
    print(f"model: {folder}")
    if any(folder.glob("checkpoint-*")):
        print("its checkpoint-* folders hold the optimizer's state as well; they may be deleted")
    if result.summary:
        print(result.summary)
    if result.difference and result.difference.verdict == WORSE:
        log.warning("THE FINE-TUNED MODEL IS WORSE THAN ITS BASE: do not use it; lower --learning_rate or see the data")
    print(f"next: python test_reranker.py --model_path {folder} --test_data ./data/test_data.jsonl")


if __name__ == "__main__":
    cli.run(main)
