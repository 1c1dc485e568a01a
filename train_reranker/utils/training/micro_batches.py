"""Scores of a batch's pairs, computed chunk by chunk inside one node of the autograd graph.

A batch that is padded to its longest pair is mostly padding when lengths vary. Here the pairs go through the encoder
in chunks of like length, and what comes out is one tensor of scores in the batch's order, so that the loss and its
gradient are the same as if all had gone at once.

The whole step is one autograd function, which hands each weight a single gradient, summed over the chunks: to
DistributedDataParallel and DeepSpeed it looks like one forward and one backward pass. A chunk's graph is either kept
for the backward pass, or dropped and computed again from the random state that it had: the second bounds the memory
to one chunk's, whatever the batch (the gradient cache of Gao et al., arXiv 2101.06983, held inside autograd). When
memory runs out, which here is a matter of this process alone, the chunks become smaller and the step goes on.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.models.devices import is_out_of_memory
from utils.progress import log
from utils.training.groups import plan_chunks, round_up


@dataclass
class ChunkBudget:
    """What the chunks may take. It becomes less when the device's memory runs out, and stays so.

    ``max_tokens`` bounds a chunk's padded tokens (None: all pairs are one chunk), ``keep`` keeps the chunks' graphs,
    ``multiple`` is what widths are rounded up to, ``by_layer`` computes each layer's activations again as well.
    """

    max_tokens: int | None = None
    keep: bool = True
    multiple: int = 1
    by_layer: bool = False

    def lower(self, pairs: int, tokens: int) -> bool:
        """Ask for less than a chunk of so many pairs and padded tokens took; False where no less is possible."""
        if self.keep:
            self.keep, how = False, "activations are computed again in the backward pass"
        elif pairs > 1:
            self.max_tokens, how = tokens // 2, f"chunks hold at most {tokens // 2} tokens (--max_tokens_per_chunk)"
        elif not self.by_layer:
            self.by_layer, how = True, "activations are computed again layer by layer"
        else:
            return False
        log.warning("out of memory: from here on, %s", how)
        return True


class MicroBatch(NamedTuple):
    """A chunk: its pairs, the random state it was scored from, and its scores' graph where that is kept."""

    positions: list[int]
    random_state: list[Tensor]
    graph: Tensor | None


class ChunkedScorer:
    """Scores ragged batches (see :func:`utils.training.groups.collate`) with a sequence classifier, chunk by chunk."""

    def __init__(self, model: Any, padding: dict[str, int], memory: ChunkBudget, side: str = "right") -> None:
        """Hold the model; ``padding`` names the value that fills up each of its inputs, ``side`` where it goes."""
        self.model = model
        self.padding, self.side = padding, side
        self.memory = memory

    def __call__(self, pairs: dict[str, Any]) -> Tensor:
        """Return the scores of a ragged batch, float32 of shape (pairs, 1).

        Raises:
            torch.OutOfMemoryError: not even a single pair fits into memory.
        """
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if torch.is_grad_enabled() and weights:
            return _Scores.apply(self, pairs, *weights)
        return self.forward(pairs, keep=False)[0]

    def forward(self, pairs: dict[str, Any], keep: bool = True) -> tuple[Tensor, list[MicroBatch]]:
        """Score all pairs and return the scores, (pairs, 1), and the chunks that they came from."""
        waiting = plan_chunks(pairs["lengths"], self.memory.max_tokens, self.memory.multiple)
        scores: Tensor | None = None
        pieces: list[MicroBatch] = []
        while waiting:
            positions, state = waiting[0], _random_state(pairs)
            work = functools.partial(self.score, pairs, positions)
            with torch.set_grad_enabled(keep and self.memory.keep):
                graph = self._within_memory(work)
            if graph is None:
                self._lower(pairs, positions)
                pieces = [piece._replace(graph=None) for piece in pieces]
                waiting = self._plan(pairs, list(itertools.chain(*waiting)))
                _restore(state)
                continue
            if scores is None:
                scores = graph.new_empty(len(pairs["lengths"]), 1)
            scores[positions] = graph.detach()
            pieces.append(MicroBatch(positions, state, graph if graph.requires_grad else None))
            del waiting[0], graph, work
        assert scores is not None
        return scores, pieces

    def gradients(self, pairs: dict[str, Any], piece: MicroBatch, wanted: Tensor, totals: list[Tensor | None]) -> None:
        """Add the gradient of a chunk's scores, weighted by ``wanted`` (pairs, 1), to each weight's ``totals``.

        Where memory runs out over a chunk that is scored again, its halves draw dropout anew.
        """
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        positions, random_state, graph = piece
        del piece  # a graph that memory runs out over must have no other holder

        def differentiate(scores: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(scores, weights, wanted[positions], allow_unused=True)

        def again() -> tuple[Tensor | None, ...]:
            with torch.enable_grad(), _random(random_state):
                return differentiate(self.score(pairs, positions))

        found = self._within_memory(again if graph is None else functools.partial(differentiate, graph))
        if found is not None:
            _add(totals, found)
            return
        graph = None
        self._lower(pairs, positions)
        for part in self._plan(pairs, positions):
            self.gradients(pairs, MicroBatch(part, random_state, None), wanted, totals)

    def score(self, pairs: dict[str, Any], positions: Sequence[int]) -> Tensor:
        """Return the scores of some pairs, float32 of shape (B, 1)."""
        try:
            return self.model(**self.pad(pairs, positions), return_dict=True).logits.float()
        except ValueError:  # T5 and BART refuse a batch of texts that spell their end token unequally often
            if len(positions) == 1:
                raise
            return torch.cat([self.score(pairs, [position]) for position in positions])

    def pad(self, pairs: dict[str, Any], positions: Sequence[int]) -> dict[str, Tensor]:
        """Cut some pairs out of a ragged batch: inputs of shape (B, T), and a mask unless all are as long."""
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
        # Without a mask, attention need not read one.
        return inputs if min(lengths) == width else inputs | {"attention_mask": mask.long()}

    def _plan(self, pairs: dict[str, Any], positions: list[int]) -> list[list[int]]:
        """Plan anew for some of the pairs."""
        lengths = [pairs["lengths"][i] for i in positions]
        plan = plan_chunks(lengths, self.memory.max_tokens, self.memory.multiple)
        return [[positions[i] for i in chunk] for chunk in plan]

    def _within_memory(self, work: Callable[[], Any]) -> Any:
        """Return what ``work`` returns, or None where the memory ran out over it and has been freed."""
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _lower(self, pairs: dict[str, Any], positions: Sequence[int]) -> None:
        width = round_up(max(pairs["lengths"][i] for i in positions), self.memory.multiple)
        if not self.memory.lower(len(positions), width * len(positions)):
            raise torch.OutOfMemoryError(f"a single pair of {width} tokens does not fit into memory")
        if self.memory.by_layer and getattr(self.model, "supports_gradient_checkpointing", False):
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


class _Scores(torch.autograd.Function):
    """Scores as a function of all weights, whose backward pass goes from chunk to chunk."""

    @staticmethod
    def forward(ctx: Any, scorer: ChunkedScorer, pairs: dict[str, Any], *weights: Tensor) -> Tensor:
        """Score; the graphs that are kept hang on the context."""
        scores, pieces = scorer.forward(pairs)
        ctx.scorer, ctx.pairs, ctx.pieces, ctx.dtypes = scorer, pairs, pieces, [w.dtype for w in weights]
        ctx.autocast = _autocast_state(pairs["input_ids"].device.type)
        return scores

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> Any:
        """Return one gradient a weight; they are summed in float32, also those of weights in half precision."""
        totals: list[Tensor | None] = [None] * len(ctx.dtypes)
        with torch.autocast(**ctx.autocast):
            while ctx.pieces:  # each graph is freed once its gradient is there
                ctx.scorer.gradients(ctx.pairs, ctx.pieces.pop(), wanted, totals)
        return (
            None,
            None,
            *(None if t is None else t.to(kind) for t, kind in zip(totals, ctx.dtypes, strict=True)),
        )


def _add(totals: list[Tensor | None], gradients: Sequence[Tensor | None]) -> None:
    for i, gradient in enumerate(gradients):
        total = totals[i]
        if gradient is None:
            continue
        totals[i] = gradient.float() if total is None else total.add_(gradient)


def _autocast_state(device: str) -> dict[str, Any]:
    """Return what ``torch.autocast`` must be given to be as it is now: the backward pass has its own thread."""
    return {
        "device_type": device,
        "dtype": torch.get_autocast_dtype(device),
        "enabled": torch.is_autocast_enabled(device),
    }


def _random_state(pairs: dict[str, Any]) -> list[Tensor]:
    """Return the state of the generators that dropout draws from: the CPU's, and the batch's device's."""
    ids = pairs["input_ids"]
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(ids.device)] if ids.is_cuda else [])]


def _restore(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


@contextlib.contextmanager
def _random(states: Sequence[Tensor]) -> Iterator[None]:
    """Draw from earlier states, and afterwards on from where the generators were."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if len(states) > 1 else []):
        _restore(states)
        yield
