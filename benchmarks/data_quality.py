"""Which training data makes the better reranker? One base, one budget of training, and different rows.

    python benchmarks/data_quality.py --data ~/beir/scifact ~/beir/nfcorpus      # two hours on one core

For each seed, sources are drawn and labelled as in the demo. Every kind of data is made of these, trained on for
as many steps, and tested on held-out sources and on the BEIR folders (with their first_stage.trec if there is one).
Nothing is mixed with the base, so that the data alone tells. Differences are paired by query, p is corrected by Holm
over the kinds. Finished stages are kept in --work and used again: remove it after a change of the code.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau

from proof import RECIPES, ROOT, SCRIPTS, Labelled, flags, label, run, shown
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.data.first_stage import read_test_data
from utils.data.judged import JudgedPool
from utils.data.rows import read_examples
from utils.evaluation.metrics import evaluate, pairs_of, pools_of
from utils.evaluation.paired import NO_DIFFERENCE, PairedDifference, correct, paired
from utils.files import write_json, write_jsonl
from utils.labelling.journal import read_journal
from utils.report.text import table
from utils.schema import ContrastiveExample, Outcome
from utils.scoring import open_reranker

Rows = list[ContrastiveExample]
HELD_OUT = "held-out sources"


def first(rows: Rows, _: Labelled) -> Rows:
    """Return rows with the first positive and the first negative, as HopWeaver keeps them."""
    return [row._replace(pos=row.pos[:1], neg=row.neg[:1]) for row in rows]


def several(rows: Rows, _: Labelled) -> Rows:
    """Return rows with all that was judged."""
    return rows


def graded(rows: Rows, made: Labelled) -> Rows:
    """Return rows whose usable passages have grade 2, and those that mention the entity without being usable 1."""
    corpus = Corpus(load_config(made.config).corpus)
    reasons = {
        (source.query, corpus.get(one).text): verdict.reason
        for source in read_journal(made.provenance).rows.values()
        for one, verdict in source.verdicts.items()
        if verdict.outcome is Outcome.UNUSABLE
    }
    found = []
    for row in rows:
        mentions = [text for text in row.neg if reasons[row.query, text] != "does not mention the entity"]
        grades = [2] * len(row.pos) + [1] * len(mentions)
        neg = [text for text in row.neg if text not in mentions]
        found.append(row._replace(pos=[*row.pos, *mentions], neg=neg, pos_grades=grades))
    return found


class Kind(NamedTuple):
    """How rows are made of what was labelled, and trained on."""

    rows: Callable[[Rows, Labelled], Rows] = first
    mined: bool = False  # by tools.mine_negatives, up to ``NEGATIVES``
    corrected: str = ""  # flags of tools.mine_negatives for false negatives among these
    scored: bool = False  # by the base
    train: str = ""  # flags of the training, after the Makefile's


BASE, FIRST, SOFT = (
    "the base, not trained",
    "first positive, first negative",
    "several negatives, soft labels of the base",
)
KINDS = {
    FIRST: Kind(),
    "several negatives": Kind(several),
    "mined": Kind(mined=True),
    "mined, false ones relabelled": Kind(mined=True, corrected="--no_drop"),
    "mined, false ones dropped": Kind(mined=True, corrected="--no_relabel"),
    "mined, relabelled and dropped": Kind(mined=True, corrected="--judge teacher"),
    "several negatives, the base's soft labels": Kind(several, scored=True, train="--knowledge_distillation"),
    "three grades": Kind(graded),
}
NEGATIVES = 5  # of a row, where it is mined: as many as the demo's examples have at most
MINE = f"--num_negatives {NEGATIVES} --range_max 20"


def main() -> None:
    """Make, train and test all kinds with all seeds; print and write the table."""
    args = parse_args()
    found: dict[str, list[dict[str, list[float]]]] = {}  # by kind and seed: each query's figure, by set
    follows: dict[str, list[float]] = {}  # Kendall's tau with the base on held-out pools
    counts: dict[str, list[float]] = {}
    for seed in args.seeds:
        made = label(args, RECIPES["the demo's"], seed)
        for kind in KINDS:
            values, tau, rows = tested(args, kind, made, seed)
            found.setdefault(kind, []).append(values)
            follows.setdefault(kind, []).append(tau)
            counts.setdefault(kind, []).append(rows)
        found.setdefault(BASE, []).append(tested(args, BASE, made, seed)[0])
    print(tables(pooled(found), counts, follows))
    value = {"seeds": args.seeds, "values": found, "tau": follows, "negatives": counts}
    write_json(ROOT / "benchmarks" / "results" / "data_quality.json", value)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", required=True, type=Path, help="BEIR folders with judged queries")
    parser.add_argument("--depth", type=int, default=20, help="documents to rerank for each query (default: 20)")
    parser.add_argument("--rows", type=int, default=320, help="sources of each seed to train on (default: 320)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=SCRIPTS / "data" / "proof", help="folder of what is made")
    return parser.parse_args()


def tested(
    args: argparse.Namespace, kind: str, made: Labelled, seed: int
) -> tuple[dict[str, list[float]], float, float]:
    """Train on a kind, unless that was done; return figures by set, agreement with the base, negatives a row."""
    place = args.work.resolve() / "quality" / f"{made.folder.name}-{[BASE, *KINDS].index(kind)}"
    output = place.with_suffix(".json")
    if not output.exists():
        model, negatives = (made.base, 0.0) if kind == BASE else trained(args, place, KINDS[kind], made, seed)
        values, tau = figures(args, model, made)
        write_json(output, {"kind": kind, "values": values, "tau": tau, "negatives": negatives})
    known = json.loads(output.read_text(encoding="utf-8"))
    assert known["kind"] == kind
    return known["values"], known["tau"], known["negatives"]


def trained(args: argparse.Namespace, place: Path, kind: Kind, made: Labelled, seed: int) -> tuple[Path, float]:
    """Make the rows of a kind and train on them; return the model's folder, and the negatives of a row."""
    data = place.with_suffix(".jsonl")
    data.parent.mkdir(parents=True, exist_ok=True)
    rows = kind.rows(read_examples([made.folder / "train_data.jsonl"])[: args.rows], made)
    write_jsonl(data, (row.row() for row in rows))
    if kind.mined:
        shared = data.with_name(f"{made.folder.name}.jsonl")  # the same negatives for all kinds
        shared.write_bytes(data.read_bytes())
        data = changed(shared, "mined", "mine_negatives", f"--config {made.config} {MINE} --no_relabel --no_drop", True)
    if kind.corrected:
        data = changed(data, place.name, "mine_negatives", f"--config {made.config} {MINE} {kind.corrected}")
    if kind.scored:
        data = changed(data, "scored", "score_examples", f"--model_path {made.base}")
    own = ["--mix_with_base", 0, "--eval_fraction", 0, "--save_steps", 0, "--report_to", "none", "--seed", seed]
    given = ["--model_path", made.base, "--train_data", data, "--output_dir", place, "--overwrite_output_dir"]
    run("train_reranker.py", *given, *flags("TRAIN"), *own, *shlex.split(kind.train))
    return place, float(np.mean([len(row.neg) for row in read_examples([data])]))


def changed(data: Path, name: str, tool: str, flags: str, keep: bool = False) -> Path:
    """Return the file that a tool makes of a file of rows; ``keep`` one that is there."""
    output = data.with_suffix(f".{name}.jsonl")
    if not (keep and output.exists()):
        output.unlink(missing_ok=True)
        run(f"-m tools.{tool}", "--train_data", data, "--output_file", output, *shlex.split(flags))
    return output


def figures(args: argparse.Namespace, model: Path, made: Labelled) -> tuple[dict[str, list[float]], float]:
    """Return each query's nDCG@10 on people's sets and MRR on held-out sources, and the agreement with the base there.

    The agreement is Kendall's tau of the two rerankers' scores, the mean of the held-out pools.
    """
    reranker, found = open_reranker(model), {}
    for folder in args.data:
        stage = folder / "first_stage.trec"
        test = read_test_data(str(folder.resolve()), str(stage.resolve()) if stage.exists() else None, None, args.depth)
        found[folder.name] = evaluate(pools_of(test.pools, reranker.score(pairs_of(test.pools))))["nDCG@10"]
    pools = read_test_data(str(made.folder / "test_data.jsonl")).pools
    scores = reranker.score(pairs_of(pools))
    found[HELD_OUT] = evaluate(pools_of(pools, scores))["MRR"]
    base = open_reranker(made.base).score(pairs_of(pools))
    return found, float(np.nanmean(list(taus(pools, scores, base))))


def taus(pools: Sequence[JudgedPool], ours: np.ndarray, theirs: np.ndarray) -> Iterator[float]:
    """Yield Kendall's tau of two rerankers' scores in each pool."""
    for one, other in zip(pools_of(pools, ours), pools_of(pools, theirs), strict=True):
        yield float(kendalltau(one.scores, other.scores).statistic)


def pooled(found: dict[str, list[dict[str, list[float]]]]) -> dict[str, dict[str, np.ndarray]]:
    """Return each query's figure by kind and set, over the seeds.

    Every seed has held-out sources of its own; people's queries are the same in all, and count once.
    """
    return {
        kind: {
            name: np.concatenate([one[name] for one in seeds])
            if name == HELD_OUT
            else np.mean([one[name] for one in seeds], axis=0)
            for name in seeds[0]
        }
        for kind, seeds in found.items()
    }


def tables(
    values: dict[str, dict[str, np.ndarray]], counts: dict[str, list[float]], follows: dict[str, list[float]]
) -> str:
    """Return the figures of all kinds, and their differences from the first positive and negative."""
    others = [kind for kind in (BASE, *KINDS) if kind != FIRST]
    differences: dict[tuple[str, str], PairedDifference] = {}
    for name in values[FIRST]:
        tests = correct([paired(values[kind][name], values[FIRST][name]) for kind in others])
        differences |= {(kind, name): one for kind, one in zip(others, tests, strict=True)}
    rows, against = [], []
    for kind in (BASE, *KINDS):
        facts = [f"{np.mean(counts[kind]):.1f}", f"{np.mean(follows[kind]):.2f}"] if kind in counts else ["–", "–"]
        for name, one in values[kind].items():
            difference = differences.get((kind, name))
            star = "*" if difference and difference.outcome != NO_DIFFERENCE else ""
            facts.append(f"{one.mean():.3f}{star}")
        rows.append([kind, *facts])
        if kind != FIRST:
            against.append([kind, *(shown(differences[kind, name]) for name in values[kind])])
    figures = table(rows, ["trained on", "negatives a row", "tau with the base", *values[FIRST]])
    return f"{figures}\n* another than {FIRST}, p < 0.05\n\n{table(against, [f'less {FIRST}', *values[FIRST]])}"


if __name__ == "__main__":
    main()
