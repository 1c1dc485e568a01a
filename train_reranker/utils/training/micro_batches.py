"""Scores of a batch of pairs, computed in micro-batches inside one node of the autograd graph.

A batch that is padded to its longest pair is mostly padding when lengths vary. In length-bucketed micro-batches, loss
and gradient are the same as if all had gone at once. To DistributedDataParallel and DeepSpeed the step looks like one
forward and one backward pass: each weight gets a single gradient, summed over the micro-batches. The graph of a
micro-batch is kept for the backward pass, whole or without what is inside its layers, which the backward pass computes
again. When memory runs out in this process, graphs are dropped and computed again from their random state, which bounds
the memory to one micro-batch (the gradient cache of Gao et al., arXiv 2101.06983, inside autograd); when that is not
enough, micro-batches shrink. The step continues.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.models.devices import within_memory
from utils.progress import log
from utils.training.groups import plan_micro_batches, round_up


@dataclass
class MemoryBudget:
    """What micro-batches may take; lowered for the rest of the run when the device's memory runs out."""

    max_tokens: int  # of a micro-batch, with padding
    keep: bool = True  # graphs are kept for the backward pass
    multiple: int = 1  # what widths are rounded up to
    overhead: int = 0  # what a micro-batch costs beside its own tokens, in tokens
    by_layer: bool = False  # activations are computed again layer by layer

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the micro-batches of pairs of ``lengths`` tokens, see :func:`plan_micro_batches`."""
        return plan_micro_batches(lengths, self.max_tokens, self.multiple, self.overhead)

    def lower(self, pairs: int, tokens: int) -> bool:
        """Allow less than a micro-batch of ``pairs`` and padded ``tokens`` took; False where no less is possible."""
        if self.keep:
            self.keep, how = False, "activations are computed again in the backward pass"
        elif pairs > 1:
            self.max_tokens = tokens // 2
            how = f"micro-batches hold at most {tokens // 2} tokens (--max_tokens_per_micro_batch)"
        elif not self.by_layer:
            self.by_layer, how = True, "activations are computed again layer by layer"
        else:
            return False
        log.warning("out of memory: from here on, %s", how)
        return True


class MicroBatch(NamedTuple):
    """The positions of some pairs, the random state they were scored from, and their scores' graph if kept."""

    positions: list[int]
    random_state: list[Tensor]
    graph: Tensor | None


class MicroBatchScorer:
    """Scores ragged batches (see :func:`utils.training.groups.collate`) with a sequence classifier."""

    def __init__(self, model: Any, padding: dict[str, int], memory: MemoryBudget, side: str = "right") -> None:
        """Hold the model; ``padding`` maps its inputs to their padding values, ``side`` is where these go."""
        self.model = model
        self.padding, self.side, self.memory = padding, side, memory
        if memory.by_layer and not self._recompute_layers():
            memory.keep = False

    def __call__(self, pairs: dict[str, Any]) -> Tensor:
        """Return the scores of a ragged batch, float32 of shape (pairs, 1); OutOfMemoryError if a pair is too large."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if torch.is_grad_enabled() and weights:
            scores: Tensor = _Scores.apply(self, pairs, *weights)
            return scores
        return self.forward(pairs, keep=False)[0]

    def forward(self, pairs: dict[str, Any], keep: bool = True) -> tuple[Tensor, list[MicroBatch]]:
        """Return the scores of all pairs, (pairs, 1), and the micro-batches that they came from."""
        waiting = self._plan(pairs, range(len(pairs["lengths"])))
        scores = torch.empty(len(pairs["lengths"]), 1, device=pairs["input_ids"].device)
        pieces: list[MicroBatch] = []
        while waiting:
            positions, state = waiting[0], _random_state(pairs["input_ids"])
            with torch.set_grad_enabled(keep and self.memory.keep):
                graph = within_memory(functools.partial(self.score, pairs, positions))
            if graph is None:
                self._lower(pairs, positions)
                pieces = [piece._replace(graph=None) for piece in pieces]
                waiting = self._plan(pairs, [*itertools.chain(*waiting)])
                _restore(state)
                continue
            scores[positions] = graph.detach()
            pieces.append(MicroBatch(positions, state, graph if graph.requires_grad else None))
            del waiting[0], graph
        return scores, pieces

    def add_gradients(
        self, pairs: dict[str, Any], piece: MicroBatch, grad_output: Tensor, totals: list[Tensor | None]
    ) -> None:
        """Add the gradients of a micro-batch's scores to ``totals``, one per weight; ``grad_output`` is (pairs, 1).

        Where memory runs out over a micro-batch that is scored again, its halves draw other dropout.
        """
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        positions, random_state, graph = piece
        del piece  # nothing else may hold a graph that memory runs out over

        def differentiate(scores: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(scores, weights, grad_output[positions], allow_unused=True)

        def again() -> tuple[Tensor | None, ...]:
            with torch.enable_grad(), _random(random_state):
                return differentiate(self.score(pairs, positions))

        found = within_memory(again if graph is None else functools.partial(differentiate, graph))
        if found is None:
            graph = None
            self._lower(pairs, positions)
            for part in self._plan(pairs, positions):
                self.add_gradients(pairs, MicroBatch(part, random_state, None), grad_output, totals)
            return
        for i, (total, gradient) in enumerate(zip(totals, found, strict=True)):
            if gradient is not None:
                totals[i] = gradient.float() if total is None else total.add_(gradient)

    def score(self, pairs: dict[str, Any], positions: Sequence[int]) -> Tensor:
        """Return the scores of some pairs, float32 of shape (B, 1)."""
        try:
            scores: Tensor = self.model(**self.pad(pairs, positions), return_dict=True).logits.float()
            return scores
        except ValueError:  # T5 and BART refuse texts with different numbers of end tokens
            if len(positions) == 1:
                raise
            return torch.cat([self.score(pairs, [position]) for position in positions])

    def pad(self, pairs: dict[str, Any], positions: Sequence[int]) -> dict[str, Tensor]:
        """Return some pairs of a ragged batch as inputs of shape (B, T), with a mask unless all fill their row."""
        lengths = [pairs["lengths"][i] for i in positions]
        width = round_up(max(lengths), self.memory.multiple)
        starts = list(itertools.accumulate(pairs["lengths"], initial=0))
        ids = pairs["input_ids"]
        bounds = torch.tensor([lengths, [starts[i] for i in positions]]).to(ids.device, non_blocking=True)
        column = torch.arange(width, device=ids.device).expand(len(positions), -1)
        if self.side == "left":
            column = column - (width - bounds[0, :, None])
        mask = (column >= 0) & (column < bounds[0, :, None])
        source = (bounds[1, :, None] + column).clamp_(0, len(ids) - 1)
        inputs = {key: pairs[key][source].masked_fill_(~mask, fill) for key, fill in self.padding.items()}
        # Attention is faster without a mask.
        return inputs if min(lengths) == width else inputs | {"attention_mask": mask.long()}

    def _plan(self, pairs: dict[str, Any], positions: Sequence[int]) -> list[list[int]]:
        plan = self.memory.plan([pairs["lengths"][i] for i in positions])
        return [[positions[i] for i in part] for part in plan]

    def _lower(self, pairs: dict[str, Any], positions: Sequence[int]) -> None:
        width = round_up(max(pairs["lengths"][i] for i in positions), self.memory.multiple)
        if not self.memory.lower(len(positions), width * len(positions)):
            raise torch.OutOfMemoryError(f"a single pair of {width} tokens does not fit into memory")
        if self.memory.by_layer:
            self._recompute_layers()

    def _recompute_layers(self) -> bool:
        """Let the backward pass compute activations again layer by layer; False where the model cannot."""
        if able := bool(getattr(self.model, "supports_gradient_checkpointing", False)):
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        return able


class _Scores(torch.autograd.Function):
    """Scores as a function of all weights, whose backward pass goes from micro-batch to micro-batch."""

    @staticmethod
    def forward(ctx: Any, scorer: MicroBatchScorer, pairs: dict[str, Any], *weights: Tensor) -> Tensor:
        """Score; kept graphs hang on the context."""
        scores, pieces = scorer.forward(pairs)
        ctx.scorer, ctx.pairs, ctx.pieces, ctx.dtypes = scorer, pairs, pieces, [w.dtype for w in weights]
        device = pairs["input_ids"].device.type  # the backward pass has its own thread, without this one's autocast
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return scores

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return one gradient per weight, summed in float32 also where weights are in half precision."""
        totals: list[Tensor | None] = [None] * len(ctx.dtypes)
        with torch.autocast(*ctx.autocast):
            while ctx.pieces:  # each graph is freed after its gradient
                ctx.scorer.add_gradients(ctx.pairs, ctx.pieces.pop(), grad_output, totals)
        gradients = (None if t is None else t.to(kind) for t, kind in zip(totals, ctx.dtypes, strict=True))
        return None, None, *gradients


def _random_state(ids: Tensor) -> list[Tensor]:
    """Return the states of the generators that dropout draws from: the CPU's and that of the GPU that ``ids`` is on."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(ids.device)] if ids.is_cuda else [])]


def _restore(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


@contextlib.contextmanager
def _random(states: Sequence[Tensor]) -> Iterator[None]:
    """Draw from earlier states, then put the generators back."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if len(states) > 1 else []):
        _restore(states)
        yield
