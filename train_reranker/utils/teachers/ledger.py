"""What a run spends: calls, tokens and money, counted by model, and the limits at which it stops."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from utils.errors import RunError


class BudgetSpent(RunError):
    """One more call might exceed ``max_calls`` or ``max_cost``: stop cleanly, the run can be resumed."""


class Price(NamedTuple):
    """What a million tokens cost, in whatever currency the user thinks in."""

    input: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """Return what these tokens cost."""
        return (tokens_in * self.input + tokens_out * self.output) / 1_000_000


class Spent(NamedTuple):
    """What one model's replies have come to; ``cost`` is None where no price is known."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0
    longest_reply: int = 0  # in tokens

    def plus(self, price: Price | None, tokens_in: int, tokens_out: int) -> Spent:
        """Return the count with one more reply."""
        cost = None if price is None or self.cost is None else self.cost + price.of(tokens_in, tokens_out)
        longest = max(self.longest_reply, tokens_out)
        return Spent(self.calls + 1, self.tokens_in + tokens_in, self.tokens_out + tokens_out, cost, longest)


class Ledger:
    """Counts what a run's teachers ask, and refuses the call that might exceed a limit.

    A call is a request that was answered, or that may have been worked on and be billed (a timeout, a connection that
    broke, a server's error). A request that the endpoint turned away (429 and the like) is a retry, not a call. Replies
    that come from the cache are counted on their own and cost nothing. Cost is what the replies' tokens come to; nobody
    tells what an unanswered call has cost, but the limit counts what it is expected to.
    """

    def __init__(self, max_calls: int | None = None, max_cost: float | None = None) -> None:
        """Start from nothing; a limit that is None is none. ``max_cost`` is in the currency of the prices."""
        self.max_calls, self.max_cost = max_calls, max_cost
        self.calls = 0
        self.cache_hits = 0
        self.without_usage = 0
        self.retries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.spent: dict[str, Spent] = {}
        self.weighed: dict[str, Spent] = {}
        self.unanswered_cost = 0.0  # estimated, of requests that broke off and may be billed
        self._open = 0
        self._open_cost = 0.0

    @property
    def tokens_in(self) -> int:
        """Prompt tokens of all replies that were paid for."""
        return sum(spent.tokens_in for spent in self.spent.values())

    @property
    def tokens_out(self) -> int:
        """Completion tokens of all replies that were paid for."""
        return sum(spent.tokens_out for spent in self.spent.values())

    @property
    def cost(self) -> float | None:
        """What all replies cost; None if a model that replied has no price."""
        costs = [spent.cost for spent in self.spent.values()]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def expected_cost(
        self, model: str, price: Price | None, prompt_chars: int, longest_reply: int | None = None
    ) -> float:
        """Estimate what one more call costs: four characters a token, and a reply like the model's longest so far.

        The longest, not the mean: many calls may be on their way when the limit comes near, and shall not exceed it.
        Before the first reply it is taken to be ``longest_reply`` tokens, the limit that the endpoint is given, if any.
        """
        if price is None:
            return 0.0
        reply = self.spent[model].longest_reply if model in self.spent else longest_reply or 300
        return price.of(prompt_chars // 4, reply)

    def admit(self, expected_cost: float = 0.0) -> None:
        """Let one request go; :meth:`settle` or :meth:`release` must follow, with the same ``expected_cost``.

        Raises:
            BudgetSpent: with what is on its way, this request might exceed a limit.
        """
        if self.max_calls is not None and self.calls + self._open >= self.max_calls:
            raise BudgetSpent(f"this run's limit of {self.max_calls} calls is reached; run again to go on")
        at_most = (self.cost or 0.0) + self.unanswered_cost + self._open_cost + expected_cost
        if self.max_cost is not None and at_most > self.max_cost:
            raise BudgetSpent(f"this run's limit on cost, {self.max_cost:g}, is reached; run again to go on")
        self._open += 1
        self._open_cost += expected_cost

    def record(self, kind: str, price: Price | None, tokens_in: int, tokens_out: int) -> None:
        """Note what a reply to a kind of question is worth at today's price, also where it came out of the cache."""
        self.weighed[kind] = self.weighed.get(kind, Spent()).plus(price, tokens_in, tokens_out)

    def mean_cost(self, kind: str) -> float | None:
        """Return what an average reply to a kind of question costs; None before the first, or without a price."""
        weighed = self.weighed.get(kind)
        return weighed.cost / weighed.calls if weighed and weighed.cost is not None else None

    def settle(self, model: str, price: Price | None, tokens_in: int, tokens_out: int, expected_cost: float) -> None:
        """Enter an admitted request that was answered."""
        self.release(expected_cost, billed=False)
        self.calls += 1
        self.spent[model] = self.spent.get(model, Spent()).plus(price, tokens_in, tokens_out)

    def release(self, expected_cost: float, *, billed: bool) -> None:
        """Enter an admitted request that was not answered; ``billed`` if it may have been worked on all the same."""
        self._open -= 1
        self._open_cost -= expected_cost
        self.calls += billed
        self.unanswered_cost += expected_cost if billed else 0.0

    def summary(self) -> dict[str, Any]:
        """Return all counts, fit for a JSON summary."""
        return {
            "calls": self.calls,
            "cache_hits": self.cache_hits,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": self.cost,
            "retries": dict(sorted(self.retries.items())),
            "failures": dict(sorted(self.failures.items())),
            "replies_without_usage": self.without_usage,
            "by_model": {model: spent._asdict() for model, spent in sorted(self.spent.items())},
        }
