"""How a model wants to be asked: the form of a request, and how an endpoint's refusals teach it."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from utils.teachers.prompts import Question
from utils.teachers.protocol import FORMATS, MAY_REFUSE, EndpointError, Kind


class Form(NamedTuple):
    """What a request has besides the texts: a format of the reply, a system message, parameters."""

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

    def without(self, name: str) -> Form:
        """Return the form without a parameter."""
        return self._replace(params={key: value for key, value in self.params.items() if key != name})

    def renamed(self) -> Form:
        """Return the form with ``max_completion_tokens`` for ``max_tokens``."""
        renamed = {"max_tokens": "max_completion_tokens"}
        return self._replace(params={renamed.get(key, key): value for key, value in self.params.items()})

    def since(self, earlier: Form) -> list[str]:
        """Say what is different from an earlier form."""
        changes = []
        if self.response_format != earlier.response_format:
            changes.append(f"response_format {self.response_format or 'none'}")
        if self.system != earlier.system:
            changes.append("the system message in the user's")
        renamed = earlier.renamed() if "max_completion_tokens" in self.params else earlier
        if renamed.params != earlier.params:
            changes.append("max_completion_tokens for max_tokens")
        changes += [f"no {name}" for name in renamed.params if name not in self.params]
        return [*changes, *(f"{name}: {value}" for name, value in self.params.items() if name not in renamed.params)]


_MATTERS = {"temperature": 1, "max_completion_tokens": 2, "max_tokens": 3}  # for the results: these are left out last


class RequestAdapter:
    """The form in which one model takes a request: all at first, then without what it turned out to refuse.

    What an endpoint says when it refuses is nothing to go by. So one thing after the other is left out, and what helps
    stays out. Once the form has brought a reply it stays as it is: whatever is refused then is refused for its text.
    """

    _FORMAT = r"response_?format|json_schema|json_object|schema|strict|structured|guided|grammar"
    _SYSTEM = r"system|\broles?\b"

    def __init__(self, form: Form) -> None:
        """Begin with what the configuration says."""
        self.form = form
        self.settled = False
        self._in_vain: set[tuple[object, ...]] = set()

    def may_learn(self, fault: EndpointError, tries: int) -> bool:
        """Return whether a fault of the present form, the ``tries``-th of its question, may come from the form."""
        if self.settled or fault.alike in self._in_vain:
            return False
        # Some endpoints fall over what they do not know: but an error of the server's own may also pass.
        return fault.refuses or (fault.kind is Kind.SERVER and fault.status in MAY_REFUSE and tries > 1)

    def trials(self, fault: EndpointError) -> Generator[Form, EndpointError, None]:
        """Yield forms to try after a refusal of the present one, the likeliest first; to be sent what each brings.

        What is left out in vain is put back. What changes the refusal stays out, since there may be several things
        that are refused one by one; in the end all goes at once, since they may be refused in the same words.
        """
        first, form, tried = fault, self.form, 0
        left = self._less(form, fault)
        while left and tried < 12:
            trial, tried = left.pop(0), tried + 1
            answer = yield trial
            if answer.alike != fault.alike:
                form, fault = trial, answer
                left = self._less(form, fault)
        for trial in self._least(first):
            yield trial
        self._in_vain.add(first.alike)

    def _least(self, fault: EndpointError) -> list[Form]:
        """Return the forms with all that is likely left out at once, then more."""
        limits = {key: value for key, value in self.form.renamed().params.items() if key == "max_completion_tokens"}
        plain = self.form._replace(response_format=None, system=False)
        limited = plain._replace(params=limits)
        forms = {
            Kind.SERVER: [plain],
            Kind.MODEL: [limited],
            Kind.REFUSED: [plain, self.form._replace(params=limits), limited, limited._replace(params={})],
        }[fault.kind]
        return [form for number, form in enumerate(forms) if form not in [self.form, *forms[:number]]]

    def _less(self, form: Form, fault: EndpointError) -> list[Form]:
        """Return the form with one thing less, in all ways; first without what the fault's words name."""
        said = f"{fault.param} {fault.code} {fault.said}"

        def named(pattern: str) -> bool:
            return re.search(pattern, said, re.IGNORECASE) is not None

        if fault.kind is Kind.MODEL:  # most likely there is no such model or address indeed
            return [form._replace(response_format=None)] if form.response_format else []
        formats = FORMATS[FORMATS.index(form.response_format) + 1 :]
        less = [(named(self._FORMAT), form._replace(response_format=weaker)) for weaker in formats]
        if form.system:
            less.append((named(self._SYSTEM), form._replace(system=False)))
        if named(r"\bstream") and not form.params.get("stream"):
            less.append((True, form._replace(params={**form.params, "stream": True})))
        # Servers that fall over a parameter are rarer than servers that are down.
        params = () if fault.kind is Kind.SERVER else form.params
        if "max_tokens" in params:
            less.append((named("max_tokens"), form.renamed()))
        for name in sorted(params, key=lambda name: _MATTERS.get(name, 0)):
            less.append((named(rf"(?<!\w){re.escape(name)}(?!\w)"), form.without(name)))
        return [one for _, one in sorted(less, key=lambda pair: not pair[0])]
