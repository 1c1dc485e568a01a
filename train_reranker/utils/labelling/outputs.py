"""The files of a generator run."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from utils.data.split import SPLIT_FILES
from utils.errors import InputError
from utils.progress import log


class Outputs(NamedTuple):
    """Where a run's examples, its provenance (the journal) and its summary go; all are in one folder."""

    examples: Path
    provenance: Path
    summary: Path

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.examples.parent

    @property
    def finished(self) -> bool:
        """Whether the summary says that the run has finished."""
        try:
            return bool(json.loads(self.summary.read_text(encoding="utf-8"))["summary"]["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @classmethod
    def named(cls, folder: Path, examples: str, summary: str | None = None) -> Outputs:
        """Name the files after the examples'."""
        stem = examples.removesuffix(".jsonl")
        summary = summary or f"{stem}.summary.json"
        return cls(folder / examples, folder / f"{stem}.provenance.jsonl", folder / summary)

    @classmethod
    def choose(cls, folder: Path, examples: str | None, summary: str | None, split: bool, overwrite: bool) -> Outputs:
        """Name the files of a run; without a name, the folder's latest unfinished run is resumed.

        Raises:
            InputError: a finished run's file, or one of the split's, would be overwritten.
        """
        if examples is None and not overwrite:
            started = sorted(path.name for path in folder.glob("contrastive_examples_*.provenance.jsonl"))
            for name in reversed(started):
                if not (run := cls.named(folder, name.replace(".provenance", ""), summary)).finished:
                    log.info("resuming the unfinished run of %s", run.examples)
                    return run
        outputs = cls.named(folder, examples or f"contrastive_examples_{datetime.now():%Y%m%d_%H%M%S}.jsonl", summary)
        if overwrite or (outputs.provenance.exists() and not outputs.finished):  # an unfinished run's files are its own
            return outputs
        results = [outputs.examples, *(folder / name for name in SPLIT_FILES if split)]
        for path in [*results, *([outputs.summary] if summary else [])]:
            if path.exists():
                raise InputError(f"{path} already exists: name another --output_dir, or use --overwrite")
        return outputs
