"""What both scripts are given: nothing is opened before it is used, and sources come in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config import load_config
from utils.errors import InputError
from utils.labelling.setup import Setup


def setup_of(config: Path, doc_ids: str | None = None) -> Setup:
    return Setup(load_config(config).override(seed=3), doc_ids, 0, 5, config.with_name("replies.sqlite"))


def test_sources_are_the_same_each_time(config_file: Path, tmp_path: Path) -> None:
    setup = setup_of(config_file)
    ids = [document.id for document in setup.sources()]
    assert ids == [document.id for document in setup.sources()]
    assert setup.available == len(ids)
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(ids[:3]))
    given = setup_of(config_file, str(listed))
    assert [document.id for document in given.sources()] == ids[:3]
    assert given.available == 3
    assert given.settings["doc_ids"] != setup.settings["doc_ids"] is None
    assert given.settings["seed"] == 3


def test_pipeline_is_what_the_configuration_names(config_file: Path) -> None:
    setup = setup_of(config_file)
    pipeline = setup.open_pipeline()
    assert pipeline.teacher.settings["teacher"].startswith("offline")
    assert pipeline.retriever.weights == setup.weights
    assert (pipeline.candidates, pipeline.concurrency, pipeline.give_up_after) == (5, 1, None)


def test_nothing_is_opened_before_it_is_used(tmp_path: Path, config_file: Path) -> None:
    config_file.write_text("corpus_path: none.jsonl\n")
    setup = setup_of(config_file)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        _ = setup.corpus
