"""What does a source yield, and what does it cost, with other --num_pos, --num_neg and --max_judged?

    python benchmarks/yields.py                          # seconds, after `make data`
    python benchmarks/yields.py --provenance my.provenance.jsonl --targets 1,1 1,3,6 1,5

Judging of a source always goes down the same list and only stops elsewhere, so a provenance file tells what every rule
that stops earlier would have given: no teacher is asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train_reranker"))

from utils.files import write_json
from utils.labelling.example_generation import Target
from utils.labelling.journal import read_journal
from utils.labelling.record import JudgedSource, Trial
from utils.labelling.scheduler import StoppingRule
from utils.report.text import table

PROVENANCE = ROOT / "train_reranker" / "data" / "demo_examples.provenance.jsonl"
TARGETS = ["1,1", "1,1,5", "1,3", "1,3,5", "1,5", "1,5,7", "1,5,5"]


@dataclass(frozen=True)
class Yield:
    """What the sources gave by one rule; a call is an extraction or a judgement."""

    target: str
    examples: int
    calls: int
    positives: int
    negatives: int

    @property
    def shown(self) -> list[str]:
        """The row of the table."""
        each = (self.calls, self.positives, self.negatives)
        return [
            self.target.replace(",", " / "), str(self.examples), *(f"{count / self.examples:.1f}" for count in each),
            f"{1000 * self.negatives / self.calls:.0f}",
        ]  # fmt: skip


def main() -> None:
    """Print and write what each rule gives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--provenance", type=Path, default=PROVENANCE, help="of a run with the largest targets")
    parser.add_argument("--targets", nargs="+", default=TARGETS, help="num_pos,num_neg or num_pos,num_neg,max_judged")
    args = parser.parse_args()
    rows = list(read_journal(args.provenance).rows.values())
    found = [replay(rows, target) for target in args.targets]
    heads = ["num_pos / num_neg / max_judged", "examples", "calls each", "positives", "negatives", "per 1000 calls"]
    print(table([one.shown for one in found if one.examples], heads))
    write_json(ROOT / "benchmarks" / "results" / "yields.json", [asdict(one) for one in found])


def replay(rows: Sequence[JudgedSource], target: str) -> Yield:
    """Return what the rows' sources would have given with another target."""
    positives, negatives, *most = map(int, target.split(","))
    rule = Target(len(rows), positives, negatives, max_judged=most[0] if most else None).rule
    stopped = [row._replace(trials={arm: until(trial, rule) for arm, trial in row.trials.items()}) for row in rows]
    made = [row for row in stopped if row.outcome == "example"]
    calls = len(rows) + sum(len(row.verdicts) for row in stopped)
    outcomes = [verdict.outcome.value for row in made for verdict in row.all_verdicts]
    return Yield(target, len(made), calls, outcomes.count("usable"), outcomes.count("unusable"))


def until(trial: Trial, rule: StoppingRule) -> Trial:
    """Return the trial as far as a rule would have judged it."""
    count = next((n for n in range(trial.attempts) if rule(trial.verdicts[:n])), trial.attempts)
    return Trial(trial.retrieved, trial.verdicts[:count])


if __name__ == "__main__":
    main()
