"""What a generator run came to: its figures, and why it made nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from utils.labelling.judging import Stop
from utils.labelling.record import JudgedSource
from utils.teachers.ledger import Ledger

# What helps if most sources ended like this.
REMEDIES = {
    "no entity": "try another entity_extractor_model, or longer sources (--min_length)",
    "no positive": "try more candidates (--max_doc_candidates), or another question_generator_model",
    "no negative": "does the judge accept everything? Try more candidates (--max_doc_candidates), or another "
    "question_generator_model",
    "example": "candidates repeat each other's text: remove duplicates from the corpus",
}


def explain_none(rows: Sequence[JudgedSource]) -> str:
    """Return why sources gave no example, with the teacher's last words and what helps."""
    if not rows:
        return (
            "no example was made: the corpus has no source document to try; lower --min_length, or use more documents"
        )
    ((most, _), *_) = outcomes = Counter(row.outcome for row in rows).most_common()
    counts = ", ".join(f"{outcome} {count}" for outcome, count in outcomes)
    last = dict.fromkeys(row.error or _last_verdict(row) for row in reversed(rows) if row.error or row.all_verdicts)
    said = f"; last replies: {', '.join(list(last)[:3])}" if last else ""
    helps = f"; {REMEDIES[most]}" if most in REMEDIES else ""
    return f"no example was made of {len(rows)} sources ({counts}){said}{helps}"


def _last_verdict(row: JudgedSource) -> str:
    verdict = row.all_verdicts[-1]
    return f"{verdict.outcome} ({verdict.reason})"


def summarize(rows: Sequence[JudgedSource], stop: Stop, seconds: float, ledger: Ledger) -> dict[str, Any]:
    """Return the run's figures: why it stopped, sources and verdicts by outcome, time, and what the teacher took."""
    sources = Counter(row.outcome for row in rows)
    verdicts = Counter(verdict.outcome.value for row in rows for verdict in row.all_verdicts)
    spent = ledger.summary() if ledger.calls or ledger.cache_hits else {}
    if spent and spent["cost"] is not None and sources["example"]:
        spent["cost_per_example"] = spent["cost"] / sources["example"]
    return {
        "stopped because": stop.reason,
        "finished": stop.failure is None,
        "sources tried": len(rows),
        "examples": sources["example"],
        "sources by outcome": dict(sorted(sources.items())),
        "verdicts": dict(sorted(verdicts.items())),
        "seconds": round(seconds, 1),
        **spent,
    }
