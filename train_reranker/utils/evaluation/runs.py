"""An ablation's result file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import find_input
from utils.labelling.record import JudgedSource


def titles(results: Iterable[JudgedSource], corpus: Corpus) -> dict[str, str]:
    """Return the titles of all sources and candidates by id, for those who read the file without the corpus."""
    ids = [i for r in results for i in (r.source, *(i for trial in r.trials.values() for i in trial.retrieved))]
    return {document_id: corpus.get(document_id).title for document_id in dict.fromkeys(ids)}


class Run(NamedTuple):
    """The file of one ablation: its settings, the titles of its documents, and its sources."""

    path: Path
    settings: dict[str, Any]
    documents: dict[str, str]
    sources: list[JudgedSource]

    @classmethod
    def read(cls, file: str) -> Run:
        """Read a file that ``rerank_ablation_test.py`` wrote.

        Raises:
            InputError: it is not there, or is no such file.
        """
        path = find_input(file, "ablation", "name a JSON file that rerank_ablation_test.py wrote")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            sources = [JudgedSource.from_json(row) for row in values["sources"]]
            return cls(path, dict(values["settings"]), dict(values.get("documents", {})), sources)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is no result of rerank_ablation_test.py ({error!r}); name its JSON file"
            ) from None
