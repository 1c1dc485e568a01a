"""The teacher that asks language models behind any OpenAI-compatible endpoint."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import RunError
from utils.progress import log
from utils.redaction import redact_values
from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers import context_window, prompts
from utils.teachers.base import Teacher, TeacherError
from utils.teachers.client import Client
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.evidence import STRICT
from utils.teachers.ledger import Ledger
from utils.teachers.parsing import read_extraction, read_relevance, read_verdict
from utils.teachers.rate_limit import RetryPolicy
from utils.teachers.reply_cache import CacheKeys, Reply, ReplyCache, answer_params, reply_keys, request_key
from utils.teachers.reply_json import InvalidReply

T = TypeVar("T")

MAX_ATTEMPTS = 3  # per question, until its reply is valid
MAX_UNANSWERED = 5  # questions without a valid reply, before any had one, end the run


@dataclass(frozen=True)
class PromptLimits:
    """What a prompt asks for and holds, and how much of the reply's evidence is checked."""

    min_segment_words: int = 20
    max_document_tokens: int = 6000  # a longer document is read in windows
    max_document_windows: int = 4
    longest_document: int = 0  # of the corpus, in bytes: it bounds the length of prompts
    seed: int = 0  # of the order in which windows are searched for an entity
    evidence: str = STRICT


class _History:
    """How the questions of one kind went."""

    def __init__(self) -> None:
        self.any_valid = False
        self.unanswered = 0  # questions that were paid for
        self.keys: list[CacheKeys] = []  # of the requests since the last valid reply
        self.failure: RunError | None = None
        self.gate = asyncio.Semaphore(MAX_UNANSWERED)


class LLMTeacher(Teacher):
    """One model extracts, one judges; an invalid reply is requested again, with a note of what was wrong."""

    variants = prompts.VARIANTS

    def __init__(
        self,
        extractor: EndpointSettings,
        judge: EndpointSettings,
        cache_path: Path,
        ledger: Ledger,
        limits: PromptLimits | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Open the cache; raise InputError if it is unusable, or if the cost of a model without a price is limited."""
        for role in (extractor, judge):
            ledger.check_price(role.model, role.price)
        self.ledger = ledger
        self.cache = ReplyCache(cache_path)
        self._extractor, self._judge, self._retry = extractor, judge, retry
        self._limits = limits = limits or PromptLimits()
        self._windows = limits.max_document_tokens, limits.max_document_windows
        self._probes: dict[str, asyncio.Task[None]] = {}  # of the context window, by model
        self._clients: dict[tuple[object, ...], Client] = {}
        self._history = {kind: _History() for kind in prompts.SCHEMAS}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the answers depend on: the models and their prompts, not where they are served."""
        roles = {}
        for role, endpoint in (("entity_extractor", self._extractor), ("question_generator", self._judge)):
            roles[role] = redact_values({"model": endpoint.model, "params": answer_params(endpoint.params)})
            if endpoint.model_revision is not None:
                roles[role]["revision"] = endpoint.model_revision
        names = ("min_segment_words", "max_document_tokens", "max_document_windows", "evidence")
        limits = {name: getattr(self._limits, name) for name in names}
        return {"teacher": "llm", **roles, **limits, "prompts": prompts.FINGERPRINT}

    @property
    def doing(self) -> dict[str, Any]:
        """Calls, tokens and cost so far."""
        ledger = self.ledger
        tokens = f"{(ledger.tokens_in + ledger.tokens_out) / 1000:.0f}k"
        cost = {} if ledger.cost is None else {"cost": f"{ledger.cost:.2f}"}
        return {"calls": ledger.calls, "cached": ledger.cache_hits, "tokens": tokens, **cost}

    def forget_failures(self) -> None:
        """Drop the replies to unanswered questions, so that they are retried."""
        self.cache.forget_failed([self._extractor.model, self._judge.model])

    async def extract(self, document: Document, turn: int = 0) -> BridgeEntity | None:
        """Return a bridge entity, or None if no window has one; BudgetSpent if the ledger allows no further call."""
        min_words, level = self._limits.min_segment_words, self._limits.evidence
        for window in context_window.windows_anywhere(document, self._limits.seed, *self._windows):
            question = prompts.extraction(window, min_segment_words=min_words)
            read = partial(read_extraction, document=window, min_segment_words=min_words, level=level)
            if entity := await self._ask(self._extractor, question, read):
                return entity
        return None

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        """Return whether one window of the candidate makes the second hop, ERROR if unanswered; raises as above."""
        verdicts: list[Verdict] = []
        for window in context_window.windows_about(candidate, entity, *self._windows):
            read = partial(read_verdict, entity=entity, candidate=window, level=self._limits.evidence)
            try:
                verdicts.append(await self._ask(self._judge, prompts.judgement(entity, window), read))
            except TeacherError as error:
                verdicts.append(Verdict(Outcome.ERROR, str(error)))
            if verdicts[-1].outcome is Outcome.USABLE:
                return verdicts[-1]
        # Unusable windows are no evidence about one without an answer.
        return next((verdict for verdict in verdicts if verdict.outcome is Outcome.ERROR), verdicts[0])

    async def relevant(self, query: str, positive: str, passages: Sequence[str], variant: int = 0) -> list[Verdict]:
        """Return whether each passage answers the query, ERROR for all if unanswered; raises as above.

        The texts share a window, so that the prompt is no longer than other ones.
        """
        share = self._windows[0] // (1 + len(passages))
        known, *texts = (context_window.split_windows(one, share)[0] for one in (positive, *passages))
        question = prompts.relevance(query, known, texts, variant)
        try:
            return await self._ask(self._judge, question, lambda reply: read_relevance(reply, len(passages)))
        except TeacherError as error:
            return [Verdict(Outcome.ERROR, str(error))] * len(passages)

    async def aclose(self) -> None:
        """Send nothing more, wait for the requests in flight, which are paid for, and close everything."""
        for client in self._clients.values():
            client.stop_requests()
        # Replies of a run that ended without any valid one would only be replayed in the next, when that is fixed.
        useless = (keys for history in self._history.values() if history.failure for keys in history.keys)
        try:
            await self.cache.aclose(useless)
        finally:
            for client in self._clients.values():
                await client.aclose()

    async def _ask(self, settings: EndpointSettings, question: prompts.Question, read: Callable[[Reply], T]) -> T:
        """Ask until ``read`` accepts the reply; few at once until the first valid reply to this kind of question."""
        history = self._history[question.schema_name]
        async with history.gate:
            if not history.any_valid:
                return await self._attempt(settings, question, read)
        return await self._attempt(settings, question, read)

    async def _attempt(self, settings: EndpointSettings, question: prompts.Question, read: Callable[[Reply], T]) -> T:
        history, paid = self._history[question.schema_name], False
        complaints: list[str] = []
        keys: list[CacheKeys] = []
        while len(complaints) < MAX_ATTEMPTS:
            if history.failure:
                raise history.failure
            request = prompts.again(question, complaints) if complaints else question
            place = settings.base_url, settings.model, settings.model_revision
            keys.append(reply_keys(*place, request, settings.params))
            history.keys.append(keys[-1])
            reply, free = await self._reply(settings, request, keys[-1])
            paid |= not free
            if context_window.is_truncated(request, reply):
                larger = f"give the model a larger context window ({context_window.REMEDY})"
                failure = "cut_prompt"
                reason = f"the prompt was truncated, only {reply.tokens_in:,} tokens of it were read; {larger}"
                break
            try:
                answer = read(reply)
                history.any_valid = True
                history.keys.clear()
                return answer
            except InvalidReply as error:
                complaints.append(str(error))
                self.ledger.retries.update([] if free else [error.kind])
                failure = error.kind
                reason = f"no valid reply in {len(complaints)} attempts ({error.explain(reply)})"
        self.ledger.failures[failure] += 1
        self.cache.mark_failed(key for each in keys for key in each)
        raise self._unanswered(history, f"{settings.where}: {reason}", paid)

    def _unanswered(self, history: _History, reason: str, paid: bool) -> TeacherError | RunError:
        """Return the error of a question without a valid reply; a row of them before any valid reply ends the run."""
        history.unanswered += paid  # not if replayed from the cache: the earlier run went on after it
        if history.unanswered < MAX_UNANSWERED or history.any_valid:
            return TeacherError(reason)
        all_alike = f"the same happened to each of the first {history.unanswered} questions"
        history.failure = RunError(f"{reason}; {all_alike}: fix that, then run the same command again")
        return history.failure

    async def _reply(
        self, settings: EndpointSettings, question: prompts.Question, keys: CacheKeys
    ) -> tuple[Reply, bool]:
        try:
            reply, free = await self.cache.once(keys, settings.model, lambda: self._fetch(settings, question))
        except RunError:
            if self.cache.failure:  # what is asked now could not be kept
                for client in self._clients.values():
                    client.stop_requests(self.cache.failure)
            raise
        self.ledger.cache_hits += free
        if free and reply.content.strip():
            self._client(settings).has_answered(settings)
        self.ledger.record(question.schema_name, settings.price, reply.tokens_in, reply.tokens_out)
        return reply, free

    async def _fetch(self, settings: EndpointSettings, question: prompts.Question) -> Reply:
        """Ask the endpoint, once it is known to accept the longest prompt."""
        client = self._client(settings)
        if settings.model not in self._probes:
            self._probes[settings.model] = asyncio.create_task(self._probe(settings, client))
        await asyncio.shield(self._probes[settings.model])
        return await client.ask(settings, question)

    async def _probe(self, settings: EndpointSettings, client: Client) -> None:
        """Raise RunError unless the model's context window holds the longest prompt and its reply."""
        max_tokens = self._limits.max_document_tokens
        # Four bytes per token are right for Chinese, too, whose letters have three bytes.
        longest_document = min(max_tokens, self._limits.longest_document // context_window.CHARS_PER_TOKEN)
        tokens = context_window.rules_tokens() + longest_document + context_window.ROOM
        if tokens < context_window.PROBE_FROM:
            return
        question = context_window.probe_question(tokens)
        key = request_key(settings.base_url, settings.model, question, settings.params)
        enlarge = f"give the model a context window of {tokens:,} tokens ({context_window.REMEDY})"
        reply = self.cache.get(key)
        if reply is None:
            try:
                reply = await client.ask(settings, question)
            except TeacherError as error:
                probe = f"{str(error).rstrip('.')}. That was a probe as long as the longest prompt and its reply"
                raise RunError(f"{probe}: {enlarge}, or lower max_document_tokens from {max_tokens:,}") from None
        if context_window.SMALLEST_WINDOW <= reply.tokens_in < tokens:
            fits = max(0, reply.tokens_in - context_window.ROOM - context_window.rules_tokens())
            truncated = f"{settings.where}: truncates prompts at {reply.tokens_in:,} tokens"
            needed = f"the longest one here, with its reply, may take {tokens:,}"
            raise RunError(f"{truncated}, and {needed}: {enlarge}, or set max_document_tokens to {fits:,}")
        self.cache.put(key, settings.model, reply)
        if reply.tokens_in < tokens or self.ledger.without_usage:
            log.warning("%s: does not report prompt tokens, so a truncated prompt cannot be detected", settings.where)

    def _client(self, settings: EndpointSettings) -> Client:
        """Return the client for these settings; models of one endpoint share its rate limit and keys."""
        place = (settings.base_url, settings.api_keys, settings.api_type, settings.api_version)
        if place not in self._clients:
            self._clients[place] = Client(settings, self.ledger, self._retry, self._limits.seed)
        return self._clients[place]
