"""What the first screen of a page says: the answer, why it may be believed, and what to do now."""

from collections.abc import Sequence
from typing import NamedTuple

from utils.data.first_stage import FIRST, LEXICAL
from utils.data.split import FEW
from utils.evaluation.paired import BETTER, WORSE, difference_text
from utils.evaluation.results import AblationResult, ArmComparison, RerankerTestResult, Result
from utils.evaluation.verdict import FUSED, MODEL, advised_order

# Metrics that a test goes by, in a word.
BEST = {
    "MRR": "MRR is 1 where the first relevant passage of every query stands on top",
    "nDCG@10": "nDCG@10 is 1 where the first 10 passages of every query stand in the best order",
}
BY_PEOPLE = "python test_reranker.py --model_path {} --test_data BEIR_FOLDER"


class Step(NamedTuple):
    """Something to do, with the command or the section of the page that does it."""

    text: str
    command: str = ""
    section: str = ""


class Lead(NamedTuple):
    """The first screen, above and beside the first plot."""

    about: str
    answer: str
    why: str = ""
    steps: Sequence[Step] = ()


def page_lead(result: Result, title: str) -> Lead:
    """Return the first screen of any result."""
    return Lead(title, result.headline)


def reranker_test_lead(result: RerankerTestResult) -> Lead:
    """Return whether the model helps, and how to use it; of earlier versions, which gave no advice, the summary."""
    model, data = (result.settings.get(key, "") for key in ("model", "test_data"))
    about = f"Test of the reranker {model} on {data}, {result.queries:,} queries"
    advice, (first, alone, fused) = result.advice, map(result.value, (FIRST, MODEL, FUSED))
    if advice is None or first is None or alone is None or fused is None:
        return Lead(about, result.headline)
    metric = result.main_metric
    steps: list[Step] = []
    by_itself, gain = result.difference(MODEL, FIRST), result.difference(FUSED, FIRST)
    if advice.rerank:
        reached = alone if advised_order(result) == MODEL else fused
        answer = f"This reranker helps: {metric} {first:.3f} without it, {reached:.3f} with it"
        steps.append(Step(_how_to_rerank(advice.depth, advice.weight)))
    else:
        worse = by_itself is not None and by_itself.outcome == WORSE
        if worse:
            answer = "This reranker ranks worse by itself, and does not help"
        elif result.queries < FEW:
            answer = f"{result.queries} queries are too few to tell whether this reranker helps"
        else:
            answer = "This reranker is not shown to help"
        answer += f": {metric} {first:.3f} without it, {alone:.3f} with it, {fused:.3f} with both fused"
        steps.append(Step(f"Keep the order that you have, the first stage's ({result.first_stage})."))
        if gain and gain.pairs_needed and (gain.difference or 0) > 0:
            found = f"The gain of both fused, {difference_text(gain)}, may be chance"
            steps.append(Step(f"{found}: to confirm it, test on about {gain.pairs_needed:,} queries."))
        elif result.queries < FEW:
            steps.append(Step(f"Test on {FEW} queries or more: {result.queries} can show only large gains."))
    if result.examples:
        steps.append(Step("Read the queries that it won and lost", section="cases"))
    if metric == "MRR":  # rows, which a teacher may have labelled
        confirm = (
            "If the teacher that labelled the training rows labelled these, too, confirm it by people's judgements:"
        )
        steps.append(Step(confirm, BY_PEOPLE.format(model)))
    unnamed = ", as no --config named a retriever" if result.first_stage == LEXICAL else ""
    why = f"{BEST.get(metric, metric)}. Without it, the order is the first stage's ({result.first_stage}{unnamed})."
    return Lead(about, answer, why, steps)


def _how_to_rerank(depth: int, weight: float) -> str:
    if weight == 1:
        return f"Rerank the first {depth} passages of each query by the model's scores alone (rerank_weight: 1)."
    return (
        f"Rerank the first {depth} passages of each query by {weight:g} × the model's score + {1 - weight:g} × the "
        f"first stage's, each normalised within the query (rerank_weight: {weight:g})."
    )


def ablation_lead(result: AblationResult) -> Lead:
    """Return which way of finding candidates reaches a usable one soonest."""
    about = result.title + ("" if result.finished else " (unfinished: the figures are preliminary)")
    compared = [one for one in result.comparisons if one.judged_difference is not None]
    if not compared:
        return Lead(about, result.headline)
    best = min(compared, key=lambda one: (one.outcome != BETTER, one.judged_difference or 0.0))
    labels = {arm.arm: arm.label for arm in result.table if arm.label}
    shown = [f"{arm}: {labels[arm]}" for arm in dict.fromkeys((best.arm, best.baseline)) if arm in labels]
    why = (
        "For each source document, the teacher judges the candidates of an arm in their order until one is usable: "
        "fewer judged is better. " + "".join(f"{one}. " for one in shown)
    )
    return Lead(about, _ablation_answer(best, compared), why, [*_ablation_steps(best), *_more_steps(result)])


def _ablation_answer(best: ArmComparison, compared: list[ArmComparison]) -> str:
    change = f"{abs(best.judged_difference or 0.0):.2f} {'fewer' if (best.judged_difference or 0.0) < 0 else 'more'}"
    if best.outcome == BETTER:
        return f"{best.arm} finds a usable candidate sooner than {best.baseline}: {change} judged per source"
    worse = [one.arm for one in compared if one.outcome == WORSE]
    also = f"; {' and '.join(worse)} {'is' if len(worse) == 1 else 'are'} worse" if worse else ""
    baselines = {one.baseline for one in compared}
    return f"No arm is shown to be better than {baselines.pop() if len(baselines) == 1 else 'its baseline'}{also}"


def _ablation_steps(best: ArmComparison) -> list[Step]:
    if best.outcome == BETTER:
        saved = best.calls_saved_per_thousand or 0.0
        return [Step(f"Retrieve with {best.arm}: it saves {saved:,.0f} calls of the teacher per 1,000 sources.")]
    steps = [Step(f"Keep {best.baseline}.")]
    if best.sources_needed_judged and (best.judged_difference or 0.0) < 0:
        more = (
            f"{best.arm} judged {-(best.judged_difference or 0.0):.2f} fewer per source, which may be chance. To know:"
        )
        steps.append(Step(more, f"python rerank_ablation_test.py --num {best.sources_needed_judged}"))
    return steps


def _more_steps(result: AblationResult) -> list[Step]:
    read = [Step("Read the sources that the arms won and lost", section="cases")] if result.sources else []
    return [
        *read,
        Step(
            "“Usable” is the teacher's judgement, and candidates to label are not search results. Whether a reranker "
            "improves a search, by people's judgement, is another test:",
            BY_PEOPLE.format("MODEL"),
        ),
    ]
