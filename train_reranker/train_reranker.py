r"""Fine-tune a reranker on query/pos/neg rows, on GPUs or the CPU, in one process or several.

    python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --epochs 2
    python train_reranker.py --train_data ./data/train_data.jsonl --output_dir ./output --batch_size 16 \
        --gradient_accumulation_steps 4 --learning_rate 5e-6 --use_deepspeed --ds_config ./ds_stage0.json
    CUDA_VISIBLE_DEVICES=0,1 python train_reranker.py --num_gpus 2 --output_dir ./output_new

The folder that it writes loads as it is in FlagEmbedding (FlagReranker), sentence-transformers (CrossEncoder) and
transformers, and carries the lengths that it was trained at. Progress goes to stderr, the folder's name to stdout.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from utils import cli
from utils.errors import EXIT_REGRESSION
from utils.evaluation.paired import WORSE, PairedDifference, gate
from utils.files import locked
from utils.progress import log
from utils.training import dry_run_report, launch
from utils.training.checkpoints import owned
from utils.training.history import HELD_OUT, EvaluationHistory, verdict
from utils.training.job import prepare
from utils.training.run import run
from utils.training.settings import UNMIXED, TrainingJob, TrainingSettings


def main(argv: list[str] | None = None) -> int:
    """Check the inputs, train in this process or launch several, and report where the model is."""
    argv = sys.argv[1:] if argv is None else argv
    settings, options = parse_settings(argv)
    launch.end_with_launcher()
    job = prepare(settings)
    processes = launch.count_processes(settings.num_gpus)
    if options.dry_run:
        print(dry_run_report.render(job, argv, processes))
        return 0
    if processes > 1:
        with locked(job.output):  # told here, in one line, before the processes start
            pass
        return launch.launch(__file__, argv, processes)
    history = run(job)
    if not launch.is_main_process():
        return 0
    report(job, history)
    return exit_code(history.differences() if history else {}, options)


def exit_code(differences: Mapping[str, PairedDifference], options: argparse.Namespace) -> int:
    """Return 3 on a significant loss, or on all but a significant gain at home without one abroad, if asked, else 0."""
    asked, home = options.fail_on_regression or options.fail_unless_better, differences.get(HELD_OUT)
    failed = gate([*differences.values()], unless_better=False)
    if options.fail_unless_better:
        failed |= gate([home] if home else [], unless_better=True)
    if not asked or not failed:
        return 0
    found = [verdict(differences)] if differences else []
    found += [] if home else ["not compared at home, for there are no held-out queries"]
    log.error("against its base: %s", ", ".join(found))
    return EXIT_REGRESSION


def parse_settings(argv: list[str]) -> tuple[TrainingSettings, argparse.Namespace]:
    """Return the settings that a command line asks for, and the options beside the training."""
    values = vars(build_parser().parse_args(argv))
    settings = TrainingSettings(**{item.name: values.pop(item.name) for item in fields(TrainingSettings)})
    return settings, argparse.Namespace(**values)


def build_parser() -> cli.Parser:
    """Return the parser of this script's flags: the fields of :class:`TrainingSettings`, and what to do beside them."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.model_flags(),))
    add, kinds = parser.add_argument, get_type_hints(TrainingSettings)
    for item in fields(TrainingSettings):
        kind, options = kinds[item.name], dict(item.metadata)
        names, types = [f"--{item.name}", *options.pop("aliases")], get_args(kind) or (kind,)
        if str in types and bool in types:
            options |= {"nargs": "?", "const": True, "type": parse_resume}
        elif bool in types:
            options |= SWITCH
        elif kind == Sequence[str]:
            options |= {"nargs": "+", "metavar": "PATH"}
        else:
            options["type"] = types[0]
        add(*names, default=item.default, **options)
    add("--no-gradient_checkpointing", "--no_gradient_checkpointing", dest="gradient_checkpointing",
        action="store_false", default=None, help="keep activations (default: on a CPU only)")  # fmt: skip
    loss = "exit 3 if the model is significantly worse than its base, also on the guard (default: exit 0)"
    add("--fail_on_regression", **SWITCH, default=False, help=loss)
    gain = "exit 3 unless it is significantly better, and on the guard not significantly worse (default: exit 0)"
    add("--fail_unless_better", **SWITCH, default=False, help=gain)
    add("--dry_run", **SWITCH, default=False, help="print what would be done, in numbers, and stop")
    # DeepSpeed's launcher adds this flag; the environment says the same.
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    return parser


def parse_resume(text: str) -> bool | str:
    """Return whether to resume, or the folder to resume from."""
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def parse_bool(text: str) -> bool:
    """Read true or false, for argparse's ``type``."""
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}") from None


# A flag that stands alone, or before true or false as in older commands.
SWITCH: dict[str, Any] = {"nargs": "?", "const": True, "type": parse_bool, "metavar": "BOOL"}


def report(job: TrainingJob, history: EvaluationHistory | None) -> None:
    """Print where the model is, whether it helped, and what to run next."""
    folder = job.output
    print(f"model: {folder}")
    if kept := owned(folder):
        names = ", ".join(checkpoint.name for checkpoint in kept)
        print(f"its checkpoints, with the optimizer's state, may be deleted: {names}")
    if (folder / UNMIXED).is_dir():
        print(f"its folder {UNMIXED} holds the model before its weights were averaged with the base's")
    differences = history.differences() if history else {}
    if history and (summary := history.summary()):
        print(summary)
    worse = {name for name, one in differences.items() if one.outcome == WORSE}
    if HELD_OUT in worse:
        log.warning("THE FINE-TUNED MODEL IS WORSE THAN ITS BASE: do not use it; lower --learning_rate, check the data")
    elif worse:
        remedies = "train with --mix_with_base auto, with --keep_close 1, or at a lower --learning_rate"
        log.warning("%s: IT HAS FORGOTTEN WHAT ITS BASE COULD DO: %s", verdict(differences).upper(), remedies)
    beside = Path(job.settings.train_data[0]).with_name("test_data.jsonl")
    test = str(beside) if beside.is_file() else "FILE_OR_FOLDER"  # nothing that it was trained on
    command = ["--model_path", str(folder), "--baseline_model", str(job.model), "--test_data", test]
    command += ["--output_file", f"./{folder.name}_results.json"]
    print(f"next: {shlex.join(['python', 'test_reranker.py', *command])}  # and --config for your retriever's order")


if __name__ == "__main__":
    cli.run(main)
