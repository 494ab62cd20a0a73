"""Floor 8: the report on gradient masking as a PDF: the verdict, then each check and its figure."""

import io
import textwrap
from pathlib import Path

from .masking import CHECKS, Finding, Report
from .results import write_bytes

PAGE = (8.27, 11.69)  # A4, upright, in inches
PER_PAGE = 3
COLOURS = {"passed": "#009E73", "failed": "#D55E00", "warning": "#E69F00", "not run": "#999999"}
VERDICTS = {
    "trusted": "#009E73",
    "trusted on condition": "#E69F00",
    "not to be trusted": "#D55E00",
}


def save(report: Report, title: str, path: str | Path) -> Path:
    """Write the report as one PDF, whole or not at all."""
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"Title": title}) as pdf:
        for page in pages(report, title):
            pdf.savefig(page)
    write_bytes(path, buffer.getvalue())
    return Path(path)


def pages(report: Report, title: str) -> list:
    """matplotlib figures: the verdict, then `PER_PAGE` checks a page."""
    # What was not run has no figure, and its reason stands on the first page.
    drawn = [finding for finding in report.findings if finding.numbers]
    groups = [drawn[first : first + PER_PAGE] for first in range(0, len(drawn), PER_PAGE)]
    return [_verdict(report, title), *(_checks(group) for group in groups)]


def _verdict(report: Report, title: str):
    from matplotlib.figure import Figure

    page = Figure(figsize=PAGE)
    text, top = page.text, 0.95
    text(0.08, top, f"May this robust accuracy be believed?  {title}", fontsize=11, va="top")
    text(0.08, top - 0.035, report.verdict.capitalize(), fontsize=24, va="top", weight="bold",
         color=VERDICTS[report.verdict])  # fmt: skip
    text(0.08, top - 0.085, textwrap.fill(report.reason, 92), fontsize=10.5, va="top",
         linespacing=1.4)  # fmt: skip
    settings = ", ".join(f"{name} {value}" for name, value in report.attack.items())
    facts = (
        f"{report.n:,} pictures; without an attack {report.clean:.1%} right. Number to report at "
        f"eps {report.attack['eps']:g}: {report.worst_case:.1%}, the worst case per picture over "
        f"everything tried here. The attack examined: {settings}."
    )
    text(0.08, top - 0.15, textwrap.fill(facts, 108), fontsize=9, va="top", color="#555555",
         linespacing=1.4)  # fmt: skip
    y, line = top - 0.225, 0.0132
    for finding in report.findings:
        sentence = textwrap.wrap(finding.sentence, 92)
        text(0.08, y, finding.status, fontsize=9, va="top", weight="bold",
             color=COLOURS[finding.status])  # fmt: skip
        text(0.19, y, f"{finding.number}", fontsize=9, va="top", weight="bold", ha="right")
        text(0.205, y, finding.name, fontsize=9, va="top", weight="bold")
        text(0.205, y - line, "\n".join(sentence), fontsize=8.5, va="top", linespacing=1.25)
        y -= line * (len(sentence) + 1) + 0.006
    return page


def _checks(findings: list[Finding]):
    from matplotlib.figure import Figure

    page = Figure(figsize=PAGE)
    figures = {check.number: check.figure for check in CHECKS}
    parts = page.subfigures(PER_PAGE, 1)
    for part, finding in zip(parts, findings, strict=False):
        part.text(0.06, 0.95, f"{finding.number}  {finding.name}", fontsize=13, va="top",
                  weight="bold")  # fmt: skip
        part.text(0.94, 0.95, finding.status, fontsize=13, va="top", ha="right", weight="bold",
                  color=COLOURS[finding.status])  # fmt: skip
        part.text(0.06, 0.87, textwrap.fill(finding.sentence, 100), fontsize=9.5, va="top",
                  linespacing=1.3)  # fmt: skip
        # Margins by hand: a layout engine takes a second for every page.
        part.subplots_adjust(left=0.14, right=0.9, bottom=0.16, top=0.7, wspace=0.3)
        figures[finding.number](part, finding.numbers)
    return page
