"""The base that is distilled from the corpus's own rankings."""

import random
from pathlib import Path

import pytest

from tools import distil_base
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.data.rows import read_examples
from utils.errors import InputError
from utils.retrieval.bm25 import BM25
from utils.retrieval.encoder import QUERY
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.scoring import open_reranker


@pytest.fixture
def retriever(config_file: Path) -> Retriever:
    config = load_config(config_file)
    return open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))


def test_fragments_are_words_of_one_sentence(retriever: Retriever) -> None:
    texts = [" ".join(document.contents.split()) for document in retriever.corpus]
    found = distil_base.fragments(retriever.corpus, 30, random.Random(0))
    assert len(found) == 30
    for fragment in found:
        assert len(fragment.split()) in distil_base.WORDS
        assert any(fragment in text for text in texts)


def test_targets_are_cosine_and_bm25(retriever: Retriever) -> None:
    rows = distil_base.target_rows(retriever, 5, 0.4, random.Random(0))
    texts = [document.text for document in retriever.corpus]
    lexical = BM25(texts)
    for row in rows:
        places = [texts.index(text) for text in row.passages]
        assert len(set(places)) == distil_base.GROUP
        (vector,) = retriever.encoder.encode([row.query], QUERY)
        expected = 10 * (retriever.index.vectors(places) @ vector) + 0.4 * lexical.scores(row.query)[places]
        assert row.pos_scores is not None
        assert row.neg_scores is not None
        found = [*row.pos_scores, *row.neg_scores]
        assert found == pytest.approx(expected.tolist(), abs=0.02)  # queries of a batch are encoded in half precision
        assert found == sorted(found, reverse=True)


def test_a_corpus_of_short_sentences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "contents": "Too short. Even so."}\n')
    with pytest.raises(InputError, match="too few sentences of 5 words"):
        distil_base.fragments(Corpus(tmp_path / "corpus.jsonl"), 3, random.Random(0))


def test_the_command_makes_a_reranker_and_overwrites_nothing(config_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "base"
    flags = ["--config", str(config_file), "--output_dir", str(output), "--num_queries", "16"]
    distil_base.main(flags)
    rows = read_examples([tmp_path / "base-targets.jsonl"])
    assert len(rows) == 16
    reranker = open_reranker(output)
    assert (reranker.lengths.query, reranker.lengths.pair) == (32, 128)
    assert reranker.score([("a lake", "a deep lake")]).shape == (1,)
    with pytest.raises(InputError, match="already exists"):
        distil_base.main(flags)
