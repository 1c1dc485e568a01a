"""What happens between the steps of a training."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, TrainerCallback

from utils.progress import progress_bar
from utils.training.groups import TrainingGroups


class Progress(ProgressCallback):
    """A bar on stderr that shows the loss; the Trainer's own writes its log to stdout."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar in the first process."""
        if state.is_world_process_zero:
            done = {"total": state.max_steps, "initial": state.global_step}
            self.training_bar = progress_bar(**done, desc="training", unit="step")
        self.current_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss."""
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}")


class LastStepCallback(TrainerCallback):
    """Passes epochs to the dataset, evaluates the last step, and skips its checkpoint: the model itself is saved."""

    def __init__(self, groups: TrainingGroups, evaluates: bool) -> None:
        """Hold the dataset."""
        self.groups, self.evaluates = groups, evaluates

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate and save as often as asked now, not as recorded in the checkpoint that is resumed."""
        state.compute_steps(args, state.max_steps)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the epoch on: accelerate does so in a single process only."""
        self.groups.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate after the last step, and write no checkpoint."""
        if state.global_step >= state.max_steps:
            control.should_save = False
            control.should_evaluate = self.evaluates
