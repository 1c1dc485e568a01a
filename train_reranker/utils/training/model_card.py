"""The model card of a fine-tuned reranker: metadata, metrics, how it was trained, and how to load it."""

from __future__ import annotations

from typing import Any

from utils.files import replacing
from utils.models.folders import BASE_MODEL
from utils.report.text import table
from utils.training.held_out import EvaluationHistory
from utils.training.output import CARD_FILE
from utils.training.settings import TrainingJob


def write(job: TrainingJob, history: EvaluationHistory | None) -> None:
    """Write the card into the output folder, atomically."""
    import yaml

    header = yaml.safe_dump(metadata(job, history), sort_keys=False, allow_unicode=True)
    introduction = (
        f"A reranker: it scores how well a passage answers a query. Fine-tuned from `{base_name(job)}` with a "
        f"listwise cross-entropy over groups of one positive and {job.settings.train_group_size - 1} negatives."
    )
    parts = [f"---\n{header}---", f"# {job.output.name}", introduction, "## Metrics", _metrics(job, history)]
    parts += ["## Training", _training(job), "## Use", _snippets(job)]
    with replacing(job.output / CARD_FILE) as out:
        out.write("\n\n".join(parts) + "\n")


def metadata(job: TrainingJob, history: EvaluationHistory | None) -> dict[str, Any]:
    """Return the card's metadata, with the keys and values that the Hugging Face hub knows."""
    values: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "base_model": base_name(job),
        "tags": ["reranker", "cross-encoder", "sentence-transformers"],
    }
    if history is not None and history.best is not None:
        named = (("mrr", "MRR", history.best.MRR), ("ndcg", "nDCG@10", history.best.nDCG_10))
        entry = {
            "task": {"type": "text-ranking", "name": "Reranking"},
            "dataset": {"type": "custom", "name": "held-out queries"},
            "metrics": [{"type": kind, "name": name, "value": round(value, 4)} for kind, name, value in named],
        }
        values["model-index"] = [{"name": job.output.name, "results": [entry]}]
    return values


def base_name(job: TrainingJob) -> str:
    """Return the base model's name: a known repository, else its folder's."""
    return BASE_MODEL if job.model.name == BASE_MODEL.partition("/")[2] else job.model.name


def _metrics(job: TrainingJob, history: EvaluationHistory | None) -> str:
    summary = history and history.summary()
    if history is None or history.best is None or summary is None:
        return "Not compared with its base: the training had no held-out queries, or its first evaluation is lost."
    base, best = history.evaluations[0], history.best
    rows = [["MRR", base.MRR, best.MRR], ["nDCG@10", base.nDCG_10, best.nDCG_10]]
    origin = ", ".join(job.settings.eval_data) or "a seeded share of the training data, with all their passages"
    shown = table(rows, ["metric", "base", f"step {best.step}"])
    return f"```\n{shown}\n```\n\n{summary}.\n\nThe held-out queries: {origin}."


def _training(job: TrainingJob) -> str:
    settings, facts = job.settings, job.facts
    names = ["epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay"]
    names += ["train_group_size", "knowledge_distillation", "seed"]
    shown = {
        "data": f"{', '.join(settings.train_data)}: {facts.rows} rows, SHA-256 `{facts.digest}`",
        "rows trained on": len(job.examples),
        "rows with filled-up negatives": f"{facts.short} ({settings.fill})",
        "tokens": f"query {job.lengths.query}, pair {job.lengths.pair}",
    }
    shown |= {f"`--{name}`": getattr(settings, name) for name in names}
    return "\n".join(f"- {key}: {value}" for key, value in shown.items())


def _snippets(job: TrainingJob) -> str:
    name, length = job.output.name, job.lengths.pair
    return f'''```python
from FlagEmbedding import FlagReranker

reranker = FlagReranker("{name}", max_length={length})  # it reads no length from the folder
print(reranker.compute_score([("query", "passage")]))
```

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("{name}")
print(model.predict([("query", "passage")]))
```

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}").eval()
inputs = tokenizer(["query"], ["passage"], truncation="only_second", padding=True, return_tensors="pt")
with torch.inference_mode():
    print(model(**inputs).logits.flatten())
```'''
