"""What a test of rerankers says to do: as a record, in words, and as what a script fails on."""

from __future__ import annotations

from utils.data.first_stage import FIRST, HYBRID, LEXICAL
from utils.data.split import FEW
from utils.evaluation.fusion import WEIGHTS, Fusion
from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, PairedDifference, difference_text
from utils.evaluation.results import Advice, ModelComparison, RerankerTestResult

MODEL, FUSED = "model", "model + first stage"
# Orders that need no reranker, as a sentence names them.
WITHOUT_MODEL = {LEXICAL: "BM25 alone", HYBRID: "BM25 fused with the first stage"}


def compared_with_first(result: RerankerTestResult) -> tuple[ModelComparison, ModelComparison]:
    """Return the differences of the model and of the fusion from the first stage, by the main metric."""
    alone, fused = (result.difference(order, FIRST) for order in (MODEL, FUSED))
    if alone is None or fused is None:
        raise ValueError("a result of an earlier version, which did not compare with the first stage")
    return alone, fused


def advise(alone: PairedDifference, fused: PairedDifference, fusion: Fusion) -> Advice:
    """Return whether and how to rerank, by the differences of the model and of the fusion from the first stage."""
    if _model_suffices(alone, fused):
        return Advice(True, 1.0, fusion.depths[-1])
    # Where the folds gain by weights that all queries together do not choose, the smallest one is nearest to both.
    weight = fusion.weight or WEIGHTS[1] if fused.outcome == BETTER else fusion.weight
    return Advice(fused.outcome == BETTER, weight, fusion.depth)


def _model_suffices(alone: PairedDifference, fused: PairedDifference) -> bool:
    gains = alone.difference or 0.0, fused.difference or 0.0
    return alone.outcome == BETTER and (fused.outcome != BETTER or gains[0] >= gains[1])


def advised_order(result: RerankerTestResult) -> str:
    """Return the order that the advice goes by: the model's where it gains alone, and no less than fused."""
    alone, fused = (result.difference(order, FIRST) for order in (MODEL, FUSED))
    return MODEL if alone and fused and _model_suffices(alone, fused) else FUSED


def summary(result: RerankerTestResult) -> str:
    """Say in a few sentences what the test has shown and what to do, and no more than that."""
    metric, (first, alone, fused) = result.main_metric, (result.value(order) or 0.0 for order in (FIRST, MODEL, FUSED))
    said = [
        f"{metric} over {result.queries} queries: {first:.3f} before reranking ({result.first_stage}), {alone:.3f} "
        f"reranked by the model alone, {fused:.3f} by both fused."
    ]
    said.append(_what_to_do(result))
    if (one := result.difference(MODEL, FIRST)) and one.outcome == WORSE:
        said.append(f"By itself the model ranks significantly worse than the first stage: {difference_text(one)}.")
    others = {name: value for name in WITHOUT_MODEL if (value := result.value(name)) is not None}
    name = max(others, key=lambda name: others[name], default=FIRST)
    if others.get(name, 0.0) > max(first, alone, fused):
        said.append(f"{WITHOUT_MODEL[name]}, which needs no reranker, reaches {others[name]:.3f}.")
    for one in against_baselines(result):
        if one.outcome == NO_DIFFERENCE:
            said.append(f"No significant difference from {one.baseline}: {_insignificant(one)}{_needed(one)}.")
        else:
            said.append(f"The model is {one.outcome} than {one.baseline}: {difference_text(one)}.")
    return " ".join(said)


def _what_to_do(result: RerankerTestResult) -> str:
    advice, (alone, fused) = result.advice, compared_with_first(result)
    if result.value(FIRST) == 1:
        return "The first stage is right about all of these queries, so they cannot show a gain: test on harder ones."
    if advice is None or not advice.rerank:
        needed = _needed(fused) if (fused.difference or 0) > 0 else ""
        gain = f"{result.main_metric} {_insignificant(fused)}, cross-fitted{needed}"
        if result.queries < FEW and WORSE not in (alone.outcome, fused.outcome):
            return f"Too few queries to tell whether reranking helps: no significant gain, even fused ({gain})."
        return f"Do not rerank with this model: even fused, no significant gain over the first stage ({gain})."
    if advised_order(result) == MODEL:
        return f"Rerank all {advice.depth} with the model alone: {result.main_metric} {difference_text(alone)}."
    how = f"Rerank the first {advice.depth} with weight {advice.weight:g}"
    return f"{how}: {result.main_metric} {difference_text(fused)} over the first stage (cross-fitted)."


def _insignificant(one: PairedDifference) -> str:
    """Return a difference; with its corrected p where the interval, which is of one comparison alone, is without 0."""
    alone = one.interval is not None and not one.interval.low <= 0 <= one.interval.high
    return difference_text(one) + (f", corrected p {one.p_corrected:.3f}" if alone else "")


def _needed(one: PairedDifference) -> str:
    return f"; detecting it takes about {one.pairs_needed:,} queries" if one.pairs_needed else ""


def against_baselines(result: RerankerTestResult) -> list[ModelComparison]:
    """Return the main metric's comparisons of the tested model with other models."""
    return [
        one
        for one in result.comparisons
        if one.metric == result.main_metric and one.order == MODEL and one.baseline != FIRST
    ]


def failures(result: RerankerTestResult, *, unless_better: bool) -> list[ModelComparison]:
    """Return the comparisons for which a script that was asked to must exit 3, none where it must not.

    These are significant losses to a baseline, or to the first stage unless the fusion gains. With ``unless_better``,
    the model must beat every baseline, and the model or the fusion the first stage.
    """
    alone, fused = compared_with_first(result)
    baselines, gains = against_baselines(result), BETTER in (alone.outcome, fused.outcome)
    if unless_better:
        return [one for one in baselines if one.outcome != BETTER] + ([] if gains else [fused])
    lost = alone.outcome == WORSE and fused.outcome != BETTER
    return [one for one in baselines if one.outcome == WORSE] + ([alone] if lost else [])
