"""index.html: one file without scripts or anything from elsewhere, for a phone as well as a desk."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.pages.charts import picture_size
from anyflow_rt.benchmarks.pages.sections import page_sections, page_tiles
from anyflow_rt.benchmarks.results.summary import Summary
from anyflow_rt.benchmarks.results.wording import size_text, when_text

TEMPLATE = "index.html.j2"


def page_html(summary: Summary, pictures: Mapping[str, bytes]) -> str:
    """The page; ``pictures``: file name -> PNG of what lies beside it. Raises MissingPackageError."""
    jinja2 = optional_module("jinja2", "drawing the report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = resources.files("anyflow_rt.benchmarks.pages").joinpath(TEMPLATE).read_text(encoding="utf-8")
    settings, machine = summary.results.settings, summary.results.machine
    page: str = environment.from_string(source).render(
        engine=f"{settings.engine} {settings.precision}",
        size=size_text(settings),
        machine=f"{machine.processor}, {machine.cores or 'unknown'} cores",
        created=when_text(summary.results.created),
        warnings=summary.warnings,
        tiles=page_tiles(summary),
        sections=page_sections(summary, pictures),
        sizes={name: picture_size(png) for name, png in pictures.items()},
    )
    return page
