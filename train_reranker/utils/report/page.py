"""The report: one HTML file that needs no network, made from a result alone, and its plots as files."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.evaluation.results import AblationResult, RerankerTestResult, Result
from utils.files import replacing
from utils.report.cases import (
    KINDS,
    MARKS,
    SINGLE_KINDS,
    conclusion,
    query_cases,
    query_choices,
    source_cases,
    source_choices,
    verdicts,
)
from utils.report.glossary import Glossary
from utils.report.lead import Lead, ablation_lead, page_lead, reranker_test_lead
from utils.report.plots import Plot, ablation_plots
from utils.report.reranker_plots import reranker_test_plots
from utils.report.text import Table, ablation_tables, reranker_test_tables

TEMPLATES = Path(__file__).parent / "templates"


def write_ablation_page(result: AblationResult, output: Path) -> Path:
    """Write the report of an ablation, or of runs side by side, beside its JSON file ``output``; return its path.

    The page takes the file's name; the plots go to ``<name>_plots/``.
    """
    choices = source_choices(result)
    return _write(
        "ablation.html", output, result, (ablation_tables(result), ablation_plots(result)), lead=ablation_lead(result),
        choices=[f"{arm} against {baseline}" if baseline else arm for arm, baseline in choices],
        kinds=KINDS if result.comparisons else SINGLE_KINDS,
        cases=source_cases(result, choices),
        title_of=lambda document_id: result.documents.get(document_id) or document_id,
        conclusion=conclusion, marks=MARKS, verdicts=verdicts,
    )  # fmt: skip


def write_test_page(result: RerankerTestResult, output: Path) -> Path:
    """Write the report of a test of rerankers, as :func:`write_ablation_page` does."""
    choices = query_choices(result)
    parts = reranker_test_tables(result), reranker_test_plots(result)
    return _write(
        "test.html", output, result, parts, lead=reranker_test_lead(result),
        choices=[f"{order} against {baseline}" for order, baseline in choices],
        kinds={kind: text for kind, text in KINDS.items() if kind != "open"},
        cases=query_cases(result, choices), metric=result.main_metric, queries=result.queries,
    )  # fmt: skip


def write_page(result: Result, output: Path, tables: Sequence[Table], plots: Sequence[Plot], title: str) -> Path:
    """Write a report of these tables and plots, as :func:`write_ablation_page` does."""
    return _write("base.html", output, result, (tables, plots), lead=page_lead(result, title))


def _write(
    template: str,
    output: Path,
    result: Result,
    parts: tuple[Sequence[Table], Sequence[Plot]],
    lead: Lead,
    **values: Any,
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
        lead=lead, glossary=Glossary(),
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
