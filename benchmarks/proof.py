"""Does the demo's reranker help on relevance that people judged? And does each part of its recipe?

    make proof PROOF_DATA="$HOME/beir/scifact $HOME/beir/nfcorpus"   # the demo's recipe, 15 minutes on two cores
    python benchmarks/proof.py --data ~/beir/scifact --recipe        # each part changed, 100 minutes on one core

For each seed a base is distilled, examples are labelled and a reranker is trained with the Makefile's flags; then base
and reranker are tested on each BEIR folder (its first_stage.trec if there is one), on the held-out sources, and in the
ablation. Finished stages are kept in --work and used again: remove it after a change of the code, but not of flags.
The p-values are corrected by Holm over the folders.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "train_reranker"
sys.path.insert(0, str(SCRIPTS))

from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.data.first_stage import FIRST, LEXICAL
from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, PairedDifference, correct
from utils.evaluation.results import ModelComparison, RerankerTestResult, Result
from utils.evaluation.verdict import FUSED, MODEL
from utils.files import write_json, write_jsonl
from utils.report.page import write_page
from utils.report.plots import Difference, Plot, forest
from utils.report.text import Table, p_value
from utils.retrieval.encoder import QUERY
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.schema import ContrastiveExample

BASE = "baseline"
COMPARED = {
    (MODEL, BASE): "the reranker against its base",
    (FUSED, FIRST): "fused with the first stage against it",
}
Found = dict[Path, list[tuple[str, int, RerankerTestResult]]]  # recipe, seed and result, by folder


class Recipe(NamedTuple):
    """How a reranker is made, by what is changed in the demo's way."""

    base: str = ""  # flags of tools.distil_base, or TITLES
    generate: str = ""  # flags of the generator, after the Makefile's
    train: str = ""  # of the training, likewise
    keywords: bool = False  # the offline teacher's queries are keywords


DEMO, TITLES = "the demo's", "titles"
RECIPES = {
    DEMO: Recipe(),
    "base: trained on titles": Recipe(base=TITLES),
    "base: dense alone": Recipe(base="--bm25_weight 0"),
    "queries: keywords": Recipe(keywords=True),
    "examples: 400": Recipe(generate="--num_examples 400"),
    "no --mix_with_base": Recipe(train="--mix_with_base 0"),
    "--keep_close instead": Recipe(train="--mix_with_base 0 --keep_close 1"),
}


def main() -> None:
    """Make and test the rerankers of all seeds and recipes, print the tables, write the results and the page."""
    args = parse_args()
    if args.model:
        folders = args.base.resolve(), ROOT / "config_lib" / "demo_config.yaml", args.model.resolve()
        print(sets_table({folder: [("given", 0, test(args, folder, *folders))] for folder in args.data}).text())
        return
    names = list(RECIPES) if args.recipe else [DEMO]
    made = [(name, seed, make(args, RECIPES[name], seed)) for name in names for seed in args.seeds]
    found = {
        folder: [(name, seed, test(args, folder, *folders)) for name, seed, folders in made] for folder in args.data
    }
    homes = [(name, seed, at_home(args, *folders, ablate=name == DEMO)) for name, seed, folders in made]
    tables = [sets_table(found), home_table(homes)]
    print("\n\n".join(one.text() for one in tables))
    result = Result(settings={"data": list(map(str, args.data)), "seeds": args.seeds}, summary=summarize(found))
    output = ROOT / "benchmarks" / "results" / "proof.json"
    sets = {folder.name: [[name, seed, one.to_json()] for name, seed, one in rows] for folder, rows in found.items()}
    write_json(output, result.to_json() | {"sets": sets, "home": homes})
    print(f"\n{result.summary}\nthe page is {write_page(result, output, tables, plots_of(found), 'Proof')}")


def summarize(found: Found) -> str:
    """Say how often the demo's reranker gained and lost, against its base and against the first stage."""
    said = []
    for (order, baseline), words in COMPARED.items():
        outcomes = [
            difference.outcome
            for tests in zip(*found.values(), strict=True)
            for difference in corrected([one for name, _, one in tests if name == DEMO], order, baseline)
        ]
        counts = {outcome: outcomes.count(outcome) for outcome in (BETTER, NO_DIFFERENCE, WORSE)}
        said.append(f"{words}: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.items()))
    tests = sum(name == DEMO for rows in found.values() for name, _, _ in rows)
    return f"The demo's recipe in {tests} tests, after correction. {'; '.join(said)}."


def plots_of(found: Found) -> list[Plot]:
    """Plot the fusion's difference from the first stage in every test of the demo's recipe."""
    values = {
        f"{folder.name}, seed {seed}": Difference(difference.difference or 0.0, difference.interval, difference.outcome)
        for tests in zip(*([(folder, *row) for row in rows] for folder, rows in found.items()), strict=True)
        for folder, name, seed, one in tests
        if name == DEMO
        for difference in corrected([one], FUSED, FIRST)
    }
    return [forest(dict(sorted(values.items())), "nDCG@10 of reranker and first stage, less the first stage's")]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, type=Path, help="BEIR folders with judged queries")
    parser.add_argument("--model", type=Path, help="test this reranker, and train none")
    parser.add_argument(
        "--base", type=Path, default=ROOT / "models" / "demo-reranker", help="what --model was trained from"
    )
    parser.add_argument(
        "--depth", type=int, help="documents to rerank for each query (default: all of the run, else 100)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipe", action="store_true", help="also change each part of the recipe")
    parser.add_argument("--work", type=Path, default=SCRIPTS / "data" / "proof", help="folder of what is made")
    return parser.parse_args()


def flags(name: str) -> list[str]:
    """Return the flags that a variable of the Makefile holds."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{name} := ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert found is not None, name
    return shlex.split(found[1].replace("\\\n", " "))


def run(script: str, *arguments: Any) -> None:
    """Run a script of the toolkit from its folder."""
    command = [sys.executable, *script.split(), *map(str, arguments)]
    sys.stderr.write(f"{shlex.join(command[1:])}\n")
    subprocess.run(command, cwd=SCRIPTS, check=True, stdout=subprocess.DEVNULL)


class Labelled(NamedTuple):
    """What a reranker is made of: the folders of its base and of its examples."""

    base: Path
    folder: Path

    @property
    def config(self) -> Path:
        """The demo's configuration with the base as its reranker."""
        return self.folder.with_suffix(".yaml")

    @property
    def provenance(self) -> Path:
        """Every verdict on every source."""
        return self.folder / "examples.provenance.jsonl"


def place(args: argparse.Namespace, kind: str, seed: int, *made_with: object) -> Path:
    """Return the folder of what is made with flags, which its name tells apart."""
    return args.work.resolve() / f"{kind}-{sha256(repr(made_with).encode()).hexdigest()[:8]}-{seed}"


def label(args: argparse.Namespace, recipe: Recipe, seed: int) -> Labelled:
    """Return base and examples, made unless they are there."""
    base = place(args, "base", seed, recipe.base)
    data = place(args, "data", seed, recipe.base, flags("GENERATE"), recipe.generate, recipe.keywords)
    made = Labelled(base, data)
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        if recipe.base == TITLES:
            train_on_titles(base, seed)
        else:
            run("-m tools.distil_base", "--output_dir", base, "--seed", seed, *shlex.split(recipe.base))
    queries = "keywords" if recipe.keywords else "questions"
    demo = (ROOT / "config_lib" / "demo_config.yaml").read_text(encoding="utf-8")
    demo = re.sub("(?m)^reranker_path: .*$", f"reranker_path: {base}", demo)
    made.config.write_text(f"{demo}\noffline_queries: {queries}\n", encoding="utf-8")
    if not (data / "test_data.jsonl").exists():
        common = ["--config", made.config, "--output_dir", data, "--output_file", "examples.jsonl", "--overwrite"]
        run("contrastive_data_generator.py", *flags("GENERATE"), *common, "--seed", seed, *shlex.split(recipe.generate))
    return made


def make(args: argparse.Namespace, recipe: Recipe, seed: int) -> tuple[Path, Path, Path]:
    """Return the folders of the base, the examples and the reranker, made unless they are there."""
    base, data = label(args, recipe, seed)
    model = place(args, "model", seed, *recipe, flags("GENERATE"), flags("TRAIN"))
    if not (model / "README.md").exists():
        common = ["--model_path", base, "--train_data", data / "train_data.jsonl", "--output_dir", model]
        own = ["--seed", seed, "--report_to", "none", "--overwrite_output_dir", *shlex.split(recipe.train)]
        run("train_reranker.py", *common, *flags("TRAIN"), *own)
    return base, data, model


def train_on_titles(base: Path, seed: int) -> None:
    """Make a base from pairs of title and text, with the nearest other texts as negatives: what is cheaper."""
    config = load_config()
    retriever = open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))
    documents = random.Random(seed).sample(list(retriever.corpus), 320)
    _, near = retriever.index.search(retriever.encoder.encode([one.title for one in documents], QUERY), 8)
    texts = [[retriever.corpus[row].text for row in rows] for rows in near]
    rows = [
        ContrastiveExample(one.title, [one.text], [text for text in others if text != one.text][:6])
        for one, others in zip(documents, texts, strict=True)
    ]
    pairs = base.with_suffix(".jsonl")
    write_jsonl(pairs, (row.row() for row in rows))
    own = ["--train_data", pairs, "--output_dir", base, "--seed", seed, "--report_to", "none", "--eval_fraction", 0]
    lengths = [
        "--epochs",
        1,
        "--batch_size",
        8,
        "--learning_rate",
        1e-4,
        "--query_max_len",
        32,
        "--passage_max_len",
        96,
    ]
    run("train_reranker.py", "--model_path", retriever.encoder.path, *own, *lengths)


def test(args: argparse.Namespace, folder: Path, base: Path, data: Path, model: Path) -> RerankerTestResult:
    """Test a reranker and its base on a BEIR folder, or on rows."""
    output = args.work.resolve() / "results" / f"{folder.name}-{args.depth}-{model.name}.json"
    if args.model or not output.exists():
        stage = folder / "first_stage.trec"
        given = ["--run", stage.resolve()] if stage.exists() else ["--config", data.with_suffix(".yaml")]
        given += ["--depth", args.depth] if args.depth and folder.is_dir() else []
        output.parent.mkdir(parents=True, exist_ok=True)
        models = ["--model_path", model, "--baseline_model", base]
        run("test_reranker.py", *models, "--test_data", folder.resolve(), *given, "--output_file", output)
    return RerankerTestResult.from_json(json.loads(output.read_text(encoding="utf-8")))


def sets_table(found: Found) -> Table:
    """Return nDCG@10 by folder, recipe and seed; p is corrected over the folders of the same reranker."""
    rows, runs = [], list(zip(*found.values(), strict=True))
    for tests in runs:
        against = list(corrected([one for _, _, one in tests], MODEL, BASE))
        gains = list(corrected([one for _, _, one in tests], FUSED, FIRST))
        for folder, (name, seed, one), worth, gain in zip(found, tests, against, gains, strict=True):
            values = [one.value(order) for order in (FIRST, LEXICAL, BASE, MODEL, FUSED)]
            rows.append([folder.name, name, seed, *values, shown(worth), shown(gain)])
    rows.sort(key=lambda row: row[0])
    headers = ["nDCG@10", "recipe", "seed", "first stage", "BM25", "base", "tuned", "fused", "tuned − base"]
    note = (
        "fused: reranker and first stage, weight and depth cross-fitted; [95% bootstrap interval]; p: paired "
        "permutation test over queries, corrected by Holm over the folders"
    )
    return Table("People", "On relevance that people judged", [*headers, "fused − first stage"], rows, [note])


def corrected(tests: Sequence[RerankerTestResult], order: str, baseline: str) -> Iterator[PairedDifference]:
    """Yield the difference of two orders in each test, corrected by Holm over the tests."""
    found = [next(one for one in each.comparisons if is_of(one, order, baseline)) for each in tests]
    return iter(correct(found))


def is_of(one: ModelComparison, order: str, baseline: str) -> bool:
    """Tell whether a comparison is of nDCG@10 and these two orders."""
    return (one.metric, one.order, one.baseline) == ("nDCG@10", order, baseline)


def shown(one: PairedDifference) -> str:
    """Return a difference with interval and corrected p."""
    ends = f" [{one.interval.low:+.3f}, {one.interval.high:+.3f}]" if one.interval else ""
    return f"{one.difference or 0.0:+.3f}{ends} p {p_value(one.p_corrected)}"


def at_home(args: argparse.Namespace, base: Path, data: Path, model: Path, ablate: bool) -> dict[str, Any]:
    """Return what the teacher that labelled says: MRR on held-out sources and, of ``ablate``, each arm's figure."""
    tested = test(args, data / "test_data.jsonl", base, data, model)
    mrr = next(row for row in tested.metrics if row.metric == "MRR").values
    found = {"first stage": mrr[FIRST], "base": mrr[BASE], "tuned": mrr[MODEL]}
    output = args.work.resolve() / "results" / f"ablation-{model.name}.json"
    if ablate and not output.exists():
        own = ["--config", data.with_suffix(".yaml"), "--exclude_data", data / "examples.provenance.jsonl"]
        run("rerank_ablation_test.py", "--num", 100, "--ft_model", model, *own, "--output_file", output)
    table = json.loads(output.read_text(encoding="utf-8"))["table"] if ablate else []
    return found | {row["arm"]: row["mean_judged"] for row in table}


def home_table(homes: Sequence[tuple[str, int, dict[str, Any]]]) -> Table:
    """Return the table of what the teacher thinks; the arms' figures are candidates judged per source."""
    columns = list(homes[0][2])
    rows = [[name, seed, *map(home.get, columns)] for name, seed, home in homes]
    note = "first stage, base, tuned: MRR on held-out sources; the arms: candidates judged per source, fewer is better"
    return Table(
        "Teacher", "By the teacher that labelled the training data", ["recipe", "seed", *columns], rows, [note]
    )


if __name__ == "__main__":
    main()
