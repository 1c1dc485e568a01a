"""Processes and their environment: how many there are, launching and joining them, what DeepSpeed expects."""

import contextlib
import logging
import os
import pkgutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import EXIT_FAILED, InputError, RunError
from utils.progress import log
from utils.training.checkpoints import DEEPSPEED_CLASSES

LAUNCHER = "RERANKER_LAUNCHER"  # the variable with the process id of our launcher
LAUNCHERS_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_main_process() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def end_with_launcher() -> None:
    """Watch the launcher of this process, if there is one, and end at once when it has died.

    A launcher that is killed outright ends none of its processes: they would train on, and write, unseen.
    """
    if not {LAUNCHER, "TORCHELASTIC_RUN_ID", "CROSS_RANK"} & {*os.environ}:  # ours, torchrun's, DeepSpeed's
        return
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.2)
        log.error("the launcher of this process has died: it ends, too")
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, daemon=True).start()


def count_processes(num_gpus: int | None) -> int:
    """Return how many processes must be launched: one per GPU, or 1 to train in this one.

    Without a GPU the processes share the CPU. Under torchrun or DeepSpeed's launcher this is one of them already. An
    InputError says that fewer GPUs are visible, or that the environment holds only a part of what launchers set.
    """
    present = [name for name in LAUNCHERS_VARIABLES if name in os.environ]
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & {*present} and len(present) < len(LAUNCHERS_VARIABLES):
        raise InputError(
            f"the environment has {', '.join(present)}, but not all of {', '.join(LAUNCHERS_VARIABLES)}, as launchers "
            "set them: unset them, or start under torchrun"
        )
    if "LOCAL_RANK" in os.environ or num_gpus == 1:
        return 1
    import torch

    visible = torch.cuda.device_count()
    if num_gpus is None:
        return max(1, visible)
    if 0 < visible < num_gpus:
        raise InputError(f"--num_gpus {num_gpus}: {visible} can be seen; lower it, or widen CUDA_VISIBLE_DEVICES")
    return num_gpus


def launch(script: str | Path, argv: Sequence[str], processes: int) -> int:
    """Run ``script`` with ``argv`` in several processes of this machine and return their exit code.

    This is ``torchrun --nproc_per_node``, called here so that a signal to this process reaches all of them, and a
    failure is not reported again with a traceback. A RunError says that one was killed, or this one asked to end.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.utils.distributed import get_free_port

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    options = [f"--nproc_per_node={processes}", "--master_addr=127.0.0.1", f"--master_port={get_free_port()}"]
    try:
        torchrun.run(torchrun.parse_args([*options, str(script), *argv]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise RunError(f"training process {failure.pid} was killed ({failure.signal_name()})") from None
        return failure.exitcode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise RunError(f"ended by a signal ({error.sigval.name})") from None
    return 0


@contextlib.contextmanager
def environment(deepspeed: bool, deterministic: bool = False) -> Iterator[None]:
    """Prepare one process for a training, and put its environment back afterwards.

    Sets what a launcher sets for DeepSpeed; keeps other libraries' messages off stderr, and all but the result off
    stdout. No state of a checkpoint can run code, whatever library loads it. If ``deterministic``, a GPU adds up in a
    fixed order, and an operation for which it has none raises a RuntimeError.
    """
    import torch
    from torch.distributed.elastic.utils.distributed import get_free_port
    from torch.serialization import safe_globals
    from transformers.utils import logging as transformers_logging

    for name in ("FlagEmbedding", "DeepSpeed", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    before = dict(os.environ)
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # a launcher's; the flag decides
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # DeepSpeed asks for pickles that may run code
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if deepspeed:
            from deepspeed import ops

            # On a CPU it would compile a kernel for what gloo does, too, which takes minutes and a compiler: it
            # compiles what this lists, and to find that out would try the compiler.
            ops.__compatible_ops__ = {}
    if deepspeed and "LOCAL_RANK" not in os.environ:
        # DeepSpeed looks for MPI where these are not set, and fails where there is none.
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
        # accelerate takes these for several processes, and would divide the cores among them.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without effect unless sums are to be deterministic
    exact = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(exact or deterministic)
    classes = [pkgutil.resolve_name(name) for name in (DEEPSPEED_CLASSES if deepspeed else ())]
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), safe_globals(classes):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(exact)
        os.environ.clear()
        os.environ.update(before)


def leave_process_group() -> None:
    """End the communication of the processes in order, where there was any."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # A launcher ends all processes when one fails: none ends before all are done.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        # gloo's threads may still have to free a tensor, which takes Python's lock: without it, as in an interpreter
        # that shuts down, they abort the process.
        time.sleep(0.2)
