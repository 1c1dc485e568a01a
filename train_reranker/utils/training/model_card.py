"""The model card of a fine-tuned reranker: metadata, metrics, how it was trained, and how to load it."""

from typing import Any

from utils.models.folders import BASE_MODEL
from utils.report.text import table
from utils.training import checkpoints
from utils.training.history import GUARD, HELD_OUT, EvaluationHistory
from utils.training.job import CARD_FILE
from utils.training.settings import TrainingJob
from utils.training.using import using


def write(job: TrainingJob, history: EvaluationHistory | None) -> None:
    """Write the card into the output folder, atomically."""
    settings = job.settings
    loss, others = "listwise cross-entropy", settings.train_group_size - 1
    if settings.soft_labels_only:
        loss = "distillation of scores"
    introduction = (
        f"A reranker: it scores how well a passage answers a query. Fine-tuned from `{_base_name(job)}` with a "
        f"{loss} over groups of one positive and {others} negatives."
    )
    parts = [f"---\n{_metadata(job, history)}\n---", f"# {job.output.name}", introduction]
    parts += [
        "## Metrics",
        _metrics(job, history),
        "## Training",
        _training(job),
        "## Use",
        using(job.output.name, job.lengths),
    ]
    with checkpoints.adding(job.output) as folder:
        (folder / CARD_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _metadata(job: TrainingJob, history: EvaluationHistory | None) -> str:
    """Return the card's metadata as YAML, with the keys and values that the Hugging Face hub knows."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for name, one in history.sets.items() if history else ():
        task = {"task_type": "text-ranking", "task_name": "Reranking"}
        data: Any = task | {"dataset_type": "custom", "dataset_name": f"{name} queries"}
        values = (("mrr", "MRR", one.final.MRR), ("ndcg", "nDCG@10", one.final.nDCG_10)) if one.final else ()
        results += [EvalResult(**data, metric_type=k, metric_name=n, metric_value=round(v, 4)) for k, n, v in values]
    return ModelCardData(
        library_name="sentence-transformers", pipeline_tag="text-ranking", base_model=_base_name(job),
        tags=["reranker", "cross-encoder", "sentence-transformers"], eval_results=results or None,
        model_name=job.output.name if results else None,
    ).to_yaml()  # fmt: skip


def _base_name(job: TrainingJob) -> str:
    """Return the base model's name: a known repository, else its folder's."""
    return BASE_MODEL if job.model.name == BASE_MODEL.partition("/")[2] else job.model.name


def _metrics(job: TrainingJob, history: EvaluationHistory | None) -> str:
    if history is None or (summary := history.summary()) is None:
        return "Not compared with its base: the training had no held-out queries, or its first evaluation is lost."
    rows = []
    for name in history.differences():
        base, final = history.sets[name].points[0], history.sets[name].final
        assert final is not None
        rows += [[f"MRR, {name}", base.MRR, final.MRR], [f"nDCG@10, {name}", base.nDCG_10, final.nDCG_10]]
    parts = [f"```\n{table(rows, ['metric', 'base', f'step {history.best}'])}\n```"]
    parts += [f"{line}." for line in summary.splitlines()]
    if history.mix:
        tried = (f"{mix.share:g} ({', '.join(f'{n} {v:.3f}' for n, v in mix.means.items())})" for mix in history.mixes)
        parts.append(
            f"The weights are averaged with the base's; shares of the base that were tried: {'; '.join(tried)}."
        )
    origins = {HELD_OUT: job.settings.eval_data or ["a seeded share of the training data, with all their passages"]}
    origins[GUARD] = job.settings.guard_data
    parts += [f"The {name} queries: {', '.join(origins[name])}." for name in history.sets]
    return "\n\n".join(parts)


def _training(job: TrainingJob) -> str:
    settings, facts = job.settings, job.facts
    names = ["epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay"]
    names += [
        "train_group_size",
        "knowledge_distillation",
        "soft_labels_only",
        "freeze_embeddings",
        "dropout",
        "keep_close",
        "keep_close_to",
    ]
    names += ["mix_with_base", "seed"]
    shown = [
        f"data: {', '.join(settings.train_data)}: {facts.rows} rows, SHA-256 `{facts.digest}`",
        f"rows trained on: {len(job.examples)}",
        f"rows with filled-up negatives: {facts.short} ({settings.negative_fill})",
        f"tokens: query {job.lengths.query}, pair {job.lengths.pair}",
    ]
    return "\n".join(f"- {line}" for line in [*shown, *(f"`--{n}`: {getattr(settings, n)}" for n in names)])
