"""Sources in flight: the same rows at any concurrency, the earliest source first; when a list stops, what is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from pathlib import Path

from labelling_support import SlowTeacher, pipeline_of, run
from utils.labelling.record import ARM, JudgedSource
from utils.labelling.scheduler import PrioritySemaphore, Scheduler, enough_of_each, first_usable, judge_lists
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, Document, Outcome, Verdict
from utils.teachers.offline import OfflineTeacher

USABLE, UNUSABLE, ERROR = (Verdict(outcome, "") for outcome in Outcome)


def test_rows_are_the_same_at_any_concurrency(retriever: Retriever, tmp_path: Path) -> None:
    written = set()
    for concurrency in (1, 3, 40):
        teacher = SlowTeacher(retriever.corpus, seed=concurrency)
        path = tmp_path / f"{concurrency}.jsonl"
        run(retriever, teacher, path, concurrency=concurrency)
        written.add(path.read_bytes())
        assert teacher.most_in_flight <= concurrency
        assert concurrency == 1 or teacher.most_in_flight > 1
    assert len(written) == 1


def test_what_may_not_be_needed_is_begun_last(retriever: Retriever) -> None:
    teacher = SlowTeacher(retriever.corpus)

    async def rows(settled: dict[int, JudgedSource], most: int | None = None) -> list[JudgedSource]:
        pipeline, made = pipeline_of(retriever, teacher, concurrency=40), list[JudgedSource]()
        async with aclosing(Scheduler(pipeline, [ARM], first_usable).rows(pipeline.asked(), settled)) as found:
            while len(made) != most and (row := await anext(found, None)):
                made.append(row)
        return made

    every = asyncio.run(rows({}))
    assert len(every) > 16
    teacher.judged.clear()
    failed = next(place for place, row in enumerate(every[:16]) if row.trials)
    left = {place: row for place, row in enumerate(every[:16]) if place != failed}
    assert asyncio.run(rows(left, 16)) == every[:16]
    assert {query for query, _ in teacher.judged} == {every[failed].entity.query}
    assert asyncio.run(rows(left)) == every


def test_sources_with_further_entities_follow_after_all_were_asked(retriever: Retriever, tmp_path: Path) -> None:
    teacher = OfflineTeacher(retriever.corpus)
    _, journal = run(retriever, teacher, tmp_path / "p.jsonl")
    asked = [row.source for row in journal.rows]
    sources = list(dict.fromkeys(asked))
    assert asked[: len(sources)] == sources
    more = Counter(asked[len(sources) :])
    assert more == {one: n for one in sources if (n := teacher.turns(retriever.corpus.get(one)) - 1) > 0}
    assert max(more.values()) > 1
    pairs = [(row.source, row.entity.name) for row in journal.rows if row.entity]
    assert len(set(pairs)) == len(pairs)


def test_each_source_is_asked_once_unless_told_otherwise(retriever: Retriever) -> None:
    pipeline = pipeline_of(retriever, OfflineTeacher(retriever.corpus))
    assert list(pipeline.asked()) == [(source, 0) for source in pipeline.sources()]


def test_a_free_slot_goes_to_the_earliest_source() -> None:
    served = []

    async def work(slots: PrioritySemaphore, position: int) -> None:
        async with slots.taken(position):
            served.append(position)
            await asyncio.sleep(0)

    async def all_at_once() -> None:
        slots = PrioritySemaphore(1)
        await asyncio.gather(*(work(slots, position) for position in (5, 3, 4, 1, 2)))

    asyncio.run(all_at_once())
    assert served == [5, 1, 2, 3, 4]


def test_stopping_rules_by_hand() -> None:
    assert [first_usable(verdicts) for verdicts in ([], [UNUSABLE], [UNUSABLE, USABLE], [ERROR])] == [0, 0, 1, 1]
    rule = enough_of_each(1, 2)
    assert not any(map(rule, ([], [USABLE] * 3, [UNUSABLE] * 3, [USABLE, UNUSABLE, ERROR])))
    assert rule([UNUSABLE, ERROR, UNUSABLE, USABLE])
    assert [enough_of_each(1, 2, 3)([UNUSABLE] * count) for count in (2, 3)] == [False, True]


def test_a_candidate_of_several_lists_is_judged_once_and_a_known_one_not_at_all() -> None:
    asked = []

    class Teacher(SlowTeacher):
        async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
            asked.append(candidate.id)
            return USABLE if candidate.id == "4" else UNUSABLE

    documents = {i: Document(i, "", i) for i in "12345"}
    lists = {name: [Candidate(documents[i], 0.0) for i in ids] for name, ids in (("a", "124"), ("b", "31245"))}
    known = {"1": UNUSABLE, "3": USABLE._replace(text_hash="that of an earlier text")}
    entity = BridgeEntity("e", "", "", "q")
    trials = asyncio.run(judge_lists(entity, lists, Teacher([]), first_usable, known))
    assert sorted(asked) == ["2", "3", "4"]
    assert [verdict.outcome for verdict in trials["a"].verdicts] == ["unusable", "unusable", "usable"]
    assert [verdict.text_hash for verdict in trials["a"].verdicts] == ["", *(documents[i].text_hash for i in "24")]
    assert (trials["b"].retrieved, trials["b"].attempts) == (list("31245"), 4)
