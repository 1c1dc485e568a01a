"""The client of one endpoint: sends questions, retries, and learns the request format that a model accepts."""

import logging
import random

from utils.errors import RunError
from utils.progress import log
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.endpoint_errors import MAY_BE_BILLED, EndpointError, Kind
from utils.teachers.failure_policy import MAX_FIRST, Attempts, FailurePolicy, ModelState
from utils.teachers.ledger import Ledger
from utils.teachers.prompts import Question
from utils.teachers.rate_limit import ApiKeys, RateLimiter, RetryPolicy
from utils.teachers.reply_cache import Reply
from utils.teachers.request_adapter import MAY_REJECT, RequestFormat
from utils.teachers.transport import Completion, Transport


class Client:
    """Asks any model of one endpoint, with one set of API keys."""

    def __init__(
        self, settings: EndpointSettings, ledger: Ledger, retry: RetryPolicy | None = None, seed: int = 0
    ) -> None:
        """Prepare the connections to an address, or raise InputError; ``seed`` is for the jitter of waits."""
        self._retry = retry = retry or RetryPolicy()
        self._ledger = ledger
        self._limiter = RateLimiter(retry, random.Random(seed))
        self._transport = Transport(settings)
        keys = ApiKeys(max(1, len(settings.api_keys)), retry.key_cooldown)
        self._policy = FailurePolicy(retry, ledger, self._transport, keys)
        self._models: dict[tuple[str, str], ModelState] = {}

    async def ask(self, settings: EndpointSettings, question: Question) -> Reply:
        """Return the model's reply, valid or not; raise as a teacher does, and BudgetSpent at a limit."""
        model = self._model(settings)
        async with model.first:
            if not model.answered:
                return await self._ask(model, question)
        return await self._ask(model, question)

    def has_answered(self, settings: EndpointSettings) -> None:
        """Note that the model answered in an earlier run, so that failures may be about a few questions only."""
        self._model(settings).answered_before = True

    def stop_requests(self, failure: RunError | None = None) -> None:
        """Send no more requests, and raise ``failure`` for those, if there is one; those in flight may complete."""
        self._limiter.closing.set()
        if failure:
            self._policy.fatal = str(failure)
        else:
            self._policy.closing = True

    async def aclose(self) -> None:
        """Close all connections; wait for the requests in flight first."""
        await self._transport.aclose()

    def _model(self, settings: EndpointSettings) -> ModelState:
        return self._models.setdefault((settings.model, repr(settings.params)), ModelState(settings))

    async def _ask(self, model: ModelState, question: Question) -> Reply:
        adapter, attempts = model.adapter, Attempts()
        while True:
            format_ = adapter.format
            key, outcome = await self._send(model, question, format_)
            if isinstance(outcome, Reply):
                adapter.settled |= format_ == adapter.format
                return outcome
            if format_ == adapter.format:  # otherwise another question has learnt one meanwhile
                attempts.note(outcome)
                if reply := await self._learn(model, question, outcome, attempts.tries):
                    return reply
            if format_ == adapter.format:
                self._policy.check(model, key, outcome, attempts)
                await self._wait(model, outcome, attempts)
            self._ledger.retries[outcome.kind.value] += 1

    async def _learn(self, model: ModelState, question: Question, error: EndpointError, tries: int) -> Reply | None:
        """Find another request format if the error may be due to the current one; one question learns, others wait."""
        adapter, format_ = model.adapter, model.adapter.format
        if adapter.may_learn(error, tries):
            async with model.learning:
                if format_ == adapter.format and adapter.may_learn(error, tries):
                    return await self._try_formats(model, question, error)
        return None

    async def _try_formats(self, model: ModelState, question: Question, error: EndpointError) -> Reply | None:
        """Send the question in one format after the other, and keep the one that brings a reply; None if none does."""
        adapter, refusal, attempts = model.adapter, error, Attempts()
        trials = adapter.trials(error)
        format_ = next(trials, None)
        while format_ is not None and not adapter.settled:
            self._ledger.retries[error.kind.value] += 1
            key, outcome = await self._send(model, question, format_)
            if isinstance(outcome, Reply):
                if not adapter.settled:
                    _log_change(model.settings, format_.changes_from(adapter.format))
                    adapter.format, adapter.settled = format_, True
                return outcome
            error = outcome
            if error.refuses or (error.kind is Kind.SERVER and error.status in MAY_REJECT):
                try:
                    format_ = trials.send(error)
                except StopIteration:
                    format_ = None
            else:
                attempts.note(error)
                self._policy.check(model, key, error, attempts)
                await self._wait(model, error, attempts)
        if refusal.refuses and not adapter.settled:  # a few more refusals in these words end the run
            model.failures[refusal.signature] += self._retry.max_failures - MAX_FIRST
        return None

    async def _send(
        self, model: ModelState, question: Question, format_: RequestFormat
    ) -> tuple[int, Reply | EndpointError]:
        """Wait for a slot, send the question, and enter it in the ledger; return the key's number and the outcome."""
        settings, ledger = model.settings, self._ledger
        async with self._limiter:
            key = self._policy.next_key(settings)
            chars = sum(len(message["content"]) for message in question.messages)
            limit = settings.params.get("max_completion_tokens") or settings.params.get("max_tokens")
            expected = ledger.expected_cost(settings.model, settings.price, chars, limit)
            ledger.admit(expected)
            outcome: Completion | EndpointError = EndpointError(Kind.CONNECTION, "cancelled")
            try:
                outcome = await self._transport.post(settings, key, format_.body(question), chars)
            finally:
                if isinstance(outcome, Completion):
                    tokens = outcome.reply.tokens_in, outcome.reply.tokens_out
                    ledger.settle(settings.model, settings.price, *tokens, expected)
                    self._limiter.speed_up()
                else:
                    ledger.release(expected, billed=outcome.kind in MAY_BE_BILLED)
        if isinstance(outcome, EndpointError):
            return key, outcome
        self._note(model, key, outcome)
        return key, outcome.reply

    def _note(self, model: ModelState, key: int, completion: Completion) -> None:
        """Note a completion; one without text counts as a failure."""
        model.working_keys.add(key)
        if not (completion.has_usage or self._ledger.without_usage or model.settings.price is None):
            log.warning(
                "%s reports no token counts, or impossible ones: the cost is estimated at four characters a token",
                model.settings.where,
            )
        self._ledger.without_usage += not completion.has_usage
        reply = completion.reply
        if reply.content.strip():
            model.note_reply()
            return
        reasoning = ", all of it went into the reasoning field" if completion.only_reasoning else ""
        kind = Kind.REFUSED if reply.finish_reason in ("content_filter", "refusal") else Kind.EMPTY
        error = EndpointError(kind, f"no text (finish_reason {reply.finish_reason or 'none'}{reasoning})")
        self._policy.count(model, error)
        self._policy.warn(model, error, self._policy.remedy(model.settings, error))

    async def _wait(self, model: ModelState, error: EndpointError, attempts: Attempts) -> None:
        """Wait until the question is worth another try."""
        if error.kind is Kind.QUOTA:
            return  # there may be another key
        if error.kind is Kind.RATE_LIMIT or error.wait is not None:
            if wait := self._limiter.slow_down(error.wait):
                self._policy.warn(model, error, f"all requests wait for {wait:.0f} s", wait)
        else:
            wait = self._limiter.backoff(attempts.tries)
            self._policy.warn(model, error, f"next try in {wait:.0f} s", wait)
            await self._limiter.pause(wait)


def _log_change(settings: EndpointSettings, changes: list[str]) -> None:
    """Report a learnt request format; a lost parameter is a warning."""
    level = logging.WARNING if any(change.startswith("no ") for change in changes) else logging.INFO
    text = "%s: %s refuses the configured request format; requests now have %s"
    log.log(level, text, settings.provider, settings.model, ", ".join(changes))
