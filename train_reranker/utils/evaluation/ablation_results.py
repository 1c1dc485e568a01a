"""What an ablation's file holds: its arms' figures, their comparisons, the sweep, and the sources themselves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.corpus.documents import Corpus
from utils.evaluation.arm_results import against, arm_comparisons, arm_figures, summary
from utils.evaluation.results import AblationResult, SweepFigures
from utils.labelling.record import JudgedSource
from utils.labelling.sweep import Sweep
from utils.retrieval.mmr import LAMBDAS


@dataclass(frozen=True)
class RunContext:
    """What a result reports of its run beside the figures."""

    settings: dict[str, Any]
    finished: bool = True
    documents: dict[str, str] = field(default_factory=dict)  # titles by id, see :func:`titles`
    left_out: dict[str, str] = field(default_factory=dict)  # arms that could not run, with the reason
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)  # per query, by arm and stage
    cost_per_call: float | None = None  # of a judgement, in the currency of the prices
    ledger: dict[str, Any] = field(default_factory=dict)  # the calls of this process


def ablation_result(
    sources: Sequence[JudgedSource],
    arms: Sequence[str],
    baseline: str,
    *,
    budget: int,
    context: RunContext,
    sweep: Sweep | None = None,
) -> AblationResult:
    """Return what an ablation has shown, and a sweep on the same sources; arms are in the order of the table.

    ``budget`` is how many candidates an arm retrieved at most. Where the baseline did not run, nothing is compared.
    """
    figures = arm_figures(sources, arms, budget)
    comparisons = arm_comparisons(sources, against(arms, baseline), context.cost_per_call)
    return AblationResult(
        summary=summary(figures, comparisons),
        table=figures,
        comparisons=comparisons,
        sources=list(sources),
        extraction_errors=sum(source.error is not None for source in sources),
        sweep=sweep_figures(sweep, budget) if sweep else [],
        **vars(context),
    )


def sweep_figures(sweep: Sweep, budget: int) -> list[SweepFigures]:
    """Return each setting's figures, and its difference from the same arm as the run had it.

    P-values are corrected over all settings; ``budget`` is how many candidates a setting retrieved at most.
    """
    figures = arm_figures(sweep.sources, [setting.name for setting in sweep.asked], budget)
    comparisons = arm_comparisons(sweep.sources, [(setting.name, setting.arm) for setting in sweep.asked])
    return [
        SweepFigures(
            **vars(arm) | dict(zip(LAMBDAS, setting.weights, strict=True))
            | {"arm": setting.arm, "label": setting.name},
            rerank_pool_factor=setting.pool_factor, rerank_weight=setting.rerank_weight, verdicts_asked=asked,
            judged_difference=comparison.judged_difference, difference_interval=comparison.judged_interval,
            judged_p=comparison.judged_p, judged_p_corrected=comparison.judged_p_corrected,
        )
        for (setting, asked), arm, comparison in zip(sweep.asked.items(), figures, comparisons, strict=True)
    ]  # fmt: skip


def titles(results: Iterable[JudgedSource], corpus: Corpus) -> dict[str, str]:
    """Return the titles of all sources and candidates by id, for those who read the file without the corpus."""
    ids = [i for r in results for i in (r.source, *(i for trial in r.trials.values() for i in trial.retrieved))]
    return {document_id: corpus.get(document_id).title for document_id in dict.fromkeys(ids)}
