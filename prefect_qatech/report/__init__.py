"""The `GateReport` in the forms that its readers need: people, CI tools, programs, later campaigns.

Pure: a report in, text out. Only `files` and `load_policy` touch the disk.
"""

from prefect_qatech.report.chart import attempts_chart, history_chart
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.explain import explain, load_policy
from prefect_qatech.report.files import (
    append_job_summary,
    check_report_directory,
    clear_report_files,
    write_report_files,
)
from prefect_qatech.report.gates import gates_message, render_gates
from prefect_qatech.report.history import HistoryEntry, history_line, history_of, in_order, read_history
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.markdown import render_job_summary, render_markdown
from prefect_qatech.report.table import render_table
from prefect_qatech.report.verdict_json import load_verdict_json, render_verdict_json, verdict_json_schema

__all__ = [
    "HistoryEntry",
    "append_job_summary",
    "attempts_chart",
    "check_report_directory",
    "clear_report_files",
    "explain",
    "gates_message",
    "history_chart",
    "history_line",
    "history_of",
    "in_order",
    "load_policy",
    "load_verdict_json",
    "read_history",
    "render_ctrf",
    "render_gates",
    "render_job_summary",
    "render_junit",
    "render_markdown",
    "render_table",
    "render_verdict_json",
    "verdict_json_schema",
    "write_report_files",
]
