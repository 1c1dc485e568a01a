"""The client of one endpoint: sends, waits out what passes, mends what it can, and says what only the user can mend."""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple

from utils.cli import RunError, log
from utils.llm.ledger import Ledger
from utils.llm.pace import Keys, Pace, Patience
from utils.llm.prompts import Question
from utils.llm.protocol import (
    Dialect,
    EndpointSettings,
    Fault,
    Kind,
    Scrubber,
    connection_fault,
    read_completion,
    status_fault,
)
from utils.llm.replies import Reply
from utils.teacher import TeacherError


class _Sent(NamedTuple):
    """What was sent with which key, and what came of it."""

    key: int
    body: dict[str, Any]
    outcome: Reply | Fault


class Client:
    """Asks one endpoint with one set of keys, for any of its models."""

    def __init__(
        self,
        settings: EndpointSettings,
        ledger: Ledger,
        patience: Patience | None = None,
        max_in_flight: int = 256,
        seed: int = 0,
    ) -> None:
        """Make everything ready; nothing is sent yet.

        Args:
            settings: address and keys; the models may differ from call to call.
            ledger: counts all calls, and may refuse one.
            patience: how long a call is kept up.
            max_in_flight: requests on their way at once; the endpoint may make it fewer.
            seed: of the random part of waits.
        """
        self._ledger, self._patience = ledger, patience or Patience()
        self._pace = Pace(self._patience, max_in_flight, random.Random(seed))
        self._scrub = Scrubber(settings.api_keys)
        # A local server wants no key, but the package takes one from the environment if it is given none.
        keys = settings.api_keys or ("no-key",)
        self._keys = Keys(len(keys), self._patience.key_rest)
        self._connections = _connect(settings, keys)
        self._answered_with: set[int] = set()
        self._reached = False
        self._fatal: str | None = None
        self._dialects: dict[tuple[str, str], Dialect] = {}

    async def ask(self, settings: EndpointSettings, question: Question) -> Reply:
        """Return the model's reply, however useless.

        Raises:
            TeacherError: the endpoint did not answer this question; it may answer another.
            BudgetSpent: the ledger does not allow the call.
            RunError: the endpoint will answer nothing: one line that names it and what to mend.
        """
        dialect = self._dialects.setdefault((settings.model, repr(settings.params)), Dialect(settings.params))
        tries, replies = 0, self._pace.replies
        while True:
            key, body, outcome = await self._send(settings, question, dialect)
            if isinstance(outcome, Reply):
                return outcome
            # A rate limit says "later", not "no": it uses up a try only if nobody has got through meanwhile.
            stuck = outcome.kind is not Kind.RATE_LIMIT or self._pace.replies == replies
            tries, replies = tries + stuck, self._pace.replies
            if not self._mend(settings, key, outcome, dialect, already_learnt=body != dialect.body(question)):
                await self._wait_or_give_up(settings, outcome, tries)
            self._ledger.retries[outcome.kind.value] += 1

    async def aclose(self) -> None:
        """Close all connections; what is on its way should have been waited for."""
        await self._connections[0].close()  # they share one pool

    def stop_asking(self) -> None:
        """From now on let requests that are on their way end, but send none."""
        self._pace.closing.set()

    async def _send(self, settings: EndpointSettings, question: Question, dialect: Dialect) -> _Sent:
        """Wait for one's turn, then send the question as is best known by then, and enter it in the ledger."""
        async with self._pace:
            key, body = self._take_key(settings), dialect.body(question)
            chars = sum(len(message["content"]) for message in question.messages)
            limit = settings.params.get("max_completion_tokens") or settings.params.get("max_tokens")
            expected = self._ledger.expected_cost(settings.model, settings.price, chars, limit)
            self._ledger.admit(expected)
            outcome: Reply | Fault = Fault(Kind.CONNECTION, "cancelled")
            try:
                outcome = await self._post(settings, key, body, chars)
            finally:
                if isinstance(outcome, Reply):
                    tokens = outcome.tokens_in, outcome.tokens_out
                    self._ledger.settle(settings.model, settings.price, *tokens, expected)
                    self._pace.speed_up()
                else:
                    self._ledger.release(expected, billed=outcome.billed)
        return _Sent(key, body, outcome)

    def _take_key(self, settings: EndpointSettings) -> int:
        if self._fatal:
            raise RunError(self._fatal)
        if self._pace.closing.is_set():
            raise TeacherError(f"{settings.where}: not asked, since the run ends")
        key = self._keys.take()
        if key is None:
            raise self._end(settings, f"every API key of {settings.section} is out of quota; top up, then go on")
        return key

    async def _post(self, settings: EndpointSettings, key: int, body: dict[str, Any], chars: int) -> Reply | Fault:
        import openai

        timeout = openai.Timeout(settings.timeout, connect=min(10.0, settings.timeout))
        # The body goes as extra_body, and the response is left raw, since matching both with the package's types takes
        # as long as all the rest of a call.
        create = self._connections[key].chat.completions.with_raw_response.create
        try:
            # The package's timeout starts afresh with every byte; this one is for the whole call.
            async with asyncio.timeout(settings.timeout):
                raw = await create(model=settings.model, messages=[], extra_body=body, timeout=timeout)
        except TimeoutError:
            return Fault(Kind.TIMEOUT, f"no reply within {settings.timeout:g} s")
        except openai.APIStatusError as error:
            self._reached = True
            return status_fault(error.status_code, error.response.headers, error.response.text, self._scrub)
        except openai.APIConnectionError as error:
            return connection_fault(error, self._scrub)
        self._reached = True
        completion = read_completion(raw.http_response.content, chars, self._scrub)
        if completion is None:
            return Fault(Kind.GARBLED, "the reply is no chat completion")
        self._answered_with.add(key)
        self._ledger.without_usage += not completion[1]
        return completion[0]

    def _mend(
        self, settings: EndpointSettings, key: int, fault: Fault, dialect: Dialect, *, already_learnt: bool
    ) -> bool:
        """Return whether to ask again at once; what nobody but the user can mend ends the run."""
        if fault.kind is Kind.QUOTA:
            if self._keys.rest(key):
                log.warning("%s: API key no. %d is out of quota and rests", settings.provider, key + 1)
            return True
        if fault.kind is Kind.REFUSED:
            if already_learnt:
                return True
            learnt = dialect.learn(fault)
            if learnt:
                log.info("%s: %s does as it is asked with %s", settings.provider, settings.model, learnt)
                return True
            # A parameter that replies have come back with is a right one: this question is too long for it.
            if fault.param in settings.params and not self._answered_with:
                raise self._end(settings, f"it refuses generation_params.{fault.param} ({fault.text}); mend it")
        # A key that has worked is a right one: its 403 is about what was asked (moderation), not about who asks.
        if fault.kind is Kind.KEY and not (fault.status == 403 and key in self._answered_with):
            number = f"api_keys (no. {key + 1})" if len(settings.api_keys) > 1 else "api_key"
            raise self._end(settings, f"the API key is refused ({fault.status}); mend {settings.section}.{number}")
        if fault.kind is Kind.MODEL:
            mend = f"mend {settings.model_key} or {settings.section}.base_url"
            raise self._end(settings, f"there is no such model or address ({fault.status}: {fault.text}); {mend}")
        return False

    async def _wait_or_give_up(self, settings: EndpointSettings, fault: Fault, tries: int) -> None:
        """Wait until the call is worth another try."""
        if fault.kind is Kind.UNREACHABLE and not self._reached and tries >= self._patience.connect_tries:
            raise self._end(settings, f"it cannot be reached ({fault.text}); mend {settings.section}.base_url")
        if fault.kind is Kind.GARBLED and not self._answered_with and tries >= self._patience.tries:
            raise self._end(settings, f"what it replies is no chat completion; mend {settings.section}.base_url")
        if fault.wait is not None and fault.wait > self._patience.longest_told_wait:
            raise self._end(settings, f"it asks to wait for {fault.wait:.0f} s ({fault.shown}); go on after that")
        hopeless = fault.kind in (Kind.REFUSED, Kind.KEY)
        if hopeless or tries >= self._patience.tries or self._pace.closing.is_set():
            self._ledger.failures[fault.kind.value] += 1
            raise TeacherError(f"{settings.where}: {fault.shown}")
        if fault.kind is Kind.RATE_LIMIT or fault.wait is not None:
            wait = self._pace.slow_down(fault.wait)
            if wait >= 10:
                log.info("%s: %s; everybody waits for %.0f s", settings.provider, fault.shown, wait)
        else:
            await self._pace.pause(self._pace.back_off(tries))

    def _end(self, settings: EndpointSettings, what: str) -> RunError:
        """Return the error that ends the run, for this call and for all others."""
        self._fatal = f"{settings.where}: {what}"
        return RunError(self._fatal)


def _connect(settings: EndpointSettings, keys: tuple[str, ...]) -> list[Any]:
    """Return one client of the ``openai`` package for each key, all over one pool of connections."""
    import openai

    pool = openai.DefaultAsyncHttpxClient()  # up to 1,000 connections, of which 100 are kept
    shared: dict[str, Any] = {"max_retries": 0, "http_client": pool}
    if settings.api_type == "azure":
        shared |= {"azure_endpoint": settings.base_url, "api_version": settings.api_version}
        return [openai.AsyncAzureOpenAI(api_key=key, **shared) for key in keys]
    return [openai.AsyncOpenAI(api_key=key, base_url=settings.base_url, **shared) for key in keys]
