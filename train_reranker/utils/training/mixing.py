"""The average of the trained and the base's weights, which forgets less of what the base could do.

WiSE-FT (Wortsman et al., arXiv 2109.01903) and LM-Cocktail (Xiao et al., arXiv 2311.13534).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from utils.models.loading import BASE, RERANKER, load_model
from utils.progress import log
from utils.training.trainer import RerankerTrainer


def average(trained: Mapping[str, Tensor], base: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return (1 - ``share``) * ``trained`` + ``share`` * ``base``, in float32, tensor by tensor of the same name."""
    return {
        name: torch.lerp(values.float(), base[name].float(), share) if values.is_floating_point() else values
        for name, values in trained.items()
    }


def mix_with_base(trainer: RerankerTrainer) -> None:
    """Write the best model's average with the base into the output folder, with the best share of those to try.

    Each is evaluated where there is anything to evaluate on. The first process reads and writes; all of them score.
    """
    job, history, shares = trainer.job, trainer.history, trainer.job.settings.mix_shares
    trained: Mapping[str, Tensor] = {}
    base: Mapping[str, Tensor] = {}
    if trainer.args.should_save:
        trained = load_model(job.best, RERANKER)[1].state_dict()
        base = load_model(job.model, BASE)[1].state_dict()
    if history is not None:
        for tried in shares:
            trainer.take_weights(average(trained, base, tried))
            mix = history.add_mix(tried, trainer.score_queries())
            if trainer.args.should_save:
                shown = ", ".join(f"{name} {mean:.3f}" for name, mean in mix.means.items())
                log.info("mixed with %g of the base: %s", tried, shown)
    share = history.mix.share if history is not None and history.mix is not None else shares[0]
    trainer.keep_model(job.output, average(trained, base, share))
