"""The report: one HTML file that needs no network, made from a result alone, and its plots as files."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.evaluation.results import AblationResult, RerankerTestResult, Result
from utils.files import replacing
from utils.labelling.record import JudgedSource, Trial
from utils.report.plots import Plot, ablation_plots
from utils.report.reranker_plots import reranker_test_plots
from utils.report.text import Table, ablation_tables, reranker_test_tables
from utils.schema import Outcome, Verdict

TEMPLATES = Path(__file__).parent / "templates"

# How a source went for an arm against a baseline, or for one arm by itself; the first are listed first.
KINDS = {"win": "better", "loss": "worse", "tie": "the same", "open": "undecided"}
SINGLE_KINDS = {"none": "none found", "found": "found", "open": "undecided"}
MARKS = {Outcome.USABLE: "✓ usable", Outcome.UNUSABLE: "✗ unusable", Outcome.ERROR: "! error"}


def write_ablation_page(result: AblationResult, output: Path) -> Path:
    """Write the report of an ablation, or of runs side by side, beside its JSON file ``output``; return its path.

    The page takes the file's name; the plots go to ``<name>_plots/``.
    """
    choices = _choices(result)
    return _write(
        "ablation.html", output, result, (ablation_tables(result), ablation_plots(result)), title=result.title,
        choices=[f"{arm} against {baseline}" if baseline else arm for arm, baseline in choices],
        kinds=KINDS if result.comparisons else SINGLE_KINDS,
        cases=cases(result, choices),
        title_of=lambda document_id: result.documents.get(document_id) or document_id,
        conclusion=conclusion, marks=MARKS,
    )  # fmt: skip


def write_test_page(result: RerankerTestResult, output: Path) -> Path:
    """Write the report of a test of rerankers, as :func:`write_ablation_page` does."""
    tables, plots = reranker_test_tables(result), reranker_test_plots(result)
    return write_page(result, output, tables, plots, "Test of a reranker")


def write_page(result: Result, output: Path, tables: Sequence[Table], plots: Sequence[Plot], title: str) -> Path:
    """Write a report of these tables and plots, as :func:`write_ablation_page` does."""
    return _write("base.html", output, result, (tables, plots), title=title)


def _write(
    template: str, output: Path, result: Result, parts: tuple[Sequence[Table], Sequence[Plot]], **values: Any
) -> Path:
    """Render a template beside ``output``, with the plots in it and in a folder of their own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    tables, plots = parts
    # All that comes from documents, models and file names is escaped; only the page's own parts are markup.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    name = output.name.removesuffix(".json")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template).render(
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        tables=tables,
        plots=[plot._asdict() | {"svg": Markup(plot.inline())} for plot in plots],
        summary=result.headline, settings=_texts(result.settings), versions=_texts(result.versions),
        file=output.name, **values,
    )  # fmt: skip
    for plot in plots:
        plot.save(output.with_name(f"{name}_plots"))
    path = output.with_name(f"{name}.html")
    with replacing(path) as out:
        out.write(page)
    return path


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, value if isinstance(value, str) else json.dumps(value, default=str)) for key, value in values.items()]


def _choices(result: AblationResult) -> list[tuple[str, str | None]]:
    """Return what the list of sources can be shown for: comparisons, the best first, else single arms."""
    if not result.comparisons:
        return [(figures.arm, None) for figures in result.table]
    return [(one.arm, one.baseline) for one in sorted(result.comparisons, key=lambda one: one.judged_difference or 0)]


class State(NamedTuple):
    """How a source went for one choice; sources are listed by ``order``."""

    kind: str
    text: str
    order: int


class Case(NamedTuple):
    """A source as the page lists it, with a state for each choice."""

    source: JudgedSource
    states: list[State]

    @property
    def data(self) -> str:
        """The states for the page's script."""
        return json.dumps([state._asdict() for state in self.states])

    @property
    def verdicts(self) -> dict[tuple[str, str], Verdict]:
        """All verdicts by run and document: arms of one run share theirs; those of several ("run: arm") may differ."""
        return {
            (arm.rpartition(": ")[0], document_id): verdict
            for arm, trial in self.source.trials.items()
            for document_id, verdict in trial.judged
        }


def cases(result: AblationResult, choices: Sequence[tuple[str, str | None]]) -> list[Case]:
    """Return the sources as the page lists them, in the order of the first choice: wins and losses first."""
    listed = [Case(source, [state(source, *choice) for choice in choices]) for source in result.sources]
    return sorted(listed, key=lambda case: case.states[0].order)


def state(source: JudgedSource, arm: str, baseline: str | None) -> State:
    """Return how a source went for an arm, against a baseline or by itself."""
    ours, theirs = source.decided(arm), source.decided(baseline or arm)
    if ours is None or theirs is None:
        return _state("open", "undecided", 0)
    if baseline is None:
        found = f"found at {ours.attempts}" if ours.success else "none found"
        return _state("found" if ours.success else "none", found, ours.attempts)
    fewer = theirs.attempts - ours.attempts
    if fewer == 0:
        gained = ours.success - theirs.success
        return _state(("tie", "win", "loss")[gained], ("the same", "found", "lost")[gained], 1)
    return _state("win" if fewer > 0 else "loss", f"{abs(fewer)} {'fewer' if fewer > 0 else 'more'}", abs(fewer))


def _state(kind: str, text: str, size: int) -> State:
    places = list(KINDS if kind in KINDS else SINGLE_KINDS)
    return State(kind, text, places.index(kind) * 10**6 - size)


def conclusion(trial: Trial) -> str:
    """Return how an arm's trial on a source ended."""
    if trial.failed:
        return "undecided: an error"
    return f"usable at {trial.attempts}" if trial.success else f"none of {trial.attempts} usable"
