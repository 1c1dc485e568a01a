r"""Fine-tune a reranker on query/pos/neg rows, on GPUs or the CPU, in one process or several.

    python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --epochs 2
    python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --batch_size 16 \
        --gradient_accumulation_steps 4 --learning_rate 5e-6 --use_deepspeed --ds_config ./ds_stage0.json
    CUDA_VISIBLE_DEVICES=0,1 python train_reranker.py --num_gpus 2 --output_dir ./output_new

The folder that it writes loads as it is in FlagEmbedding (FlagReranker), sentence-transformers (CrossEncoder) and
transformers, and carries the lengths that it was trained at. Progress goes to stderr, the folder's name to stdout.
"""

from __future__ import annotations

import argparse
import sys

from utils import cli
from utils.errors import EXIT_REGRESSION
from utils.evaluation.paired import BETTER, WORSE, PairedDifference
from utils.progress import log
from utils.training import dry_run, launch
from utils.training.job import prepare
from utils.training.run import Result, run
from utils.training.settings import NEGATIVE_FILLS, REPORTERS, TrainingSettings


def main(argv: list[str] | None = None) -> int:
    """Check the inputs, train in this process or launch several, and report where the model is."""
    argv = sys.argv[1:] if argv is None else argv
    settings, options = parse_settings(argv)
    job = prepare(settings)
    processes = launch.count_processes(settings.num_gpus)
    if options.dry_run:
        print(dry_run.render(job, argv, processes))
        return 0
    if processes > 1:
        return launch.launch(__file__, argv, processes)
    result = run(job)
    if not launch.is_main_process():
        return 0
    report(result)
    return gate(result.difference, options)


def gate(difference: PairedDifference | None, options: argparse.Namespace) -> int:
    """Return the exit code: 3 on a significant loss, or on all but a significant gain, as the flags ask."""
    outcome = difference and difference.outcome
    failed = (options.fail_unless_better and outcome != BETTER) or (options.fail_on_regression and outcome == WORSE)
    return EXIT_REGRESSION if failed else 0


def parse_settings(argv: list[str]) -> tuple[TrainingSettings, argparse.Namespace]:
    """Return the settings that a command line asks for, and the options beside the training."""
    values = vars(build_parser().parse_args(argv))
    names = ("local_rank", "dry_run", "fail_on_regression", "fail_unless_better")
    options = argparse.Namespace(**{name: values.pop(name) for name in names})
    return TrainingSettings(**values), options


def build_parser() -> cli.Parser:
    """Return the parser of this script's flags; the defaults are those of :class:`TrainingSettings`."""
    parser = cli.Parser(__doc__.partition("\n")[0] if __doc__ else None)
    for add_flags in (add_inputs, add_optimisation, add_groups, add_devices, add_evaluation, add_records):
        add_flags(parser)
    # DeepSpeed's launcher adds this flag; the environment says the same.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    parser.set_defaults(**vars(TrainingSettings()), dry_run=False, fail_on_regression=False, fail_unless_better=False)
    return parser


def add_inputs(parser: cli.Parser) -> None:
    """Add the inputs and the output folder."""
    data = " ".join(TrainingSettings.train_data)
    add = parser.add_argument
    add("--model_path", "--model_name_or_path", help="folder of the reranker, or encoder, to start from")
    add("--train_data", nargs="+", metavar="PATH", help=f"JSONL files, or folders of them (default: {data})")
    add("--output_dir", help="folder for the trained model")
    flag(parser, "--overwrite_output_dir", "replace the model and the checkpoints in --output_dir")
    add("--cache_dir", help="where transformers keeps downloaded files")
    add("--cache_path", help="accepted for older commands; reading the data needs no cache")


def add_optimisation(parser: cli.Parser) -> None:
    """Add the length of the training and its learning rate."""
    add = parser.add_argument
    add("--epochs", "--num_train_epochs", type=float, help="passes over the data")
    add("--batch_size", "--per_device_train_batch_size", type=int, help="rows (groups) per device and step")
    add("--gradient_accumulation_steps", type=int, help="batches whose gradients are summed before a step")
    add("--learning_rate", type=float, help="peak learning rate")
    add("--warmup_ratio", type=float, help="share of the steps in which the learning rate rises")
    add("--weight_decay", type=float, help="AdamW's weight decay")
    add("--seed", type=int, help="seed of the order, the draws and the dropout")


def add_groups(parser: cli.Parser) -> None:
    """Add how rows become groups of pairs, and pairs tokens."""
    add = parser.add_argument
    add("--train_group_size", type=int, help="passages per query and step: one positive, the rest negatives")
    add("--query_max_len", type=int, help="longest query in tokens")
    add("--passage_max_len", type=int, help="longest passage in tokens (default: what the query leaves)")
    add("--pad_to_multiple_of", type=int, help="pad to a multiple of this many tokens; 0: to the longest pair only")
    fill = "where a row has too few negatives, take passages of other rows, or repeat its own"
    add("--negative_fill", choices=NEGATIVE_FILLS, help=fill)
    flag(parser, "--knowledge_distillation", "also learn from the rows' pos_scores and neg_scores")


def add_devices(parser: cli.Parser) -> None:
    """Add where to train, and in which precision."""
    add = parser.add_argument
    add("--num_gpus", type=int, help="processes to train in (default: one per visible GPU, or 1)")
    flag(parser, "--use_deepspeed", "train with DeepSpeed")
    add("--ds_config", "--deepspeed_config", help="DeepSpeed's configuration, with --use_deepspeed")
    flag(parser, "--fp16", "mixed precision in fp16")
    flag(parser, "--bf16", "mixed precision in bf16")
    flag(parser, "--no_mixed_precision", "fp32 (default: the half precision that the device is fast at, if any)")
    add(
        "--max_tokens_per_micro_batch", "--max_tokens_per_chunk", type=int,
        help="tokens that go through the model at once (default: 16384 on a GPU, 4096 on a CPU)",
    )  # fmt: skip
    flag(parser, "--gradient_checkpointing", "recompute activations to save memory (default: on a GPU only)")
    add(
        "--no-gradient_checkpointing", "--no_gradient_checkpointing", dest="gradient_checkpointing",
        action="store_false", help="keep activations (default: on a CPU only)",
    )  # fmt: skip


def add_evaluation(parser: cli.Parser) -> None:
    """Add how the model is compared with its base while it is trained."""
    add = parser.add_argument
    add("--eval_data", nargs="+", metavar="PATH", help="JSONL files to evaluate on (default: rows held out)")
    add("--eval_fraction", type=float, help="share of the rows that is held out; 0: no evaluation")
    add("--eval_steps", type=int, help="steps between evaluations (default: a fifth of all)")
    add("--patience", type=int, help="stop after this many evaluations without a better one (default: never)")
    flag(parser, "--fail_on_regression", "exit 3 if the model is significantly worse than its base (default: exit 0)")
    flag(parser, "--fail_unless_better", "exit 3 unless it is significantly better (default: exit 0)")


def add_records(parser: cli.Parser) -> None:
    """Add what a run leaves beside the model, and how an interrupted one is resumed."""
    add = parser.add_argument
    add("--save_steps", type=int, help="steps between checkpoints; 0 writes none")
    add("--save_total_limit", type=int, help="checkpoints to keep")
    add(
        "--resume", "--resume_from_checkpoint", nargs="?", const=True, type=parse_resume, metavar="CHECKPOINT",
        help="resume from the last complete checkpoint of --output_dir, or from this one (default: start from scratch)",
    )  # fmt: skip
    add("--report_to", choices=REPORTERS, help="where losses and metrics are logged beside the screen")
    flag(parser, "--dry_run", "print what would be done, in numbers, and do nothing (default: train)")


def parse_resume(text: str) -> bool | str:
    """Return whether to resume, or the folder to resume from."""
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def flag(parser: cli.Parser, name: str, text: str) -> None:
    """Add a flag that stands alone, or before true or false as in older commands."""
    parser.add_argument(name, nargs="?", const=True, type=parse_bool, metavar="BOOL", help=text)


def parse_bool(text: str) -> bool:
    """Read true or false, for argparse's ``type``."""
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}") from None


def report(result: Result) -> None:
    """Print where the model is, whether it helped, and what to run next."""
    folder = result.folder
    print(f"model: {folder}")
    if any(folder.glob("checkpoint-*")):
        print("its checkpoint-* folders, with the optimizer's state, may be deleted")
    if result.summary:
        print(result.summary)
    if result.difference and result.difference.outcome == WORSE:
        log.warning("THE FINE-TUNED MODEL IS WORSE THAN ITS BASE: do not use it; lower --learning_rate or see the data")
    print(f"next: python test_reranker.py --model_path {folder} --test_data ./data/test_data.jsonl")


if __name__ == "__main__":
    cli.run(main)
