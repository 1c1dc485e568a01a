"""The teacher that asks language models, by way of any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import InputError, RunError
from utils.progress import log
from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers import context_window, prompts
from utils.teachers.base import TeacherError
from utils.teachers.client import Client
from utils.teachers.ledger import Ledger
from utils.teachers.parsing import BrokenReply, read_extraction, read_verdict
from utils.teachers.protocol import EndpointSettings
from utils.teachers.rate_limit import RetryPolicy
from utils.teachers.reply_cache import CacheKeys, Reply, ReplyCache, answer_params, reply_keys, request_key

T = TypeVar("T")

MAX_ATTEMPTS = 3  # of one question, until its reply can be used
HOPELESS = 5  # questions that end without a usable reply, before any had one: so will all others


class _Record:
    """How it went with the questions of one kind."""

    def __init__(self) -> None:
        """None has been asked."""
        self.usable = False  # whether any reply was
        self.useless = 0  # questions that were paid for and ended without a usable reply
        self.asked: list[CacheKeys] = []  # since the last usable reply
        self.failure: RunError | None = None
        self.gate = asyncio.Semaphore(HOPELESS)


class LLMTeacher:
    """Implements :class:`utils.teachers.base.Teacher`: one model extracts, one judges; every reply is kept on disk.

    Both questions may be asked many at a time, from one event loop. To be closed by ``async with`` or :meth:`aclose`.
    A question whose reply cannot be used is asked again, with a note of what was wrong, a few times.
    """

    def __init__(
        self,
        extractor: EndpointSettings,
        judge: EndpointSettings,
        cache_path: Path,
        ledger: Ledger,
        *,
        min_segment_words: int = 20,
        max_document_tokens: int = 6000,
        max_document_windows: int = 4,
        longest_document: int = 0,
        attempts: int = MAX_ATTEMPTS,
        patience: RetryPolicy | None = None,
        max_in_flight: int = 256,
        seed: int = 0,
    ) -> None:
        """Open the cache; nothing is sent, and no connection made, before the first question that it cannot answer.

        Args:
            extractor: the model that finds entities.
            judge: the model that judges candidates.
            cache_path: the file of replies, which other processes may use at the same time.
            ledger: counts all calls, and may refuse one.
            min_segment_words: what a segment must have.
            max_document_tokens: what is shown of a document at once; a longer one is read window by window.
            max_document_windows: how many windows of it are read at most.
            longest_document: of the corpus, in bytes; tells how long prompts may become.
            attempts: how often one question is asked until its reply can be used.
            patience: how long a call is kept up when the endpoint fails.
            max_in_flight: requests on their way at once, for each endpoint.
            seed: decides in which order the windows of a long document are asked for an entity, and the random part
                of waits.

        Raises:
            InputError: ``cache_path`` cannot be used, or the ledger limits the cost of a model that has no price.
        """
        for role in (extractor, judge):
            if ledger.max_cost is not None and role.price is None:
                raise InputError(
                    f"a limit on cost needs the price of model {role.model}: add it to price_per_million_tokens"
                )
        self.ledger = ledger
        self.cache = ReplyCache(cache_path)
        self._extractor, self._judge = extractor, judge
        self._min_segment_words, self._attempts, self._seed = min_segment_words, attempts, seed
        self._max_tokens, self._max_windows = max_document_tokens, max_document_windows
        self._longest_prompt = context_window.longest_prompt(longest_document, max_document_tokens)
        self._trials: dict[str, asyncio.Task[None]] = {}  # of the longest prompt, by model
        self._make_client = lambda settings: Client(settings, ledger, patience, max_in_flight, seed)
        self._clients: dict[tuple[object, ...], Client] = {}
        self._records = {kind: _Record() for kind in prompts.SCHEMAS}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the answers depend on: the models and what they are asked, not where they are served."""
        return {
            "teacher": "llm",
            **{
                role: {
                    "model": endpoint.model,
                    "params": answer_params(endpoint.params),
                    **({} if endpoint.model_revision is None else {"revision": endpoint.model_revision}),
                }
                for role, endpoint in (("entity_extractor", self._extractor), ("question_generator", self._judge))
            },
            "min_segment_words": self._min_segment_words,
            "max_document_tokens": self._max_tokens,
            "max_document_windows": self._max_windows,
            "prompts": prompts.FINGERPRINT,
        }

    @property
    def doing(self) -> dict[str, Any]:
        """Calls, tokens and cost so far."""
        ledger = self.ledger
        tokens = f"{(ledger.tokens_in + ledger.tokens_out) / 1000:.0f}k"
        cost = {} if ledger.cost is None else {"cost": f"{ledger.cost:.2f}"}
        return {"calls": ledger.calls, "cached": ledger.cache_hits, "tokens": tokens, **cost}

    def forget_failures(self) -> None:
        """Drop the replies that could not be used, so that an endpoint that was mended is asked again."""
        self.cache.forget_failed([self._extractor.model, self._judge.model])

    async def extract(self, document: Document) -> BridgeEntity | None:
        """Return one bridge entity of the document, or None where the model finds none.

        Raises:
            TeacherError: the endpoint failed, or no asking brought a reply that keeps the rules.
            BudgetSpent: the ledger allows no further call.
            RunError: no answer will ever be had (a wrong key, an unknown model).
        """
        for part in context_window.windows_anywhere(document, self._seed, self._max_tokens, self._max_windows):
            question = prompts.extraction(part, min_segment_words=self._min_segment_words)
            read = partial(read_extraction, document=part, min_segment_words=self._min_segment_words)
            if entity := await self._ask(self._extractor, question, read):
                return entity
        return None

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        """Say whether the candidate makes the second hop from the entity; ERROR where no answer could be had.

        A long candidate is judged window by window, and is usable if one window is.

        Raises:
            BudgetSpent: the ledger allows no further call.
            RunError: no answer will ever be had.
        """
        verdicts: list[Verdict] = []
        for part in context_window.windows_about(candidate, entity, self._max_tokens, self._max_windows):
            try:
                verdicts.append(await self._ask(self._judge, prompts.judgement(entity, part), read_verdict))
            except TeacherError as error:
                verdicts.append(Verdict(Outcome.ERROR, str(error)))
            if verdicts[-1].outcome is Outcome.USABLE:
                return verdicts[-1]
        # That nothing usable stands elsewhere is no evidence on a window without an answer.
        return next((verdict for verdict in verdicts if verdict.outcome is Outcome.ERROR), verdicts[0])

    async def aclose(self) -> None:
        """Let what is on its way end, since it is paid for, but send nothing more; then close all."""
        for client in self._clients.values():
            client.stop_asking()
        # What came before the end of a hopeless run shall not come out of the cache in the next, when that is fixed.
        await self.cache.aclose(keys for record in self._records.values() if record.failure for keys in record.asked)
        for client in self._clients.values():
            await client.aclose()

    async def __aenter__(self) -> LLMTeacher:
        """Return the teacher itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, see :meth:`aclose`."""
        await self.aclose()

    async def _ask(self, settings: EndpointSettings, question: prompts.Question, read: Callable[[Reply], T]) -> T:
        """Ask until ``read`` can use the reply, a few times at most.

        Few questions of a kind are asked at once until one has had a usable reply: what is wrong then is wrong for all.
        """
        record = self._records[question.schema_name]
        async with record.gate:
            if not record.usable:
                return await self._attempt(settings, record, question, read)
        return await self._attempt(settings, record, question, read)

    async def _attempt(
        self, settings: EndpointSettings, record: _Record, question: prompts.Question, read: Callable[[Reply], T]
    ) -> T:
        complaints: list[str] = []
        keys: list[CacheKeys] = []
        paid = False
        while True:
            if record.failure:
                raise record.failure
            asking = prompts.again(question, complaints) if complaints else question
            place = settings.base_url, settings.model, settings.model_revision
            keys.append(reply_keys(*place, asking, settings.params))
            record.asked.append(keys[-1])
            reply, was_free = await self._reply(settings, asking, keys[-1])
            paid |= not was_free
            if context_window.is_cut(asking, reply):
                self.ledger.failures["cut_prompt"] += 1
                reason = (
                    f"the prompt was cut, only {reply.tokens_in:,} tokens of it were read; give the "
                    f"model a larger context window ({context_window.REMEDY})"
                )
                break
            try:
                answer = read(reply)
            except BrokenReply as broken:
                complaints.append(str(broken))
                if not was_free:
                    self.ledger.retries["broken_reply"] += 1
                if len(complaints) == self._attempts:
                    self.ledger.failures["broken_reply"] += 1
                    reason = f"no usable reply in {self._attempts} attempts ({broken.told(reply)})"
                    break
            else:
                record.usable = True
                record.asked.clear()
                return answer
        self.cache.mark_failed(key for three in keys for key in three)
        # What comes out of the cache was the same in an earlier run, which went on.
        record.useless += paid
        if record.useless >= HOPELESS and not record.usable:
            record.failure = RunError(
                f"{settings.where}: {reason}; so it was for each of the first {record.useless} questions: "
                "fix that, then run the same command again"
            )
            raise record.failure
        raise TeacherError(f"{settings.where}: {reason}")

    async def _reply(
        self, settings: EndpointSettings, question: prompts.Question, keys: CacheKeys
    ) -> tuple[Reply, bool]:
        reply, was_free = await self.cache.once(keys, settings.model, lambda: self._fetch(settings, question))
        self.ledger.cache_hits += was_free
        if was_free and reply.content.strip():
            self._client(settings).has_answered(settings)
        self.ledger.record(question.schema_name, settings.price, reply.tokens_in, reply.tokens_out)
        return reply, was_free

    async def _fetch(self, settings: EndpointSettings, question: prompts.Question) -> Reply:
        """Ask the endpoint, once it is known to take the longest prompt."""
        client = self._client(settings)
        if settings.model not in self._trials:
            self._trials[settings.model] = asyncio.create_task(self._try_longest(settings, client))
        await asyncio.shield(self._trials[settings.model])
        return await client.ask(settings, question)

    async def _try_longest(self, settings: EndpointSettings, client: Client) -> None:
        """Make sure that the model's context window holds the longest prompt, with room for the reply.

        Raises:
            RunError: it does not, or the endpoint does not answer.
        """
        if self._longest_prompt < context_window.TRIAL_FROM:
            return
        tokens = self._longest_prompt + context_window.ROOM
        question = context_window.trial_question(tokens)
        key = request_key(settings.base_url, settings.model, question, settings.params)
        enlarge = f"give the model a context window of {tokens:,} tokens ({context_window.REMEDY})"
        reply = self.cache.get(key)
        if reply is None:
            try:
                reply = await client.ask(settings, question)
            except TeacherError as error:
                raise RunError(
                    f"{str(error).rstrip('.')}. That was a trial of the longest prompt with room for the reply: "
                    f"{enlarge}, or lower max_document_tokens from {self._max_tokens:,}"
                ) from None
        if context_window.SMALLEST_WINDOW <= reply.tokens_in < tokens:
            fits = max(0, reply.tokens_in - context_window.ROOM - context_window.rules_tokens())
            raise RunError(
                f"{settings.where}: cuts prompts at {reply.tokens_in:,} tokens, and the longest here, with its reply, "
                f"may take {tokens:,}: {enlarge}, or set max_document_tokens to {fits:,}"
            )
        self.cache.put(key, settings.model, reply)
        if reply.tokens_in < tokens or self.ledger.without_usage:
            log.warning("%s: does not report how many tokens a prompt has, so a cut one cannot be seen", settings.where)

    def _client(self, settings: EndpointSettings) -> Client:
        """Return the client for these settings; models of one endpoint share it, and with it pace and keys."""
        place = (settings.base_url, settings.api_keys, settings.api_type, settings.api_version)
        if place not in self._clients:
            self._clients[place] = self._make_client(settings)
        return self._clients[place]
