"""FlagEmbedding's model and trainer with this project's micro-batches, evaluation and checkpoints.

Importing this takes seconds: only :func:`utils.training.run.run` does, once all inputs are checked.
"""

import contextlib
import copy
import functools
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast, gather_object, wait_for_everyone
from FlagEmbedding.abc.finetune.reranker.AbsModeling import RerankerOutput
from FlagEmbedding.finetune.reranker.encoder_only.base import CrossEncoderModel, EncoderOnlyRerankerTrainer
from torch import Tensor

from utils.errors import RunError
from utils.files import write_json
from utils.models.folders import read_json, tokenizer_files
from utils.models.loading import RERANKER, first_not_finite, load_model, load_tokenizer
from utils.progress import log
from utils.training import checkpoints, history
from utils.training.groups import Group, collate, encode_pairs
from utils.training.history import EvaluationHistory
from utils.training.losses import as_groups, distillation, listwise, soft_cross_entropy
from utils.training.micro_batches import MemoryBudget, MicroBatchScorer
from utils.training.settings import TrainingJob, TrainingSettings

# A model has collapsed if all scores of a batch differ by less, in so many consecutive batches.
SAME_SCORES, PATIENCE_WITH_SAME_SCORES = 1e-6, 20
CEILING = (
    "the base ranks all held-out queries right already, so they cannot show a gain: their negatives are too easy; mine "
    "harder ones (python -m tools.mine_negatives), or name --eval_data"
)


class GroupedCrossEncoder(CrossEncoderModel):
    """FlagEmbedding's model over ragged batches of any number of groups, with a loss in full precision."""

    def __init__(self, base_model: Any, tokenizer: Any, settings: TrainingSettings, memory: MemoryBudget) -> None:
        """Hold the model; the settings say how large groups are, and what is minimised."""
        super().__init__(base_model, tokenizer=tokenizer)
        self.settings = settings
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        padding = {key: value for key, value in padding.items() if key in tokenizer.model_input_names}
        self.scorer = MicroBatchScorer(base_model, padding, memory, tokenizer.padding_side)

    def encode(self, features: dict[str, Any]) -> Tensor:
        """Return the scores of a ragged batch, float32 of shape (pairs, 1)."""
        return self.scorer(features)

    def forward(
        self, pair: Any = None, grades: Any = None, teacher_scores: Any = None, close_scores: Any = None
    ) -> RerankerOutput:
        """Return the loss as a mean over the groups, and the scores.

        A group without a teacher's scores learns from its labels: the listwise cross-entropy over its grades. One with
        scores for two passages or more learns from these as well, or, with ``soft_labels_only``, from these alone. The
        distillation towards another reranker's scores is added to both.
        """
        output = RerankerOutput(scores=self.encode(pair))
        scores = output.scores.view(-1, self.settings.train_group_size)
        losses = listwise(scores, as_groups(grades, scores))
        if teacher_scores is not None:
            targets = as_groups(teacher_scores, scores)
            if self.settings.soft_labels_only:
                scored = (~targets.isnan()).sum(1) > 1
                losses = torch.where(scored, distillation(scores, targets), losses)
            else:
                losses = losses + soft_cross_entropy(scores, targets)
        if close_scores is not None:
            losses = losses + self.settings.keep_close * distillation(scores, as_groups(close_scores, scores))
        output.loss = losses.mean()
        return output


class RerankerTrainer(EncoderOnlyRerankerTrainer):
    """FlagEmbedding's trainer that evaluates, keeps the best model, and stops when the training has diverged.

    The first process alone writes, and what it writes appears in its place once it is complete.
    """

    def __init__(self, job: TrainingJob, history: EvaluationHistory | None, **options: Any) -> None:
        """Hold the job, and the held-out examples if any."""
        self.job, self.history = job, history
        self.kept: list[str] = []  # the names of the best model's files, beside which its folder may hold others
        self.same_scores = 0
        self.control: Any
        super().__init__(**options)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss; a RunError where it is not finite, or all scores have become the same."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        scores = outputs.scores.detach()
        value, spread = torch.stack([loss.detach().float(), scores.max() - scores.min()]).tolist()
        if not math.isfinite(value):
            self.stop(f"the loss is {value}", "lower --learning_rate, or train with --no_mixed_precision")
        self.same_scores = 0 if spread > SAME_SCORES else self.same_scores + 1
        if self.same_scores >= PATIENCE_WITH_SAME_SCORES:
            self.stop(f"all scores are the same in {self.same_scores} batches in a row", "lower --learning_rate")
        return (loss, outputs) if return_outputs else loss

    def stop(self, reason: str, remedy: str) -> None:
        """Raise a RunError with the reason and the last good model."""
        output = self.job.output
        if self.history is not None and self.history.best is not None:
            good = f"the best model, of step {self.history.best}, is in {self.job.best}"
        elif found := checkpoints.last_complete(output):
            good = f"the last good checkpoint is {found}"
        else:
            good = "there is no checkpoint yet"
        raise RunError(f"stopped at step {self.state.global_step}: {reason}; {good}; {remedy}")

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the held-out and guard queries, record the metrics, keep the best model, mind ``patience``."""
        assert self.history is not None
        step = self.state.global_step
        scores = self.score_queries()
        if not np.isfinite(scores).all():
            self.stop("the scores of held-out pairs are not finite", "lower --learning_rate")
        if step and np.ptp(scores) <= SAME_SCORES:
            self.stop("all held-out pairs have the same score", "lower --learning_rate")
        new = self.history.add(step, scores)
        if step and self.history.best == step:
            self.keep_model(self.job.best)
        self.write_history()
        if not step and self.args.should_save and (home := new.get(history.HELD_OUT)) and home.MRR == 1:
            log.warning(CEILING)
        for name, one in new.items() if self.args.should_save else ():
            log.info("step %d: MRR %.3f, nDCG@10 %.3f on %s queries", step, one.MRR, one.nDCG_10, name)
        prefixes = {name: "eval_" if name == history.HELD_OUT else f"eval_{name}_" for name in new}
        values = {f"{prefixes[name]}MRR": one.MRR for name, one in new.items()}
        values |= {f"{prefixes[name]}nDCG@10": one.nDCG_10 for name, one in new.items()}
        self.log(dict(values))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, values)
        if self.history.since_best >= (self.job.settings.patience or math.inf):
            # As after the last step, without a checkpoint: a run resumed from it would train on.
            self.control.should_training_stop, self.control.should_save = True, False
        return values

    def write_history(self) -> None:
        """Write the evaluations until now, and draw them."""
        if self.history is not None and self.args.should_save:
            with self.writing("evaluation"), checkpoints.adding(self.job.output) as folder:
                self.history.write(folder)
                history.draw_curve(self.history, folder / history.CURVE)

    def restore(self, checkpoint: Path) -> None:
        """Put evaluations and best model back to what they were at a checkpoint."""
        if self.history is None:
            return
        self.history.restore(checkpoint / history.FILE)
        if self.args.should_save and self.history.best is not None:
            with self.writing("model"):
                staged = self.job.output / checkpoints.STAGING / "model"
                checkpoints.link((checkpoint / checkpoints.BEST).iterdir(), staged)
                self.kept = checkpoints.publish(staged, self.job.best)
        self.write_history()

    @functools.cached_property
    def evaluated_pairs(self) -> list[dict[str, list[int]]]:
        """The token ids of the held-out and guard pairs, in the order of ``metrics.pairs_of``."""
        assert self.history is not None
        pairs, tokenizer = [], self.train_dataset.tokenizer
        for pool in self.history.pools:
            pairs += encode_pairs(tokenizer, pool.query, pool.passages, self.job.lengths)
        return pairs

    def score_queries(self) -> np.ndarray:
        """Return the scores of the held-out and guard pairs, (pairs,); each process scores its share."""
        model, pairs = self.model, self.evaluated_pairs
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i]["input_ids"]))
        mine = order[self.args.process_index :: self.args.world_size]
        mine_scored: list[float] = []
        if mine:
            batch = self._prepare_inputs(collate([Group([pairs[i] for i in mine])]))
            model.eval()
            with torch.inference_mode(), self.accelerator.autocast():
                mine_scored = model.scorer(batch["pair"]).flatten().tolist()
            model.train()
        scores = np.empty(len(pairs), dtype=np.float32)
        for positions, values in gather_object([(mine, mine_scored)]):
            scores[positions] = values
        return scores

    def keep_model(self, place: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as it is now, or with other weights by name, into a folder, in place of an earlier one."""
        folder = self.job.output / checkpoints.STAGING / "model"
        with self.writing("model"):
            if weights is None:
                self.save_model(str(folder))
            else:
                self._save(str(folder), {f"model.{name}": values for name, values in weights.items()})
            if self.args.should_save:
                self.kept = checkpoints.publish(folder, place)

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights, by name, from the first process."""
        model = self.model.model
        if self.args.should_save:
            model.load_state_dict(weights)
        broadcast(dict(model.state_dict()))  # in place

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder, model = Path(output_dir or self.args.output_dir), self.model.model
        weights = model.state_dict()
        if state_dict is not None:
            weights = {name.removeprefix("model."): values for name, values in state_dict.items()}
        if broken := first_not_finite(weights):
            self.stop(f"the weights of {broken} are not finite", "lower --learning_rate")
        # DeepSpeed trains a copy in half precision. Saved as it is, libraries would also score in half precision.
        with torch.device("meta"):
            shell = type(model)(copy.deepcopy(model.config)).float()
        shell.save_pretrained(folder, state_dict={name: w.float() for name, w in weights.items()})
        # What loads the base also loads the trained model, older libraries included.
        write_json(folder / "config.json", self.trained_config())
        for file in tokenizer_files(self.job.model, self.train_dataset.tokenizer):
            shutil.copy(file, folder)
        settings = folder / "tokenizer_config.json"
        own = read_json(settings) if settings.exists() else {}
        # How batches must be padded, where the base's tokenizer says nothing or something that changes scores.
        (base, _), trained = load_tokenizer(self.job.model), self.train_dataset.tokenizer
        chosen = {name: getattr(trained, name) for name in ("padding_side", "pad_token")}
        padding = {name: value for name, value in chosen.items() if getattr(base, name) != value}
        write_json(settings, own | padding | self.job.lengths.tokenizer_settings())

    def trained_config(self) -> dict[str, Any]:
        """Return the base model's own ``config.json`` with what the training has changed."""
        config: dict[str, Any] = read_json(self.job.model / "config.json")
        model = self.model.model
        config["architectures"] = [type(model).__name__]
        config |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
        if len(config.get("id2label") or ()) != 1:
            config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        if config.get("pad_token_id") is None:
            config["pad_token_id"] = model.config.get_text_config().pad_token_id
        return config

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.job.output / checkpoints.STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside its place, and move it once all processes have written their part."""
        output, name = self.job.output, f"checkpoint-{self.state.global_step}"
        with self.writing(name):
            super()._save_checkpoint(model, trial)
            wait_for_everyone()
            if self.args.should_save:
                self.complete(output / checkpoints.STAGING / name)
                if (output / name).exists():
                    checkpoints.remove(output / name)
                checkpoints.publish(output / checkpoints.STAGING / name, output / name)
                checkpoints.rotate(output, output / name, self.job.settings.save_total_limit)
        wait_for_everyone()
        if self.args.local_process_index == 0 and not self.args.should_save:
            # On disks of their own, other machines would keep what DeepSpeed wrote there.
            if any(path.is_file() for path in (output / checkpoints.STAGING).rglob("*")):
                raise RunError(
                    "this DeepSpeed stage writes a part of each checkpoint on every machine: give an --output_dir on "
                    "a disk that all share, or stage 0"
                )
            checkpoints.remove_staging(output)

    def complete(self, staged: Path) -> None:
        """Add to a checkpoint the evaluations and the best model until then, which belong to it."""
        if self.history is not None:
            self.history.write(staged)
            if self.history.best is not None:
                checkpoints.link((self.job.best / name for name in self.kept), staged / checkpoints.BEST)
        checkpoints.write_manifest(staged)

    def _save_rng_state(self, output_dir: str) -> None:
        """Let the first process write the random states of all: others may be on other machines."""
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            mine = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        for files in gather_object([mine]):
            if self.args.should_save:
                for name, content in files.items():
                    (Path(output_dir) / name).write_bytes(content)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.model.load_state_dict(load_model(Path(resume_from_checkpoint), RERANKER)[1].state_dict())

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn a failure to write, as on a full disk, into a RunError, and leave nothing half written behind."""
        try:
            yield
        except (RunError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # safetensors and torch each have their own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(
                f"{what} of step {self.state.global_step} could not be written to {self.job.output} ({reason}); "
                "complete checkpoints are kept: make room, then resume with --resume"
            ) from error
        finally:
            if self.args.should_save:
                checkpoints.remove_staging(self.job.output)
