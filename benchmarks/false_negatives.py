"""How many planted false negatives does a judge that errs find, what does it cost, and what comes back by training?

    python benchmarks/false_negatives.py                 # minutes on two cores, after `make data`
    python benchmarks/false_negatives.py --train 1       # also train on clean, noisy and corrected rows

A query is the start of an article, its positive one half of the rest, the planted false negative the other half. True
negatives are halves of the articles nearest to the query. The judge knows the truth and errs at random: anew in each
form of the question, or, as a language model may, in the same way in all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train_reranker"))

from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.data.mining import nearest
from utils.data.relabelling import CALLS_PER_ROW, KEPT, RELABELLED, Steps, by_teacher, corrected, suspects_of
from utils.data.rows import pools_of_rows
from utils.data.scores import score_rows
from utils.evaluation.metrics import evaluate, pairs_of, pools_of
from utils.files import write_json, write_jsonl
from utils.progress import log
from utils.report.text import percent, table
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import ContrastiveExample, Document, Outcome, Verdict
from utils.scoring import open_reranker
from utils.teachers.base import Teacher
from utils.teachers.words import sentences
from utils.training.job import prepare
from utils.training.run import run
from utils.training.settings import TrainingSettings

PLANTED = 0.2  # share of the rows
WORDS = 60  # of a half


class NoisyJudge(Teacher):
    """Knows which passages are relevant, and errs with a probability."""

    variants = 3

    def __init__(self, relevant: set[tuple[str, str]], error: float, persistent: bool, seed: int) -> None:
        """Draw errors from the seed: for each form of a question, or for all forms together."""
        self._relevant, self._error, self._persistent, self._seed = relevant, error, persistent, seed

    async def relevant(self, query: str, positive: str, passages: Sequence[str], variant: int = 0) -> list[Verdict]:
        """Return the truth about each passage, or its opposite."""
        form = 0 if self._persistent else variant
        keys = (f"{self._seed} {form} {query} {passage}" for passage in passages)
        errs = [random.Random(key).random() < self._error for key in keys]
        said = [((query, passage) in self._relevant) != wrong for passage, wrong in zip(passages, errs, strict=True)]
        return [Verdict(Outcome.USABLE if yes else Outcome.UNUSABLE, "") for yes in said]


class Rates(NamedTuple):
    """What became of planted false negatives and of true ones."""

    found: float
    relabelled: float  # of the planted
    lost: float  # of the true
    calls: float  # per row


def main() -> None:
    """Print the rates over the seeds for each kind of judge, and what training on the rows gives."""
    args = parse_args()
    config = load_config()
    retriever = open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))
    made = make_rows(retriever, args.rows + args.test_rows, args.negatives, random.Random(args.seed))
    test, rows = made[: args.test_rows], made[args.test_rows :]
    scored = score_rows(rows, open_reranker(args.model_path), "passages scored")
    shown, results = [], {}
    for error in (0.0, 0.1, 0.2):
        for persistent in (False, True) if error else (False,):
            rates = [judged(scored, error, persistent, seed)[1] for seed in range(args.seeds)]
            kind = f"errs {percent(error)}, {'always alike' if persistent else 'anew each time'}"
            results[kind] = [one._asdict() for one in rates]
            shown.append([kind, *(spread([one[i] for one in rates]) for i in range(4))])
    print(table(shown, ["judge", "found", "relabelled", "true ones lost", "calls a row"]))
    if args.train:
        results["MRR"] = trained = train_all(scored, test, args)
        print(
            table([[name, *values] for name, values in trained.items()], ["trained on", *map(str, range(args.train))])
        )
    write_json(ROOT / "benchmarks" / "results" / "false_negatives.json", results)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1000, help="default: 1000")
    parser.add_argument("--test_rows", type=int, default=150, help="default: 150")
    parser.add_argument("--negatives", type=int, default=3, help="of a row (default: 3)")
    parser.add_argument("--seeds", type=int, default=20, help="plantings and judges (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the rows (default: 0)")
    parser.add_argument("--train", type=int, default=0, help="seeds to train with (default: none)")
    parser.add_argument("--model_path", default=str(ROOT / "models" / "demo-reranker"), help="default: the demo's base")
    return parser.parse_args()


def make_rows(retriever: Retriever, count: int, negatives: int, rng: random.Random) -> list[ContrastiveExample]:
    """Return rows with two positives, the halves of an article without its start, which is the query."""
    rows: list[ContrastiveExample] = []
    for document in retriever.corpus.sample(rng, 300):
        parts = sentences(document.contents)
        if len(parts) > 2 and len(rows) < count:
            rows.append(ContrastiveExample(" ".join(parts[0].split()[:12]), halves(document), [document.text]))
    if len(rows) < count:
        sys.exit(f"{retriever.corpus.path} has {len(rows)} articles that are long enough, not {count}: see --rows")
    near = nearest(rows, {}, retriever, negatives)
    return [row._replace(neg=[rng.choice(halves(one)) for one in found]) for row, found in zip(rows, near, strict=True)]


def halves(document: Document) -> list[str]:
    """Return two passages of a document, each under its title, without the first sentence."""
    rest = sentences(document.contents)[1:] or [document.contents]
    middle = max(1, len(rest) // 2)
    texts = [" ".join(" ".join(part).split()[:WORDS]) for part in (rest[:middle], rest[middle:])]
    return [f"{document.title}\n{text}" for text in texts if text]


def planted(rows: Sequence[ContrastiveExample], seed: int) -> tuple[list[ContrastiveExample], set[tuple[str, str]]]:
    """Return the rows with one positive, the other one being a negative in some; and these, with their queries."""
    chosen = set(random.Random(seed).sample(range(len(rows)), int(PLANTED * len(rows))))
    noisy, wrong = [], set[tuple[str, str]]()
    for number, row in enumerate(rows):
        (one, other), (score, other_score) = row.pos, row.pos_scores or (0, 0)
        row = row._replace(pos=[one], pos_scores=[score])
        if number in chosen:
            row = row._replace(neg=[other, *row.neg[1:]], neg_scores=[other_score, *(row.neg_scores or ())[1:]])
            wrong.add((row.query, other))
        noisy.append(row)
    return noisy, wrong


def judged(
    rows: Sequence[ContrastiveExample], error: float, persistent: bool, seed: int
) -> tuple[list[ContrastiveExample], Rates]:
    """Plant false negatives and let a judge look for them; return the corrected rows and the rates."""
    noisy, wrong = planted(rows, seed)
    judge = NoisyJudge(wrong, error, persistent, seed)
    calls = CALLS_PER_ROW * len(rows)
    findings, asked = asyncio.run(by_teacher(noisy, suspects_of(noisy), judge, calls, Steps()))
    caught = [one for one in findings if one.decision != KEPT]
    right = [one for one in caught if (noisy[one.suspect.row].query, one.suspect.passage) in wrong]
    true = sum(len(row.neg) for row in noisy) - len(wrong)
    relabelled = sum(one.decision == RELABELLED for one in right) / len(wrong)
    rates = Rates(len(right) / len(wrong), relabelled, (len(caught) - len(right)) / true, asked / len(rows))
    return corrected(noisy, findings), rates


def spread(values: Sequence[float]) -> str:
    """Return the mean with the lowest and the highest."""
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def train_all(
    rows: Sequence[ContrastiveExample], test: Sequence[ContrastiveExample], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the MRR on the held-out rows after training on each kind of rows, per seed."""
    found: dict[str, list[float]] = {}
    for seed in range(args.train):
        kinds = {
            "clean": [row._replace(pos=row.pos[:1]) for row in rows],
            "noisy": planted(rows, seed)[0],
            "corrected": judged(rows, 0.1, False, seed)[0],
        }
        for name, chosen in kinds.items():
            plain = [row._replace(pos_scores=None, neg_scores=None) for row in chosen]
            found.setdefault(name, []).append(mrr(plain, test, args.model_path, seed))
            log.info("seed %d, %s: MRR %.3f", seed, name, found[name][-1])
    return found


def mrr(rows: Sequence[ContrastiveExample], test: Sequence[ContrastiveExample], model: str, seed: int) -> float:
    """Train on rows; return the MRR on others, of the harder half of each article."""
    pools = pools_of_rows([row._replace(pos=row.pos[1:]) for row in test])
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(Path(folder) / "train.jsonl", (row.row() for row in rows))
        options: dict[str, Any] = {"epochs": 1, "batch_size": 8, "learning_rate": 5e-5, "eval_fraction": 0}
        settings = TrainingSettings(
            model_path=model, train_data=[f"{folder}/train.jsonl"], output_dir=f"{folder}/out", query_max_len=24,
            passage_max_len=104, save_steps=0, report_to="none", seed=seed, **options,
        )  # fmt: skip
        run(prepare(settings))
        scores = open_reranker(f"{folder}/out").score(pairs_of(pools))
    return float(np.mean(evaluate(pools_of(pools, scores))["MRR"]))


if __name__ == "__main__":
    main()
