"""Make rows of query, pos and neg out of what an ablation has judged: its verdicts are paid for.

    python -m tools.examples_from_ablation ablation_results/demo.json --output_file ./data/ablation_examples.jsonl
    python -m tools.examples_from_ablation ./results.json --config my.yaml --exclude_data ./data/test_data.jsonl \\
        --output_file ./data/more.jsonl

All arms' verdicts on a source make one row, with a provenance file like the generator's beside it. The sources are then
training sources: leave them out of later ablations with --exclude_data, and name test data here, of which no query,
source or passage is used.
"""

import argparse
from pathlib import Path

from utils import cli
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.evaluation.run_comparison import Run
from utils.files import new_output, write_jsonl
from utils.labelling.example_generation import labelled_examples
from utils.labelling.journal import open_journal
from utils.labelling.outputs import Outputs
from utils.labelling.record import JudgedSource
from utils.labelling.retrieval_ablation import Excluded


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("results", metavar="FILE", help="JSON file of rerank_ablation_test.py")
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration with the ablation's corpus "
        "(default: the demo's)")  # fmt: skip
    add("--exclude_data", nargs="+", default=[], metavar="FILE",
        help="test data, or provenance files, with which nothing is shared (default: none)")  # fmt: skip
    add("--output_file", required=True, help="file to write; .provenance.jsonl is written beside it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Write the rows, their provenance, and what to keep apart from now on."""
    args = parse_args(argv)
    output = Path(args.output_file)
    provenance = Outputs.named(output.parent, output.name).provenance
    if provenance.exists():  # the journal is locked when it is opened
        raise InputError(f"{provenance} already exists: choose another --output_file")
    with new_output(output):
        run, excluded = Run.read(args.results), Excluded.read(args.exclude_data)
        corpus = Corpus(load_config(args.config).corpus)
        usable = [row for row in run.result.sources if row.example(corpus)]
        rows = [row for row in usable if is_apart(row, corpus, excluded)]
        examples = [one.example for one in labelled_examples(rows, corpus)]
        if not examples:
            both = f"{len(usable)} of {len(run.result.sources)} sources have a usable and an unusable candidate"
            raise RunError(f"{run.path}: no example ({both}, {len(usable) - len(rows)} are excluded)")
        with open_journal(provenance, run.result.settings | {"ablation": run.path.name}, overwrite=True) as journal:
            for place, row in enumerate(rows):
                journal.add(place, row)
        write_jsonl(output, (example.row() for example in examples))
    negatives = sum(len(example.neg) for example in examples)
    print(f"{len(examples)} examples with {negatives} negatives in {output}, verdicts in {provenance}")
    print(f"not used: {len(usable) - len(rows)} sources of the data to exclude")
    print(f"next: leave these sources out of later ablations with --exclude_data {provenance}")


def is_apart(row: JudgedSource, corpus: Corpus, excluded: Excluded) -> bool:
    """Return whether neither a source's query, nor its text, nor a passage of its example is excluded."""
    example = row.example(corpus)
    texts = [row.text(row.source, corpus), *(example.passages if example else ())]
    return not (row.source in excluded.ids or row.query in excluded.queries or excluded.texts.intersection(texts))


if __name__ == "__main__":
    cli.run(main)
