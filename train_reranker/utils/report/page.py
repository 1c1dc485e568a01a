"""The report: one HTML file that needs no network, made of a result alone, and its plots as files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import replacing
from utils.report.plots import Plot, ablation_plots, assessment_plots
from utils.report.text import (
    ARM_HEADERS,
    COMPARISON_HEADERS,
    DIFFERENCE_HEADERS,
    NOTES,
    SEPARATION_HEADERS,
    SWEEP_HEADERS,
    arm_rows,
    comparison_rows,
    difference_rows,
    metric_table,
    money_text,
    separation_rows,
    slice_table,
    sweep_rows,
)
from utils.schema import Outcome

TEMPLATES = Path(__file__).parent / "templates"

# What a source shows for two arms, or for one; the first come first.
KINDS = {"win": "better", "loss": "worse", "tie": "the same", "open": "undecided"}
SINGLE_KINDS = {"none": "none found", "found": "found", "open": "undecided"}
MARKS = {Outcome.USABLE: "✓ usable", Outcome.UNUSABLE: "✗ unusable", Outcome.ERROR: "! error"}


def write_ablation_page(result: Mapping[str, Any], output: Path) -> Path:
    """Write the report of an ablation, or of a comparison of runs, beside its JSON file.

    Args:
        result: what the JSON file holds.
        output: the JSON file; the page takes its name, the plots go to ``<name>_plots/``.

    Returns:
        The page's path.
    """
    choices = _choices(result)
    return _write(
        "ablation.html",
        output,
        ablation_plots(result),
        title=result.get("title", "Ablation: how many candidates until the first usable one"),
        verdict=result["verdict"],
        settings=_pairs(result["settings"]),
        versions=_pairs(result["versions"]),
        notes=NOTES,
        arm_headers=ARM_HEADERS,
        arms=arm_rows(result),
        left_out=list(result.get("left_out", {}).items()),
        extraction_errors=result["extraction_errors"],
        comparison_headers=COMPARISON_HEADERS,
        comparisons=comparison_rows(result),
        money=[line for row in result["comparisons"] if (line := money_text(row))],
        sweep_headers=SWEEP_HEADERS,
        sweep=sweep_rows(result),
        choices=[f"{arm} against {baseline}" if baseline else arm for arm, baseline in choices],
        kinds=list((KINDS if result["comparisons"] else SINGLE_KINDS).items()),
        cases=cases(result, choices),
    )


def write_test_page(result: Mapping[str, Any], output: Path) -> Path:
    """Write the report of a test of rerankers beside its JSON file, with its plots in ``<name>_plots/``.

    Args:
        result: what the JSON file holds.
        output: the JSON file.

    Returns:
        The page's path.
    """
    metric_headers, metrics = metric_table(result)
    slice_headers, slices = slice_table(result)
    return _write(
        "assessment.html",
        output,
        assessment_plots(result),
        title="Test of a reranker",
        verdict=result["verdict"],
        settings=_pairs(result["settings"]),
        versions=_pairs(result["versions"]),
        notes=NOTES,
        metric_headers=metric_headers,
        metrics=metrics,
        difference_headers=DIFFERENCE_HEADERS,
        differences=difference_rows(result),
        slice_headers=slice_headers,
        slices=slices,
        separation_headers=SEPARATION_HEADERS,
        separation=separation_rows(result),
    )


def _write(template: str, output: Path, plots: Sequence[Plot], **values: Any) -> Path:
    """Render a template beside ``output``, with the plots in it and in a folder of their own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    # All that comes from documents, models and file names is escaped; only the page's own parts are markup.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    name = output.name.removesuffix(".json")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template).render(
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        plots=[plot._asdict() | {"svg": Markup(plot.inline())} for plot in plots],
        file=output.name,
        **values,
    )
    for plot in plots:
        plot.save(output.with_name(f"{name}_plots"))
    path = output.with_name(f"{name}.html")
    with replacing(path) as out:
        out.write(page)
    return path


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a mapping as rows of texts."""
    return [(key, value if isinstance(value, str) else json.dumps(value, default=str)) for key, value in values.items()]


def _choices(result: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return what the list of sources can be shown for: comparisons, the best first, else single arms."""
    compared = sorted(result["comparisons"], key=lambda row: row["judged_difference"] or 0)
    if compared:
        return [(row["arm"], row["baseline"]) for row in compared]
    return [(row["arm"], None) for row in result["table"]]


def cases(result: Mapping[str, Any], choices: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Return the sources as the page lists them, in the order of the first choice: wins and losses first."""
    titles = result.get("documents", {})
    listed = []
    for row in result["sources"]:
        entity = row["entity"] or {}
        states = [state(row["arms"], arm, baseline) for arm, baseline in choices]
        # Arms of one run share their verdicts; those of several runs side by side ("run: arm") may differ.
        judged = {
            (arm.rpartition(": ")[0], document_id): verdict
            for arm, trial in row["arms"].items()
            for document_id, verdict in zip(trial["retrieved"], trial["verdicts"], strict=False)
        }
        listed.append(
            {
                "source": row["source"],
                "title": titles.get(row["source"]) or row["source"],
                "query": entity.get("query") or "no query",
                "entity": entity.get("name"),
                "segment": entity.get("segment"),
                "error": row["error"],
                "states": states,
                "arms": [_list_of(arm, trial, titles) for arm, trial in row["arms"].items()],
                "reasons": [
                    {
                        "title": ": ".join(filter(None, (run, titles.get(i) or i))),
                        "outcome": verdict["outcome"],
                        "text": verdict["reason"],
                    }
                    for (run, i), verdict in judged.items()
                ],
            }
        )
    return sorted(listed, key=lambda case: case["states"][0]["order"])


def state(arms: Mapping[str, Any], arm: str, baseline: str | None) -> dict[str, Any]:
    """Return how a source went for an arm, against a baseline or by itself: kind, words, and place in the order."""
    ended = [arms.get(name, {}).get("attempts") for name in (arm, baseline) if name]
    if any(attempts is None for attempts in ended):
        return _state("open", "undecided", 0)
    if baseline is None:
        found = arms[arm]["success"]
        return _state("found" if found else "none", f"found at {ended[0]}" if found else "none found", ended[0])
    fewer = ended[1] - ended[0]
    if fewer == 0:
        gained = arms[arm]["success"] - arms[baseline]["success"]
        return _state(("tie", "win", "loss")[gained], ("the same", "found", "lost")[gained], 1)
    return _state("win" if fewer > 0 else "loss", f"{abs(fewer)} {'fewer' if fewer > 0 else 'more'}", abs(fewer))


def _state(kind: str, text: str, size: int) -> dict[str, Any]:
    places = list(KINDS if kind in ("win", "loss", "tie") else SINGLE_KINDS)
    place = len(KINDS) if kind == "open" else places.index(kind)
    return {"kind": kind, "text": text, "order": place * 10**6 - size}


def _list_of(arm: str, trial: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """Return one arm's candidates in order, each with its verdict, if it was judged."""
    outcomes = [verdict["outcome"] for verdict in trial["verdicts"]]
    outcomes += [None] * (len(trial["retrieved"]) - len(outcomes))
    if trial["success"] is None:
        told = "an error left it open"
    else:
        told = f"usable at {trial['attempts']}" if trial["success"] else f"none of {trial['attempts']} usable"
    return {
        "name": arm,
        "told": told,
        "candidates": [
            {"title": titles.get(i) or i, "outcome": outcome or "unjudged", "mark": outcome and MARKS[outcome]}
            for i, outcome in zip(trial["retrieved"], outcomes, strict=True)
        ],
    }
