"""Looking up and sampling documents; which may answer a source."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from miniature import CORPUS
from test_cli import run
from utils.corpus.documents import Corpus, count_sources, read_ids, shuffled, sources_of
from utils.errors import InputError
from utils.files import dumps, read_jsonl


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_documents_are_found_by_id_and_row(corpus_file: Path) -> None:
    corpus = Corpus(corpus_file)
    assert len(corpus) == 24
    assert corpus.get("2").title == corpus[1].title == "Lake Merrow"
    with pytest.raises(InputError, match='no document with id "99"'):
        corpus.get("99")


def test_ids_that_are_numbers_are_compared_as_texts(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 7, "contents": "seven"}\n')
    assert Corpus(path).get("7").contents == "seven"


def test_every_document_is_found_whatever_its_line_is_like(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '\ufeff\n{"id": "ä", "contents": "één"}\n\n  \n{"id": 2, "contents": "two"}\r\n'
        '{"id": "3\\ud83d", "contents": "x"}'
    )
    corpus = Corpus(path)
    assert [corpus[row] for row in range(3)] == list(corpus) == [corpus.get(i) for i in ("ä", "2", "3\ufffd")]
    path.write_text('\ufeff{"id": "ä", "contents": "één"}')
    assert Corpus(path)[0] == Corpus(path).get("ä")
    for row in (-1, 3):
        with pytest.raises(IndexError):
            corpus[row]


def test_chunks_of_an_article_are_counted(tmp_path: Path) -> None:
    rows = [{"id": i, "contents": "x", "doc_id": article} for i, article in enumerate(["a", "b", "a", "a"])]
    corpus = Corpus(write(tmp_path / "c.jsonl", [*rows, {"id": 9, "contents": "x"}]))
    assert [corpus.chunks(row) for row in (0, 1, 3, 4)] == [3, 1, 3, 1]


TWINS = [
    {"id": "a", "contents": "The gate is shut."},
    {"id": "b", "contents": "The mill is old."},
    {"id": "a again", "contents": " The gate\u00a0is\n\nshut. "},
    {"id": "c", "contents": "The gate is shut.", "title": "Gates"},
    {"id": "b again", "contents": "The mill is old."},
    {"id": "d1", "contents": "The pond froze.", "doc_id": "d"},
    {"id": "d2", "contents": "The ice broke.", "doc_id": "d"},
    {"id": "e", "contents": "The ice broke."},
]


def test_source_its_copies_its_chunks_and_repeated_texts_do_not_answer(tmp_path: Path) -> None:
    corpus = Corpus(write(tmp_path / "c.jsonl", TWINS))

    def answering(source: str, *ids: str) -> list[str]:
        rows = np.array([corpus.row(i) for i in ids])
        return [ids[position] for position in corpus.answering(corpus.row(source), rows)]

    assert answering("a", "c", "b again", "a", "a again", "b", "d1") == ["c", "b again", "d1"]
    assert answering("a again", "a", "b", "b again", "a again") == ["b"]
    assert answering("d1", "d2", "d1", "e", "a") == ["e", "a"]
    assert answering("e", "d2", "d1", "e") == ["d1"]
    assert corpus.answering(0, np.array([], int)).tolist() == []


def test_sample_is_seeded_and_long_enough(corpus_file: Path) -> None:
    corpus = Corpus(corpus_file)
    drawn = [document.id for document in corpus.sample(random.Random(3), min_length=270)]
    assert drawn == [document.id for document in corpus.sample(random.Random(3), min_length=270)]
    assert sorted(drawn) == sorted(d.id for d in corpus if len(d.contents) >= 270)
    assert 0 < len(drawn) < len(corpus)
    assert drawn != [document.id for document in corpus.sample(random.Random(4), min_length=270)]


def test_each_text_is_sampled_once(tmp_path: Path) -> None:
    corpus = Corpus(write(tmp_path / "c.jsonl", TWINS))
    assert sorted(document.id for document in corpus.sample(random.Random(1))) == ["a", "b", "c", "d1", "d2"]
    assert corpus.count() == 5


def test_opening_costs_the_same_at_any_size(tmp_path: Path) -> None:
    """What a process holds after opening and looking up does not grow with the corpus."""
    import tracemalloc

    peaks = []
    for count in (1_000, 20_000):
        path = write(tmp_path / f"{count}.jsonl", [{"id": i, "contents": "x" * 50} for i in range(count)])
        Corpus(path)
        tracemalloc.start()
        corpus = Corpus(path)
        assert corpus.get(str(count - 1)).id == next(corpus.sample(random.Random(1), 60), corpus[count - 1]).id
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


@pytest.mark.parametrize("count", [1, 2, 5, 24, 5000])
def test_shuffle_yields_each_number_once(count: int) -> None:
    orders = [np.concatenate(list(shuffled(count, random.Random(seed)))).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(count))
    assert count < 24 or orders[0] != orders[2]


def test_first_of_a_shuffle_is_any_number_as_often() -> None:
    firsts = [int(next(shuffled(10, random.Random(seed)))[0]) for seed in range(2000)]
    assert all(140 < firsts.count(number) < 260 for number in range(10))  # 200 each, give or take 4 deviations


def test_ids_are_read_as_they_are_written_anywhere(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes("\ufeffa\ufffd\r\n  b c \r\n\r\na\ufffd\r\n".encode())  # as an editor on Windows saves it
    assert read_ids(str(ids)) == ["a\ufffd", "b c"]
    ids.write_bytes("a\n\ufeffb\n".encode())  # two such files, put together
    assert read_ids(str(ids)) == ["a", "b"]
    ids.write_bytes("a\n".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-8"):
        read_ids(str(ids))


def test_sources_come_in_the_order_of_the_file(corpus_file: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("5\n\n3\n")
    assert [d.id for d in sources_of(Corpus(corpus_file), str(ids), random.Random(), 0)] == ["5", "3"]
    ids.write_text("5\nnone/such\n")
    with pytest.raises(
        InputError, match=r'ids.txt: .* has no document with id "none/such"; `python -m tools.sample_doc_ids` writes'
    ):
        sources_of(Corpus(corpus_file), str(ids), random.Random(), 0)


def test_sources_are_counted_without_being_read(corpus_file: Path, tmp_path: Path) -> None:
    corpus = Corpus(corpus_file)
    assert count_sources(corpus, None, 270) == len(list(sources_of(corpus, None, random.Random(1), 270)))
    (tmp_path / "ids.txt").write_text("5\n\n3\n")
    assert count_sources(corpus, str(tmp_path / "ids.txt"), 270) == 2


def test_sources_are_listed_and_found_again_whatever_their_ids(
    config_file: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = ["half \\ud83d", " spaces  within ", "\u00fc/\u4e2d", "-1", "#7", '"quoted"']
    rows = [row for _, row in read_jsonl(CORPUS)]
    random.Random(1).shuffle(rows)
    rows = [row | {"id": odd[n] if n < len(odd) else str(n)} for n, row in enumerate(rows)]
    corpus_file.write_text("".join(dumps(row).replace("\\\\ud83d", "\\ud83d") + "\n" for row in rows))
    options = ["--config", config_file, "--min_length", "0", "--seed", "-1"]
    assert run("tools.sample_doc_ids", *options, "--num", "24") == 0
    ids = Path("sampled_doc_ids.txt").read_text(encoding="utf-8").splitlines()
    assert {"half \ufffd", "spaces  within", "\u00fc/\u4e2d", "-1", "#7", '"quoted"'} < set(ids)
    assert len(ids) == 24
    for script, flags in (
        ("contrastive_data_generator", ["--output_dir", "out", "--output_file", "e.jsonl"]),
        ("rerank_ablation_test", ["--single", "diverse", "--num", "24", "--output_file", "a.json"]),
    ):
        assert run(script, *options, *flags, "--doc_ids", "sampled_doc_ids.txt") == 0
    tried = [row["source"] for _, row in read_jsonl(Path("out/e.provenance.jsonl")) if "source" in row]
    assert list(dict.fromkeys(tried)) == ids  # then come further entities of the same sources
