"""How fast an endpoint is asked: one pace that everybody keeps, waits that grow, and API keys that take turns."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple


class RetryPolicy(NamedTuple):
    """How long a call is kept up. Waits are in seconds and double from ``first_wait`` to ``longest_wait``."""

    tries: int = 6
    connect_tries: int = 3  # while it was never reached, or never was a chat API: a wrong address stays wrong
    first_failures: int = 12  # of all calls together, where all are the same and no reply has ever come
    outage: float = 180.0  # how long there may be nothing but failures once replies have come
    longest_limit: float = 900.0  # how long "too many requests" may be all that a call is told
    say_after: float = 5.0  # without a reply: a warning, and then one every ``say_every`` seconds
    say_every: float = 30.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_told_wait: float = 600.0  # an endpoint that asks for more (a daily limit) ends the run
    key_rest: float = 3600.0  # how long a key stays aside once its quota is spent


class RateLimiter:
    """How fast everybody may ask: how many at once, and not before when.

    Starts wide open. Each time that the endpoint says "too many", nobody asks until the wait that it told is over, and
    fewer ask at once from then on; every reply makes room again. To be entered with ``async with``.
    """

    def __init__(self, patience: RetryPolicy, max_in_flight: int, rng: random.Random) -> None:
        """Start with ``max_in_flight`` at once, which is never exceeded; ``rng`` keeps the waiting apart."""
        self.closing = asyncio.Event()
        self._patience, self._rng = patience, rng
        self._max = self._width = float(max_in_flight)
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._closed_until = 0.0
        self._strikes = 0

    async def __aenter__(self) -> None:
        """Wait for one's turn, in the order of coming."""
        await self._turn()
        try:
            while (wait := self._closed_until - time.monotonic()) > 0 and not self.closing.is_set():
                # A little apart, or all would knock in the same moment.
                await self.pause(wait + self._rng.random() * min(0.1 * wait, 1.0))
        except BaseException:
            self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make room for the next."""
        self._leave()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until :attr:`closing` is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)

    def back_off(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row: doubled each time, and somewhat at random."""
        wait = self._patience.first_wait * 2.0 ** min(failures - 1, 30)
        return min(self._patience.longest_wait, wait) * (0.5 + self._rng.random() / 2)

    def speed_up(self) -> None:
        """Note a reply."""
        self._strikes = 0
        self._width = min(self._max, self._width + 0.25)

    def slow_down(self, told: float | None) -> float:
        """Let nobody ask for as long as the endpoint told, or for a wait that doubles; return it if it is news."""
        now = time.monotonic()
        news = now >= self._closed_until  # else the complaint is about a request from before the last one
        if news:
            self._strikes += 1
            self._width = max(1.0, 0.75 * min(self._width, self._in_flight + 1))
        wait = told or self.back_off(self._strikes)  # a told 0 tells nothing
        self._closed_until = max(self._closed_until, now + wait)
        return wait if news else 0.0

    async def _turn(self) -> None:
        if self._in_flight < int(self._width) and not self._queue:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # called up and cancelled at once: pass the turn on
                self._leave()
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        while self._queue and self._in_flight < int(self._width):
            turn = self._queue.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)


class ApiKeys:
    """API keys that take turns; one that is out of quota stays aside for a while."""

    def __init__(self, count: int, rest: float) -> None:
        """Know the keys by number, from 0; ``rest`` is in seconds."""
        self._rest = rest
        self._resting_until = [0.0] * count
        self._next = 0

    def take(self) -> int | None:
        """Return the number of the key whose turn it is, None if all rest."""
        count = len(self._resting_until)
        for offset in range(count):
            index = (self._next + offset) % count
            if self._resting_until[index] <= time.monotonic():
                self._next = (index + 1) % count
                return index
        return None

    def rest(self, index: int) -> bool:
        """Put a key aside, and return whether it was not so already."""
        news = self._resting_until[index] <= time.monotonic()
        self._resting_until[index] = time.monotonic() + self._rest
        return news
