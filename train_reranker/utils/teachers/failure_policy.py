"""What an endpoint's failures come to: another try, a question without an answer, or the end of the run."""

import asyncio
import math
import re
import time
from collections import Counter
from dataclasses import dataclass

from utils.errors import RunError
from utils.progress import log
from utils.teachers.base import TeacherError
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.endpoint_errors import EndpointError, Kind
from utils.teachers.ledger import Ledger
from utils.teachers.rate_limit import ApiKeys, RetryPolicy
from utils.teachers.request_adapter import RequestAdapter, RequestFormat
from utils.teachers.transport import PROXIES, Transport, named_in_environment

MAX_FIRST = 4  # questions in flight before the first reply, since what is wrong then is wrong for all


class ModelState:
    """One model of an endpoint: the request format it accepts, and its failures since the last reply."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Start without any knowledge."""
        self.settings = settings
        self.adapter = RequestAdapter(RequestFormat(settings.response_format, settings.system_message, settings.params))
        self.first = asyncio.Semaphore(MAX_FIRST)
        self.learning = asyncio.Lock()
        self.working_keys: set[int] = set()
        self.failures: Counter[tuple[object, ...]] = Counter()  # by signature
        self.answered = self.answered_before = False  # with text, in this run or in an earlier one
        self.last_reply = time.monotonic()
        self.failing_since: float | None = None
        self.last_warning = -float("inf")

    def note_reply(self) -> None:
        """Note a reply with text."""
        self.failures.clear()
        self.answered, self.last_reply, self.failing_since = True, time.monotonic(), None


@dataclass
class Attempts:
    """The failed requests of one question."""

    tries: int = 0  # without rate limits, which say "later", not "no"
    limited_since: float | None = None  # since when there is nothing but rate limits

    def note(self, error: EndpointError) -> None:
        """Count one more failed request."""
        limited = error.kind is Kind.RATE_LIMIT
        self.tries += not limited
        self.limited_since = (self.limited_since or time.monotonic()) if limited else None


class FailurePolicy:
    """Decides for all questions to one endpoint; ``fatal`` is the line that ended the run."""

    def __init__(self, retry: RetryPolicy, ledger: Ledger, transport: Transport, keys: ApiKeys) -> None:
        """Share these with the client."""
        self._retry, self._ledger, self._transport, self._keys = retry, ledger, transport, keys
        self._quota = ""  # what the endpoint said when a key ran out of quota
        self.fatal: str | None = None
        self.closing = False  # no more retries

    def next_key(self, settings: EndpointSettings) -> int:
        """Return the key to use next; raise if the run has ended or is stopping, or if all keys are out of quota."""
        if self.fatal:
            raise RunError(self.fatal)
        if self.closing:
            raise TeacherError(f"{settings.where}: not sent, since the run is stopping")
        if (key := self._keys.take()) is None:
            out = f"every API key of {settings.section} is out of quota{self._quota}"
            raise self._end(settings, f"{out}; top up or wait, then run again")
        return key

    def check(self, model: ModelState, key: int, error: EndpointError, attempts: Attempts) -> None:
        """Return if the question is worth another try; raise TeacherError if it is not, RunError if no question is."""
        settings = model.settings
        if error.kind is Kind.QUOTA:
            self._quota = f" ({error.text})" if error.text else ""
            if self._keys.suspend(key):
                log.warning("%s: API key no. %d is out of quota; skipping it for now", settings.provider, key + 1)
            return
        if reason := self._fatal_reason(model, key, error, attempts.tries):
            raise self._end(settings, reason)
        self.count(model, error)
        final = error.kind is Kind.REFUSED or (error.kind is Kind.ACCESS and key in model.working_keys)
        since, longest = attempts.limited_since, self._retry.max_rate_limited
        if since is not None and time.monotonic() - since >= longest:
            if model.last_reply <= since:
                raise self._end(settings, f"for {longest / 60:.0f} minutes, nothing but {error}; run again later")
            final = True
        if final or attempts.tries >= self._retry.tries or self.closing:
            self._ledger.failures[error.kind.value] += 1
            raise TeacherError(f"{settings.where}: {error}")

    def _fatal_reason(self, model: ModelState, key: int, error: EndpointError, tries: int) -> str | None:
        """Return what ends the run at once, with its remedy, or None."""
        settings, remedy = model.settings, self.remedy(model.settings, error)
        works, stays = bool(model.working_keys), tries >= self._retry.connect_tries
        # A key that this model has accepted is right: its 403 is about the question.
        if error.denies_access and not (error.status == 403 and key in model.working_keys):
            return self._key_reason(settings, key, error)
        if error.kind is Kind.NOT_FOUND and not works:
            usual = ", which usually ends in /v1" if re.fullmatch(r"\w+://[^/]*/?", settings.base_url) else ""
            fix = f"fix {settings.model_key} or {settings.section}.base_url{usual}"
            return f"no such model or address ({error.status}: {error.text}); {fix}"
        if error.kind is Kind.UNREACHABLE and not self._transport.reached and stays:
            return f"cannot be reached ({error.text}); {remedy}"
        if error.kind is Kind.INVALID_RESPONSE and not works and stays:
            return f"the endpoint sends {error.text}; {remedy}"
        if error.wait is not None and error.wait > self._retry.longest_retry_after:
            return f"the endpoint asks to wait {error.wait:.0f} s ({error}); run again after that"
        return None

    def _key_reason(self, settings: EndpointSettings, key: int, error: EndpointError) -> str:
        number = f"api_keys (no. {key + 1})" if len(settings.api_keys) > 1 else "api_key"
        problem, fix = "the API key is refused", f"fix {settings.section}.{number}"
        if error.status == 403:
            problem, fix = "access is denied", f"{fix} or {settings.model_key}"
        if accounts := named_in_environment("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            fix = f"{fix}, or {accounts} in the environment, which is sent with each request"
        quoted = f"; the endpoint says: {error.text}" if error.text else ""
        return f"{problem} ({error.status}); {fix}{quoted}"

    def count(self, model: ModelState, error: EndpointError) -> None:
        """Count identical failures; raise RunError if there has been nothing else for too long."""
        works = model.answered or model.answered_before
        if error.kind is Kind.RATE_LIMIT or (works and error.kind in (Kind.REFUSED, Kind.ACCESS)):  # about the text
            return
        now = time.monotonic()
        model.failing_since = model.failing_since or now
        model.failures[error.signature] += 1
        # Timeouts take long, and these two may be billed: half as many are enough.
        most = self._retry.max_failures // (2 if error.kind in (Kind.TIMEOUT, Kind.EMPTY) else 1)
        failures = model.failures[error.signature]
        if failures >= most and not (works and now - model.failing_since < self._retry.max_outage):
            remedy = self.remedy(model.settings, error)
            raise self._end(model.settings, f"{failures} requests in a row failed the same way: {error}; {remedy}")

    def warn(self, model: ModelState, error: EndpointError, action: str, wait: float = math.inf) -> None:
        """Log an error if the user has been without a reply for long, ``wait`` seconds included, but not too often."""
        now = time.monotonic()
        without = now - model.last_reply
        if without + wait >= self._retry.warn_after and now - model.last_warning >= self._retry.warn_every:
            model.last_warning = now
            log.warning("%s: %s (no reply for %.0f s); %s", model.settings.provider, error, without, action)

    def remedy(self, settings: EndpointSettings, error: EndpointError) -> str:
        """Return what a user can do about a persistent error."""
        address = f"fix {settings.section}.base_url"
        if proxies := named_in_environment(*PROXIES):
            address += f", or {proxies} in the environment, through which requests go"
        if "CERTIFICATE" in error.text:
            address = "name the certificate to trust in SSL_CERT_FILE in the environment"
        thinking = "turn off the model's thinking or the server's reasoning parser"
        return {
            Kind.ACCESS: f"fix {settings.section}.api_key or {settings.model_key}",
            Kind.TIMEOUT: f"raise {settings.section}.timeout ({settings.timeout:g} s) or lower --concurrency",
            Kind.EMPTY: f"raise generation_params.max_tokens, or {thinking}",
            Kind.REFUSED: f"fix {settings.model_key}, generation_params or {settings.section}",
            Kind.INVALID_RESPONSE: address,
            Kind.UNREACHABLE: address,
        }.get(error.kind, f"check the endpoint (or fix {settings.section}.base_url), then run the same command again")

    def _end(self, settings: EndpointSettings, reason: str) -> RunError:
        """Return the error that ends the run, for this question and all others."""
        self.fatal = f"{settings.where}: {reason}"
        return RunError(self.fatal)
