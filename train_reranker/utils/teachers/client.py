"""The client of one endpoint: sends, waits out what passes, learns what it can, and says what only the user can fix."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections import Counter
from typing import Any, NamedTuple

from utils.errors import InputError, RunError
from utils.progress import log
from utils.teachers.base import TeacherError
from utils.teachers.ledger import Ledger
from utils.teachers.prompts import Question
from utils.teachers.protocol import (
    MAY_REFUSE,
    Completion,
    EndpointError,
    EndpointSettings,
    Kind,
    Scrubber,
    connection_error,
    read_completion,
    redirect_error,
    status_error,
)
from utils.teachers.rate_limit import ApiKeys, RateLimiter, RetryPolicy
from utils.teachers.reply_cache import Reply
from utils.teachers.request_adapter import Form, RequestAdapter

_FIRST = 4  # questions on their way before one was answered, since what is wrong is wrong for all
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class _Sent(NamedTuple):
    """With which key a question was sent, and what came of it."""

    key: int
    outcome: Reply | EndpointError


class _Line:
    """How it stands with one model: the form that it takes, and what has failed since its last reply."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Nothing is known yet."""
        self.dialect = RequestAdapter(Form(settings.response_format, settings.system_message, settings.params))
        self.first = asyncio.Semaphore(_FIRST)
        self.learning = asyncio.Lock()
        self.answered_with: set[int] = set()  # keys
        self.failures: Counter[tuple[object, ...]] = Counter()
        self.answered = self.answered_before = False  # with a text, in this run or in an earlier one
        self.since = time.monotonic()  # when the last one came
        self.failing_since: float | None = None
        self.warned = -float("inf")


class Client:
    """Asks one endpoint with one set of keys, for any of its models."""

    def __init__(
        self,
        settings: EndpointSettings,
        ledger: Ledger,
        patience: RetryPolicy | None = None,
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

        Raises:
            InputError: a proxy or a certificate that the environment names cannot be used.
        """
        self._ledger, self._patience = ledger, patience or RetryPolicy()
        self._pace = RateLimiter(self._patience, max_in_flight, random.Random(seed))
        self._scrub = Scrubber(settings.api_keys)
        # A local server wants no key, but the package takes one from the environment if it is given none.
        keys = settings.api_keys or ("no-key",)
        self._keys = ApiKeys(len(keys), self._patience.key_rest)
        self._connections = _connect(settings, keys)
        self._reached = False
        self._quota = ""  # what was said when a key ran out of it
        self._fatal: str | None = None
        self._lines: dict[tuple[str, str], _Line] = {}

    async def ask(self, settings: EndpointSettings, question: Question) -> Reply:
        """Return the model's reply, however useless.

        Raises:
            TeacherError: the endpoint did not answer this question; it may answer another.
            BudgetSpent: the ledger does not allow the call.
            RunError: the endpoint will answer nothing: one line that names it and what to fix.
        """
        line = self._line(settings)
        async with line.first:
            if not line.answered:
                return await self._ask(settings, line, question)
        return await self._ask(settings, line, question)

    def has_answered(self, settings: EndpointSettings) -> None:
        """Note that the model has answered in an earlier run: what fails now may be a few questions only."""
        self._line(settings).answered_before = True

    def _line(self, settings: EndpointSettings) -> _Line:
        return self._lines.setdefault((settings.model, repr(settings.params)), _Line(settings))

    async def _ask(self, settings: EndpointSettings, line: _Line, question: Question) -> Reply:
        tries, limited, fault = 0, None, None
        while True:
            self._ledger.retries.update([] if fault is None else [fault.kind.value])
            form = line.dialect.form
            key, outcome = await self._send(settings, line, question, form)
            if isinstance(outcome, Reply):
                line.dialect.settled |= form == line.dialect.form
                return outcome
            fault = outcome
            if form != line.dialect.form:
                continue  # somebody has learnt meanwhile what this one was refused for
            tries += fault.kind is not Kind.RATE_LIMIT  # which says "later", not "no"
            if line.dialect.may_learn(fault, tries):
                async with line.learning:  # one learns, the others wait
                    if form == line.dialect.form and line.dialect.may_learn(fault, tries):
                        reply = await self._learn(settings, line, question, fault)
                        if reply is not None:
                            return reply
                if form != line.dialect.form:
                    continue
            limited = (limited or time.monotonic()) if fault.kind is Kind.RATE_LIMIT else None
            self._check(settings, line, key, fault, tries, limited)
            await self._wait(settings, line, fault, tries)

    async def aclose(self) -> None:
        """Close all connections; what is on its way should have been waited for."""
        await self._connections[0].close()  # they share one pool

    def stop_asking(self) -> None:
        """From now on let requests that are on their way end, but send none."""
        self._pace.closing.set()

    async def _learn(
        self, settings: EndpointSettings, line: _Line, question: Question, fault: EndpointError
    ) -> Reply | None:
        """Send the question in one form after the other and keep the one that brings a reply; None if none does."""
        dialect, refusal, tries = line.dialect, fault, 0
        trials = dialect.trials(fault)
        form = next(trials, None)
        while form is not None and not dialect.settled:
            self._ledger.retries[fault.kind.value] += 1
            key, outcome = await self._send(settings, line, question, form)
            if isinstance(outcome, Reply):
                if not dialect.settled:
                    changes = form.since(dialect.form)
                    level = logging.WARNING if any(change.startswith("no ") for change in changes) else logging.INFO
                    what = ", ".join(changes)
                    log.log(
                        level,
                        "%s: %s refuses a request as configured; it takes one with %s, and so it is asked from now on",
                        settings.provider,
                        settings.model,
                        what,
                    )
                    dialect.form, dialect.settled = form, True
                return outcome
            fault = outcome
            if fault.refuses or (fault.kind is Kind.SERVER and fault.status in MAY_REFUSE):
                try:
                    form = trials.send(fault)
                except StopIteration:
                    form = None
            else:
                tries += 1
                self._check(settings, line, key, fault, tries, None)
                await self._wait(settings, line, fault, tries)
        if refusal.refuses and not dialect.settled:  # a few more that are refused in these words will do
            line.failures[refusal.alike] += self._patience.first_failures - _FIRST
        return None

    async def _send(self, settings: EndpointSettings, line: _Line, question: Question, form: Form) -> _Sent:
        """Wait for one's turn, then send the question, and enter what comes of it in the ledger."""
        async with self._pace:
            key = self._take_key(settings)
            chars = sum(len(message["content"]) for message in question.messages)
            limit = settings.params.get("max_completion_tokens") or settings.params.get("max_tokens")
            expected = self._ledger.expected_cost(settings.model, settings.price, chars, limit)
            self._ledger.admit(expected)
            outcome: Completion | EndpointError = EndpointError(Kind.CONNECTION, "cancelled")
            try:
                outcome = await self._post(settings, key, form.body(question), chars)
            finally:
                if isinstance(outcome, Completion):
                    tokens = outcome.reply.tokens_in, outcome.reply.tokens_out
                    self._ledger.settle(settings.model, settings.price, *tokens, expected)
                    self._pace.speed_up()
                else:
                    self._ledger.release(expected, billed=outcome.billed)
        if isinstance(outcome, EndpointError):
            return _Sent(key, outcome)
        self._note(settings, line, key, outcome)
        return _Sent(key, outcome.reply)

    def _take_key(self, settings: EndpointSettings) -> int:
        if self._fatal:
            raise RunError(self._fatal)
        if self._pace.closing.is_set():
            raise TeacherError(f"{settings.where}: not asked, since the run ends")
        key = self._keys.take()
        if key is None:
            what = f"every API key of {settings.section} is out of quota{self._quota}; top up or wait, then run again"
            raise self._end(settings, what)
        return key

    async def _post(
        self, settings: EndpointSettings, key: int, body: dict[str, Any], chars: int
    ) -> Completion | EndpointError:
        import openai

        timeout = openai.Timeout(settings.timeout, connect=min(10.0, settings.timeout))
        # The body goes as extra_body, and the response is left raw, since matching both with the package's types takes
        # as long as all the rest of a call.
        create = self._connections[key].chat.completions.with_raw_response.create
        try:
            # The package's timeout starts afresh with every byte; this one is for the whole call.
            async with asyncio.timeout(settings.timeout):
                raw = await create(model=settings.model, messages=[], extra_body=body, timeout=timeout)
            response = raw.http_response
        except TimeoutError:
            return EndpointError(Kind.TIMEOUT, f"no reply within {settings.timeout:g} s")
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            return connection_error(error.__cause__ or error, self._scrub)
        except (ValueError, OSError) as error:
            return connection_error(error, self._scrub)
        self._reached = True
        for hop in response.history:
            if fault := redirect_error(hop.status_code, hop.headers.get("location", ""), self._scrub):
                return fault
        if response.is_error:
            return status_error(response.status_code, response.headers, response.text, self._scrub)
        declared = response.charset_encoding or "utf-8"
        content = response.content if declared.lower() in ("utf-8", "utf8") else response.text.encode()
        return read_completion(content, chars, self._scrub)

    def _note(self, settings: EndpointSettings, line: _Line, key: int, completion: Completion) -> None:
        """Note that a model has answered; that it never says anything ends the run."""
        line.answered_with.add(key)
        self._ledger.without_usage += not completion.counted
        reply = completion.reply
        if reply.content.strip():
            line.failures.clear()
            line.answered, line.since, line.failing_since = True, time.monotonic(), None
            return
        thought = ", all of it went into the reasoning field" if completion.only_thought else ""
        kind = Kind.REFUSED if reply.finish_reason in ("content_filter", "refusal") else Kind.EMPTY
        fault = EndpointError(kind, f"no text (finish_reason {reply.finish_reason or 'none'}{thought})")
        self._count(settings, line, fault)
        self._say(settings, line, fault, f"; {self._remedy(settings, fault)}")

    def _check(
        self, settings: EndpointSettings, line: _Line, key: int, fault: EndpointError, tries: int, limited: float | None
    ) -> None:
        """Raise what a fault comes to: what only the user can fix ends the run, what stays ends the question.

        ``tries`` counts the question's faults but for rate limits, of which there was nothing else since ``limited``.
        """
        if fault.kind is Kind.QUOTA:
            self._quota = f" ({fault.text})" if fault.text else ""
            if self._keys.rest(key):
                log.warning("%s: API key no. %d is out of quota and rests", settings.provider, key + 1)
            return
        # A key or a name that this model has answered to is a right one: its 403 is about what was asked.
        if fault.kind is Kind.KEY and not (fault.status == 403 and key in line.answered_with):
            number = f"api_keys (no. {key + 1})" if len(settings.api_keys) > 1 else "api_key"
            refused, fix = "the API key is refused", f"fix {settings.section}.{number}"
            if fault.status == 403:
                refused, fix = "it gives no access", f"{fix} or {settings.model_key}"
            if accounts := _named("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
                fix = f"{fix}, or {accounts} in the environment, which goes with each request"
            said = f"; it says: {fault.text}" if fault.text else ""
            raise self._end(settings, f"{refused} ({fault.status}); {fix}{said}")
        if fault.kind is Kind.MODEL and not line.answered_with:
            fix = f"fix {settings.model_key} or {settings.section}.base_url"
            if re.fullmatch(r"\w+://[^/]*/?", settings.base_url):
                fix += ", which ends in /v1 with most"
            raise self._end(settings, f"there is no such model or address ({fault.status}: {fault.text}); {fix}")
        if fault.kind is Kind.UNREACHABLE and not self._reached and tries >= self._patience.connect_tries:
            raise self._end(settings, f"it cannot be reached ({fault.text}); {self._remedy(settings, fault)}")
        if fault.kind is Kind.GARBLED and not line.answered_with and tries >= self._patience.connect_tries:
            raise self._end(settings, f"what it replies is {fault.text}; {self._remedy(settings, fault)}")
        if fault.wait is not None and fault.wait > self._patience.longest_told_wait:
            raise self._end(settings, f"it asks to wait for {fault.wait:.0f} s ({fault.shown}); go on after that")
        self._count(settings, line, fault)
        hopeless = fault.kind in (Kind.REFUSED, Kind.KEY)
        if limited is not None and time.monotonic() - limited >= self._patience.longest_limit:
            if line.since <= limited:
                minutes = f"{self._patience.longest_limit / 60:.0f} minutes"
                raise self._end(settings, f"for {minutes} it has said nothing but {fault.shown}; run again later")
            hopeless = True
        if hopeless or tries >= self._patience.tries or self._pace.closing.is_set():
            self._ledger.failures[fault.kind.value] += 1
            raise TeacherError(f"{settings.where}: {fault.shown}")

    def _count(self, settings: EndpointSettings, line: _Line, fault: EndpointError) -> None:
        """Count faults that are all the same, and end the run where nothing else has come for too long."""
        works = line.answered or line.answered_before
        about_the_text = works and fault.kind in (Kind.REFUSED, Kind.KEY)
        if fault.kind is Kind.RATE_LIMIT or about_the_text:
            return
        now = time.monotonic()
        line.failing_since = line.failing_since or now
        line.failures[fault.alike] += 1
        # These cost the most: one takes long, and both may be billed.
        most = self._patience.first_failures // (2 if fault.kind in (Kind.TIMEOUT, Kind.EMPTY) else 1)
        if line.failures[fault.alike] < most or (works and now - line.failing_since < self._patience.outage):
            return
        times = f"{line.failures[fault.alike]} requests in a row brought nothing but this: {fault.shown}"
        raise self._end(settings, f"{times}; {self._remedy(settings, fault)}")

    async def _wait(self, settings: EndpointSettings, line: _Line, fault: EndpointError, tries: int) -> None:
        """Wait until the call is worth another try."""
        if fault.kind is Kind.QUOTA:
            return  # there may be another key
        if fault.kind is Kind.RATE_LIMIT or fault.wait is not None:
            wait = self._pace.slow_down(fault.wait)
            if wait:
                self._say(settings, line, fault, f"; everybody waits for {wait:.0f} s", wait)
        else:
            wait = self._pace.back_off(tries)
            self._say(settings, line, fault, f"; asked again in {wait:.0f} s", wait)
            await self._pace.pause(wait)

    def _say(self, settings: EndpointSettings, line: _Line, fault: EndpointError, what: str, wait: float = 0.0) -> None:
        """Tell of a fault, now and then, as soon as it keeps the user waiting or costs money."""
        now = time.monotonic()
        without = now - line.since
        if now - line.warned < self._patience.say_every:
            return
        if fault.kind is Kind.EMPTY or without + wait >= self._patience.say_after:
            line.warned = now
            log.warning("%s: %s (no reply for %.0f s)%s", settings.provider, fault.shown, without, what)

    def _remedy(self, settings: EndpointSettings, fault: EndpointError) -> str:
        """Return what a user can do about a fault that stays."""
        address, proxies = f"fix {settings.section}.base_url", _named(*_PROXIES)
        if proxies:
            address += f", or {proxies} in the environment, through which requests go"
        if "CERTIFICATE" in fault.text:
            address = "name the certificate that it is to be trusted by in SSL_CERT_FILE in the environment"
        thinking = "turn off the model's thinking or the server's reasoning parser"
        return {
            Kind.TIMEOUT: f"raise {settings.section}.timeout ({settings.timeout:g} s) or lower --concurrency",
            Kind.EMPTY: f"raise generation_params.max_tokens, or {thinking}",
            Kind.REFUSED: f"fix {settings.model_key}, generation_params or {settings.section}",
            Kind.GARBLED: address,
            Kind.UNREACHABLE: address,
        }.get(fault.kind, f"see to the endpoint (or fix {settings.section}.base_url), then run the same command again")

    def _end(self, settings: EndpointSettings, what: str) -> RunError:
        """Return the error that ends the run, for this call and for all others."""
        self._fatal = f"{settings.where}: {what}"
        return RunError(self._fatal)


def _named(*variables: str) -> str:
    """Return those environment variables, in capitals or not, that are set."""
    return " and ".join(name for name, value in os.environ.items() if name.upper() in variables and value)


def _connect(settings: EndpointSettings, keys: tuple[str, ...]) -> list[Any]:
    """Return one client of the ``openai`` package for each key, all over one pool of connections.

    Raises:
        InputError: see :class:`Client`.
    """
    import openai

    try:
        pool = openai.DefaultAsyncHttpxClient()  # up to 1,000 connections, of which 100 are kept
    except ImportError:
        where = f"{_named(*_PROXIES)} in the environment"
        raise InputError(f"{where} names a SOCKS proxy: pip install socksio, or unset it") from None
    except OSError as error:
        where = "SSL_CERT_FILE in the environment"
        raise InputError(f"{where} is no file of certificates ({error.strerror or error}); fix or unset it") from None
    except Exception:  # ValueError, and the HTTP library's InvalidURL, which has no better base
        where = f"{_named(*_PROXIES)} in the environment"
        raise InputError(f"{where} is no proxy's address; fix or unset it") from None
    shared: dict[str, Any] = {"max_retries": 0, "http_client": pool}
    if settings.api_type == "azure":
        shared |= {"azure_endpoint": settings.base_url, "api_version": settings.api_version}
        return [openai.AsyncAzureOpenAI(api_key=key, **shared) for key in keys]
    return [openai.AsyncOpenAI(api_key=key, base_url=settings.base_url, **shared) for key in keys]
