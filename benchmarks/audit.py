"""How fast rows are checked, and how much memory that takes.

    python benchmarks/audit.py --rows 1000000

Rows are made of random words with planted repeats. Seconds are the processor's, so that other work does not count.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train_reranker"))

from utils.files import write_json
from utils.report.text import table

NEGATIVES, WORDS, REPEATED = 3, 50, 1000  # of each row; of each passage; one row in so many repeats the one before


def write_rows(path: Path, count: int) -> None:
    """Write rows of one positive and ``NEGATIVES`` negatives."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(50_000)]
    line = ""
    with path.open("w") as out:
        for number in range(count):
            if number % REPEATED or not line:
                texts = [" ".join(rng.choices(vocabulary, k=WORDS)) for _ in range(1 + NEGATIVES)]
                query = " ".join(rng.choices(vocabulary, k=8))
                line = json.dumps({"query": query, "pos": texts[:1], "neg": texts[1:]}) + "\n"
            out.write(line)


def measure(path: Path, *flags: str) -> dict[str, float]:
    """Return the processor's seconds and the most memory that checking a file takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tools.check_data", str(path), "--output_file", f"{path}.findings", *flags]
    subprocess.run(command, cwd=ROOT / "train_reranker", check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(Path(f"{path}.findings").read_text())
    repeats = sum(len(rows) for one in found["findings"] if one["kind"] == "duplicate" for rows in one["rows"].values())
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "GiB": after.ru_maxrss / 2**20, "duplicates": repeats}


def main() -> None:
    """Measure with and without near-duplicates, and print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows to check (default: %(default)s)")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, args.rows)
        for name, flags in (("exact", ["--exact"]), ("near-duplicates, too", [])):
            results[name] = measure(path, *flags)
    rows = [[name, f"{args.rows / one['seconds']:,.0f}", f"{one['GiB']:.2f}", one["duplicates"]]
            for name, one in results.items()]  # fmt: skip
    print(table(rows, [f"{args.rows:,} rows", "rows a second", "GiB at most", "duplicates found"]))
    write_json(ROOT / "benchmarks" / "results" / "audit.json", {"rows": args.rows} | results)


if __name__ == "__main__":
    main()
