"""The `GateReport` in the forms that its readers need: people, CI tools, programs, later campaigns.

Pure: a report in, text out. Only `files` and `load_policy` touch the disk.
"""

from prefect_qatech.report.chart import (
    attempts_chart as attempts_chart,
    history_chart as history_chart,
)
from prefect_qatech.report.ctrf import render_ctrf as render_ctrf
from prefect_qatech.report.explain import (
    explain as explain,
    load_policy as load_policy,
)
from prefect_qatech.report.files import (
    append_job_summary as append_job_summary,
    check_report_directory as check_report_directory,
    clear_report_files as clear_report_files,
    write_report_files as write_report_files,
)
from prefect_qatech.report.gates import (
    gates_message as gates_message,
    render_gates as render_gates,
)
from prefect_qatech.report.history import (
    HistoryEntry as HistoryEntry,
    history_line as history_line,
    history_of as history_of,
    in_order as in_order,
    read_history as read_history,
)
from prefect_qatech.report.junit import render_junit as render_junit
from prefect_qatech.report.markdown import (
    render_job_summary as render_job_summary,
    render_markdown as render_markdown,
)
from prefect_qatech.report.table import render_table as render_table
from prefect_qatech.report.verdict_json import (
    load_verdict_json as load_verdict_json,
    render_verdict_json as render_verdict_json,
    verdict_json_schema as verdict_json_schema,
)
