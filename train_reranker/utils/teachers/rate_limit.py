"""How fast an endpoint is asked: adaptive concurrency, exponential backoff, and API keys in rotation."""

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple


class RetryPolicy(NamedTuple):
    """How hard to try, with times in seconds; backoff doubles ``first_wait`` up to ``longest_wait``."""

    max_in_flight: int = 256  # requests to one endpoint
    tries: int = 6
    connect_tries: int = 3  # until the endpoint has been reached once: a wrong address stays wrong
    max_failures: int = 12  # identical failures of all requests together, before the first reply ends the run
    max_outage: float = 180.0  # of nothing but identical failures, once there have been replies
    max_rate_limited: float = 900.0  # of nothing but rate limits, for one question
    warn_after: float = 5.0  # without a reply
    warn_every: float = 30.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_retry_after: float = 600.0  # an endpoint that asks for a longer wait (a daily limit) ends the run
    key_cooldown: float = 3600.0  # for which a key that is out of quota is not used


class RateLimiter:
    """Limits the requests in flight (``async with``), and holds all of them back while the endpoint is rate limited."""

    def __init__(self, retry: RetryPolicy, rng: random.Random) -> None:
        """Start at the maximum; ``rng`` adds jitter to the waits."""
        self.closing = asyncio.Event()
        self._retry, self._rng = retry, rng
        self._max = self._limit = float(retry.max_in_flight)
        self._in_flight = self._strikes = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._blocked_until = 0.0

    async def __aenter__(self) -> None:
        """Wait for a slot, first come first served."""
        await self._acquire()
        try:
            while (wait := self._blocked_until - time.monotonic()) > 0 and not self.closing.is_set():
                await self.pause(wait + self._rng.random() * min(0.1 * wait, 1.0))  # not all in the same moment
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Free the slot."""
        self._release()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until :attr:`closing` is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)

    def backoff(self, failures: int) -> float:
        """Return the wait after ``failures`` failures in a row: doubled each time, with jitter."""
        wait = self._retry.first_wait * 2.0 ** min(failures - 1, 30)
        return min(self._retry.longest_wait, wait) * (0.5 + self._rng.random() / 2)

    def speed_up(self) -> None:
        """Note a reply: raise the concurrency a little."""
        self._strikes = 0
        self._limit = min(self._max, self._limit + 0.25)

    def slow_down(self, retry_after: float | None) -> float:
        """Hold back all requests for ``retry_after``, else with backoff; return the wait, 0 if they were already."""
        now = time.monotonic()
        first = now >= self._blocked_until  # otherwise the request was sent before the last rate limit
        if first:
            self._strikes += 1
            self._limit = max(1.0, 0.75 * min(self._limit, self._in_flight + 1))
        wait = retry_after or self.backoff(self._strikes)  # "0" gives no information
        self._blocked_until = max(self._blocked_until, now + wait)
        return wait if first else 0.0

    async def _acquire(self) -> None:
        if self._in_flight < int(self._limit) and not self._queue:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given a slot and cancelled at once: pass it on
                self._release()
            raise

    def _release(self) -> None:
        self._in_flight -= 1
        while self._queue and self._in_flight < int(self._limit):
            turn = self._queue.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)


class ApiKeys:
    """API keys in rotation, by number from 0; a key that is out of quota is suspended for ``cooldown`` seconds."""

    def __init__(self, count: int, cooldown: float) -> None:
        """Start with all ``count`` keys in use."""
        self._cooldown, self._rotation = cooldown, deque(range(count))
        self._suspended_until = [0.0] * count

    def take(self) -> int | None:
        """Return the next key, None if all are suspended."""
        for key in tuple(self._rotation):
            self._rotation.rotate(-1)
            if self._suspended_until[key] <= time.monotonic():
                return key
        return None

    def suspend(self, key: int) -> bool:
        """Suspend a key, and return whether it was in use."""
        in_use = self._suspended_until[key] <= time.monotonic()
        self._suspended_until[key] = time.monotonic() + self._cooldown
        return in_use
