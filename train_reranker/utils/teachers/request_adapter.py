"""How a model accepts a request: its format, and how an endpoint's refusals teach it."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from utils.teachers.endpoint import RESPONSE_FORMATS
from utils.teachers.endpoint_errors import EndpointError, Kind
from utils.teachers.prompts import Question

# Status codes with which some servers reject a request that they do not understand, though the code says "my fault".
MAY_REJECT = (200, 400, 500, 501)


class RequestFormat(NamedTuple):
    """A request without its texts: the response format, whether there is a system message, and the parameters."""

    response_format: str | None
    system: bool
    params: Mapping[str, Any]

    def body(self, question: Question) -> dict[str, Any]:
        """Return the request's body, without the model."""
        messages = [dict(message) for message in question.messages]
        if not self.system:
            system, user, *rest = messages
            messages = [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]
        body = {"messages": messages, **self.params}
        if self.response_format == "json_schema":
            schema = {"name": question.schema_name, "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def renamed(self) -> RequestFormat:
        """Return the format with ``max_completion_tokens`` for ``max_tokens``."""
        renamed = {"max_tokens": "max_completion_tokens"}
        return self._replace(params={renamed.get(key, key): value for key, value in self.params.items()})

    def changes_from(self, earlier: RequestFormat) -> list[str]:
        """Return the differences from an earlier format, in words."""
        changes = []
        if self.response_format != earlier.response_format:
            changes.append(f"response_format {self.response_format or 'none'}")
        if self.system != earlier.system:
            changes.append("the system message merged into the user message")
        renamed = earlier.renamed() if "max_completion_tokens" in self.params else earlier
        changes += [f"no {name}" for name in renamed.params if name not in self.params]
        return changes + [f"{name} {value}" for name, value in self.params.items() if name not in earlier.params]


_DROPPED_LAST = {"temperature": 1, "max_completion_tokens": 2, "max_tokens": 3}  # since they matter for the results


class RequestAdapter:
    """Finds the format in which a model accepts requests: the configured one, less what the endpoint rejects.

    Once a format has brought a reply it is settled: from then on, a refusal is about a question's text.
    """

    _FORMAT = r"response_?format|json_schema|json_object|schema|strict|structured|guided|grammar"
    _SYSTEM = r"system|\broles?\b"
    _PARAMETER = r"param|argument|support|unexpected|unknown|unrecogni[sz]ed|\bstream"

    def __init__(self, format_: RequestFormat) -> None:
        """Start with the configured format."""
        self.format, self.settled = format_, False
        self._unlearnable: set[tuple[object, ...]] = set()

    def may_learn(self, error: EndpointError, tries: int) -> bool:
        """Return whether an error of the current format, the ``tries``-th of its question, may be due to the format."""
        if self.settled or error.signature in self._unlearnable:
            return False
        # Some servers crash on what they do not know, but a server error may also be temporary.
        return error.refuses or (error.kind is Kind.SERVER and error.status in MAY_REJECT and tries > 1)

    def trials(self, error: EndpointError) -> Generator[RequestFormat, EndpointError, None]:
        """Yield formats to try after an error of the current one, the likeliest first; send in the error of each.

        What does not help is put back; what changes the error stays out. In the end all are left out at once, as they
        may be rejected in the same words.
        """
        first, format_, tried = error, self.format, 0
        candidates = self._reduced(format_, error)
        while candidates and tried < 12:
            trial, tried = candidates.pop(0), tried + 1
            answer = yield trial
            if answer.signature != error.signature:
                format_, error = trial, answer
                candidates = self._reduced(format_, error)
        for trial in self._minimal(first):
            yield trial
        self._unlearnable.add(first.signature)

    def _minimal(self, error: EndpointError) -> list[RequestFormat]:
        """Return the formats with everything likely left out at once, then more."""
        limits = {key: value for key, value in self.format.renamed().params.items() if key == "max_completion_tokens"}
        plain = self.format._replace(response_format=None, system=False)
        limited = plain._replace(params=limits)
        refused = [plain, self.format._replace(params=limits), limited, limited._replace(params={})]
        formats = {Kind.SERVER: [plain], Kind.NOT_FOUND: [limited], Kind.REFUSED: refused}[error.kind]
        return [trial for number, trial in enumerate(formats) if trial not in [self.format, *formats[:number]]]

    def _reduced(self, format_: RequestFormat, error: EndpointError) -> list[RequestFormat]:
        """Return the format with one thing less, in all ways; first without what the error names."""
        text = f"{error.param} {error.code} {error.raw}"

        def named(pattern: str) -> bool:
            return re.search(pattern, text, re.IGNORECASE) is not None

        if error.kind is Kind.NOT_FOUND:  # most likely the model or the address is wrong indeed
            return [format_._replace(response_format=None)] if format_.response_format else []
        weaker = RESPONSE_FORMATS[RESPONSE_FORMATS.index(format_.response_format) + 1 :]
        trials = [(named(self._FORMAT), format_._replace(response_format=name)) for name in weaker]
        if format_.system:
            trials.append((named(self._SYSTEM), format_._replace(system=False)))
        if named(r"\bstream") and not format_.params.get("stream"):
            trials.append((True, format_._replace(params={**format_.params, "stream": True})))
        if "max_tokens" in format_.params:
            trials.append((named("max_tokens"), format_.renamed()))
        for name in sorted(format_.params, key=lambda name: _DROPPED_LAST.get(name, 0)):
            rest = {key: value for key, value in format_.params.items() if key != name}
            trials.append((named(rf"(?<!\w){re.escape(name)}(?!\w)"), format_._replace(params=rest)))
        if error.kind is Kind.SERVER:
            # A server that fails because of a parameter says so; one that does not is more likely down.
            blames = named(self._PARAMETER)
            trials = [(hit, trial) for hit, trial in trials if (hit and blames) or trial.params == format_.params]
        return [trial for _, trial in sorted(trials, key=lambda trial: not trial[0])]
