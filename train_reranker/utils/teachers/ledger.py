"""What a run spends: calls, tokens and money by model, and the limits at which it stops."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from utils.errors import BudgetSpent, InputError


class Price(NamedTuple):
    """The price of a million tokens, in any currency."""

    input: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """Return the cost of these tokens; counts below 0, as of an unlimited reply or a damaged cache, are none."""
        return (max(0, tokens_in) * self.input + max(0, tokens_out) * self.output) / 1_000_000


class Spent(NamedTuple):
    """The sum over a number of replies; ``cost`` is None without a price."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0
    longest_reply: int = 0  # in tokens

    def plus(self, price: Price | None, tokens_in: int, tokens_out: int) -> Spent:
        """Return the sum with one more reply."""
        cost = None if price is None or self.cost is None else self.cost + price.of(tokens_in, tokens_out)
        longest = max(self.longest_reply, tokens_out)
        return Spent(self.calls + 1, self.tokens_in + tokens_in, self.tokens_out + tokens_out, cost, longest)


class Ledger:
    """Counts what a run's teachers ask, and refuses a call that might exceed a limit.

    A call is a request that was answered, or that the endpoint may bill (timeout, broken connection, server error). One
    that was turned away (429 and the like) is a retry; a cached reply is free. ``cost`` covers replies only.
    """

    def __init__(self, max_calls: int | None = None, max_cost: float | None = None) -> None:
        """Start at zero; None is no limit. ``max_cost`` is in the currency of the prices."""
        self.max_calls, self.max_cost = max_calls, max_cost
        self.calls = self.cache_hits = self.without_usage = 0
        self.tokens_in = self.tokens_out = 0  # of all paid replies
        self.retries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.by_model: dict[str, Spent] = {}  # replies that were paid for
        self.by_kind: dict[str, Spent] = {}  # replies by kind of question, those from the cache included
        self.unanswered_cost = 0.0  # estimated, of unanswered calls; counts towards the limit
        self._open, self._open_cost = 0, 0.0

    @property
    def cost(self) -> float | None:
        """The cost of all replies; None if a model that replied has no price."""
        costs = [spent.cost for spent in self.by_model.values()]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def check_price(self, model: str, price: Price | None) -> None:
        """Raise InputError if a model without a price would be asked under a limit on cost, which it never reached."""
        if self.max_cost is not None and price is None:
            raise InputError(f"--max_cost needs the price of {model}: add it to price_per_million_tokens")

    def expected_cost(self, model: str, price: Price | None, prompt_chars: int, max_tokens: Any = None) -> float:
        """Estimate the cost of a call: four characters per token, and a reply like the model's longest so far."""
        if price is None:
            return 0.0
        # Not like the mean, as many calls may be in flight near the limit.
        limit = max_tokens if type(max_tokens) is int and max_tokens > 0 else 300  # -1 is no limit to some servers
        longest_reply = self.by_model[model].longest_reply if model in self.by_model else limit
        return price.of(prompt_chars // 4, longest_reply)

    def admit(self, expected_cost: float = 0.0) -> None:
        """Admit a request that is then settled or released; BudgetSpent if, with those in flight, it might be over."""
        if self.max_calls is not None and self.calls + self._open >= self.max_calls:
            raise BudgetSpent(f"the limit of {self.max_calls} calls for this run is reached")
        at_most = (self.cost or 0.0) + self.unanswered_cost + self._open_cost + expected_cost
        if self.max_cost is not None and at_most > self.max_cost:
            raise BudgetSpent(f"the cost limit of {self.max_cost:g} for this run is reached")
        self._open += 1
        self._open_cost += expected_cost

    def record(self, kind: str, price: Price | None, tokens_in: int, tokens_out: int) -> None:
        """Add a reply to a kind of question at today's price, also if it came from the cache."""
        self.by_kind[kind] = self.by_kind.get(kind, Spent()).plus(price, tokens_in, tokens_out)

    def mean_cost(self, kind: str) -> float | None:
        """Return the mean cost of a reply to a kind of question; None before the first, or without a price."""
        spent = self.by_kind.get(kind)
        return spent.cost / spent.calls if spent and spent.cost is not None else None

    def settle(self, model: str, price: Price | None, tokens_in: int, tokens_out: int, expected_cost: float) -> None:
        """Close an admitted request that was answered."""
        self.release(expected_cost, billed=False)
        self.calls += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.by_model[model] = self.by_model.get(model, Spent()).plus(price, tokens_in, tokens_out)

    def release(self, expected_cost: float, *, billed: bool) -> None:
        """Close an admitted request that was not answered; ``billed`` if the endpoint may charge for it."""
        self._open -= 1
        self._open_cost -= expected_cost
        self.calls += billed
        self.unanswered_cost += expected_cost if billed else 0.0

    def summary(self) -> dict[str, Any]:
        """Return all counts for a JSON summary."""
        counts = {name: getattr(self, name) for name in ("calls", "cache_hits", "tokens_in", "tokens_out", "cost")}
        reasons = {name: dict(sorted(getattr(self, name).items())) for name in ("retries", "failures")}
        by_model = {model: spent._asdict() for model, spent in sorted(self.by_model.items())}
        return {**counts, **reasons, "replies_without_usage": self.without_usage, "by_model": by_model}


def summed(earlier: Any, now: Any, name: str = "") -> Any:
    """Return what two processes of a run took, by name at any depth; of what only one knows, that one's.

    A cost is unknown where one of them is.
    """
    if isinstance(earlier, dict) and isinstance(now, dict):
        return earlier | {key: summed(earlier[key], now[key], key) if key in earlier else now[key] for key in now}
    if not (isinstance(earlier, int | float) and isinstance(now, int | float)):
        return None if name == "cost" else now
    return max(earlier, now) if name == "longest_reply" else earlier + now
