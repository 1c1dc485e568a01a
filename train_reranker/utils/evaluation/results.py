"""What a run found, as its JSON file holds it: the typed, versioned records that text, plots and pages read.

What cannot be computed, for too few or all-equal values, is None. Intervals are 95% confidence intervals.
"""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from utils.evaluation.paired import NO_DIFFERENCE, PairedDifference
from utils.evaluation.statistics import Interval
from utils.evaluation.wins_and_losses import RankedQuery
from utils.labelling.record import JudgedSource
from utils.typed import record, typed

VERSION = 3
# What the figures depend on.
PACKAGES = (
    "torch", "transformers", "FlagEmbedding", "faiss-cpu", "bm25s", "numpy", "scipy", "ir-measures", "matplotlib",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all result files hold."""

    version: int = VERSION
    settings: dict[str, Any]
    summary: str  # what the run has shown, in a sentence or two
    versions: dict[str, str] = field(default_factory=package_versions)

    @property
    def headline(self) -> str:
        """The summary as text and page show it."""
        return self.summary

    def to_json(self) -> dict[str, Any]:
        """Return the result as its file holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the result that a file of this or an earlier version holds; ValueError if it holds none."""
        if not isinstance(values, dict):
            raise ValueError("it is no object")
        if typed(int, values.get("version", 1), "version") > VERSION:
            raise ValueError(f"version {values['version']} is newer than {VERSION}, which this program reads")
        try:
            if "version" not in values:
                rows = [cls._upgraded(row, values) for row in values["comparisons"]]
                values = {**values, "summary": values["verdict"], "comparisons": rows}
        except (KeyError, TypeError) as error:
            raise ValueError(f"comparisons: {error!r}") from None
        return record(cls, {"versions": {}, **values, "version": VERSION}, "result")

    @classmethod
    def _upgraded(cls, row: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a comparison of a version 1 file, which holds ``values``, as version 2 has it."""
        raise NotImplementedError


@dataclass(frozen=True)
class WithinBudget:
    """The share of sources with a usable candidate among their first ``budget`` ones."""

    budget: int
    rate: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """One arm over the sources on which its trial completed."""

    arm: str
    label: str = ""  # what it returns, in words
    sources: int
    successes: int  # sources with a usable candidate
    errors: int  # sources that an error left undecided; they are not among ``sources``
    success_rate: float | None  # 0 to 1
    success_interval: Interval | None  # Wilson
    mean_attempts: float | None  # candidates judged until the first usable one, over the sources that have one
    attempts_interval: Interval | None
    mean_judged: float | None  # candidates judged per source, sources without a usable one included
    judged_interval: Interval | None
    within: list[WithinBudget]  # budgets of 1, 2, …
    distribution: list[int]  # sources whose first usable candidate has rank 1, 2, …
    without: int  # sources without a usable candidate


@dataclass(frozen=True, kw_only=True)
class SweepFigures(ArmFigures):
    """An arm with other settings of retrieval, and its difference from the run's own settings."""

    lambda1: float
    lambda2: float
    lambda3: float
    rerank_pool_factor: int
    rerank_weight: float = 1.0  # as it was before it could be set
    verdicts_asked: int  # new ones that this setting needed
    judged_difference: float | None
    difference_interval: Interval | None
    judged_p: float
    judged_p_corrected: float


@dataclass(frozen=True, kw_only=True)
class ArmComparison:
    """Two arms over the sources on which both completed. Differences are arm − baseline."""

    arm: str
    baseline: str
    sources: int
    left_out: int  # sources that an error of either left undecided
    success_difference: float | None  # of the rates, −1 to 1
    success_interval: Interval | None  # Tango
    only_arm: int  # sources on which only the arm succeeded
    only_baseline: int
    success_p: float  # exact McNemar
    success_p_corrected: float
    judged_difference: float | None  # candidates judged per source; negative is better
    judged_interval: Interval | None
    judged_p: float
    judged_p_corrected: float
    outcome: str  # by the candidates judged: see PairedDifference.outcome
    sources_needed_success: int | None  # to detect such a difference with 80% power
    sources_needed_judged: int | None
    calls_saved_per_thousand: float | None  # teacher calls per thousand sources; negative where the arm costs more
    calls_saved_interval: Interval | None
    money_saved_per_thousand: float | None  # in the currency of the prices; None without prices
    money_saved_interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class AblationResult(Result):
    """An ablation, or several side by side."""

    title: str = "Ablation: how many candidates until the first usable one"
    finished: bool = True  # False where a budget or an interruption ended the run early
    table: list[ArmFigures]
    comparisons: list[ArmComparison]
    sources: list[JudgedSource]
    cost_per_call: float | None = None  # of a teacher's judgement, in the currency of the prices
    extraction_errors: int = 0
    left_out: dict[str, str] = field(default_factory=dict)  # arms that could not run, with the reason
    sweep: list[SweepFigures] = field(default_factory=list)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)  # per query, by arm and stage
    documents: dict[str, str] = field(default_factory=dict)  # titles by id
    ledger: dict[str, Any] = field(default_factory=dict)
    other_queries: int = 0  # of runs side by side: sources that some run asked another query for

    def to_json(self) -> dict[str, Any]:
        """Return the result as its file holds it."""
        return asdict(replace(self, sources=[])) | {"sources": [source.to_json() for source in self.sources]}

    @property
    def headline(self) -> str:
        """The summary, after a warning where the run is unfinished."""
        return (
            self.summary if self.finished else f"The run is unfinished, and its figures are preliminary. {self.summary}"
        )

    @classmethod
    def _upgraded(cls, row: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        outcome = NO_DIFFERENCE if row["outcome"] == "undecided" else row["outcome"]
        money = row["money_saved_interval"] if row["money_saved_per_thousand"] is not None else None
        return row | {"outcome": outcome, "money_saved_interval": money}


@dataclass(frozen=True)
class MetricFigures:
    """One metric: the models' means, by name, with intervals, and a random order's expected value on the same pools."""

    metric: str
    values: dict[str, float]
    intervals: dict[str, Interval | None]
    random: float


@dataclass(frozen=True, kw_only=True)
class ModelComparison(PairedDifference):
    """One metric of an order less that of a baseline, query by query."""

    metric: str
    order: str = "model"
    baseline: str


@dataclass(frozen=True)
class Slice:
    """The models' main metric over the queries whose ``kind`` is from ``low`` to ``high``."""

    kind: str
    low: int
    high: int
    queries: int
    values: dict[str, float]
    intervals: dict[str, Interval | None]
    random: float


@dataclass(frozen=True)
class Histogram:
    """The shares of positives and of negatives in bins of equal width; one more edge than bins."""

    edges: list[float]
    positives: list[float]
    negatives: list[float]


@dataclass(frozen=True)
class Separation:
    """Whether a model's scores separate positives from negatives: over all pairs, per query, and as probabilities."""

    auc: float | None  # chance that any positive scores above any negative, of whatever query
    positive_mean: float
    negative_mean: float
    gap: float  # mean over queries: the positives' mean less the negatives', in the scores' unit
    gap_interval: Interval | None
    calibration_error: float  # expected calibration error (Naeini et al., 2015) of the sigmoids, 0 to 1
    histogram: Histogram


@dataclass(frozen=True)
class Advice:
    """Whether to rerank with the tested model, and how: weight and depth are chosen by nDCG@10 over all queries."""

    rerank: bool
    weight: float  # of the model in the fusion with the first stage, 0 to 1; 1 is the model alone
    depth: int  # documents to rerank


@dataclass(frozen=True)
class Curves:
    """Mean nDCG@10 by how many documents are reranked, and by the model's weight; the best of them flatters."""

    depths: list[int]
    alone: list[float]  # by depth, of the model alone
    fused: list[float]  # by depth, at ``weight``
    weight: float
    weights: list[float]
    by_weight: list[float]  # at ``depth``
    depth: int


@dataclass(frozen=True, kw_only=True)
class RerankerTestResult(Result):
    """A test of a reranker, beside baselines where there are any, and the orders that need none of them."""

    queries: int
    metrics: list[MetricFigures]
    comparisons: list[ModelComparison]
    slices: list[Slice]
    separation: dict[str, Separation]  # by the model's name
    main_metric: str = "MRR"  # that the summary and the exit code go by
    first_stage: str = ""  # what the order before reranking is, in words; earlier versions had none
    judged: float = 1.0  # share of the passages that have a grade, 0 to 1
    missed: float = 0.0  # share of the relevant documents that are in no pool, 0 to 1
    advice: Advice | None = None
    curves: Curves | None = None
    examples: list[RankedQuery] = field(default_factory=list)  # the largest wins and losses

    def difference(self, order: str, baseline: str) -> ModelComparison | None:
        """Return the comparison of two orders by the main metric, None if they were not compared."""
        wanted = (self.main_metric, order, baseline)
        return next((one for one in self.comparisons if (one.metric, one.order, one.baseline) == wanted), None)

    def value(self, order: str) -> float | None:
        """Return the mean of the main metric for an order, None if there is no such order."""
        return next(row for row in self.metrics if row.metric == self.main_metric).values.get(order)

    @classmethod
    def _upgraded(cls, row: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        return row | {"pairs": values["queries"], "pairs_needed": row["queries_needed"]}
