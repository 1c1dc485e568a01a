"""Which run a file belongs to: names that no two runs share, however many are started at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from utils.corpus.offsets import fingerprint
from utils.data.split import SPLIT_FILES
from utils.errors import InputError
from utils.files import locked
from utils.progress import log


@contextmanager
def named_run(
    folder: Path, prefix: str, ending: str, journal: str = "", resumable: Callable[[str], bool] | None = None
) -> Iterator[str]:
    """Yield what the names of a run's files start with, and keep other runs off it.

    It is that of the folder's latest run to resume which no other process is at, else a new one.

    Args:
        folder: where the results are.
        prefix: before the time of a new run.
        ending: of the result's name.
        journal: ending of a journal's name.
        resumable: says of a start whether it is an unfinished run's; without, each run is new.
    """
    journals = folder.glob(f"{prefix}_*{journal}") if resumable else ()
    unfinished = sorted((path.name.removesuffix(journal) for path in journals), reverse=True)
    now = f"{prefix}_{datetime.now():%Y%m%d_%H%M%S}"
    for start in chain(unfinished, [now], (f"{now}_{number}" for number in count(2))):
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder / f"{start}{ending}"))
            except InputError:
                continue  # another run is at it
            if resumable and start in unfinished and resumable(start):
                log.info("resuming the unfinished run of %s", folder / start)
            elif start in unfinished or any(folder.glob(f"{start}.*")):
                continue
            yield start
            return


class Outputs(NamedTuple):
    """Where a run's examples, its provenance (the journal) and its summary go; all are in one folder."""

    examples: Path
    provenance: Path
    summary: Path

    @property
    def noted(self) -> dict[str, Any]:
        """What the summary file says, {} where there is none."""
        try:
            noted = json.loads(self.summary.read_text(encoding="utf-8"))
            return noted if isinstance(noted["summary"], dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def finished(self) -> bool:
        """Whether the summary says that the run has finished."""
        return bool(self.noted and self.noted["summary"].get("finished"))

    @property
    def split(self) -> list[Path]:
        """The files of the folder's split, which may be another run's."""
        return [self.examples.with_name(name) for name in SPLIT_FILES]

    @property
    def split_hashes(self) -> dict[str, str]:
        """The SHA-256 of each file of the split that this run has written, by name."""
        hashes = self.noted.get("split")
        return hashes if isinstance(hashes, dict) else {}

    @classmethod
    def named(cls, folder: Path, examples: str, summary: str | None = None) -> Outputs:
        """Name the files after the examples'."""
        stem = examples.removesuffix(".jsonl")
        return cls(folder / examples, folder / f"{stem}.provenance.jsonl", folder / (summary or f"{stem}.summary.json"))

    @classmethod
    @contextmanager
    def choose(
        cls, folder: Path, examples: str | None, summary: str | None, split: bool, overwrite: bool, retry: bool = False
    ) -> Iterator[Outputs]:
        """Name the files of a run, and keep other runs off them; without a name, the folder's latest is resumed.

        With ``retry`` a finished run is resumed, too. InputError if another run is writing them, or a finished run's
        file, or another's split, would be overwritten.
        """

        def unfinished(stem: str) -> bool:
            return not overwrite and (retry or not cls.named(folder, f"{stem}.jsonl", summary).finished)

        with ExitStack() as held:
            if examples is None:
                run = named_run(folder, "contrastive_examples", ".jsonl", ".provenance.jsonl", unfinished)
                examples = f"{held.enter_context(run)}.jsonl"
            else:
                held.enter_context(locked(folder / examples))
            outputs = cls.named(folder, examples, summary)
            for path in [*([outputs.split[0]] if split else []), *([outputs.summary] if summary else [])]:
                held.enter_context(locked(path))
            if not overwrite:
                outputs.refuse_others(split, summary is not None, retry)
            yield outputs

    def refuse_others(self, split: bool, summary: bool, retry: bool) -> None:
        """Raise InputError if a file is not this run's to write: an unfinished or retried one's are its own."""
        own = self.split_hashes
        others = [path for path in self.split if split and path.exists() and own.get(path.name) != fingerprint(path)]
        if (self.finished and not retry) or not self.provenance.exists():
            others = [self.examples, *others, *([self.summary] if summary else [])]
        for path in others:
            if path.exists():
                raise InputError(f"{path} already exists: name another --output_dir, or use --overwrite")
