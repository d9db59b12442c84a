"""The gate: the flows `release_gate` and `gather_gates`, and all that a gate does from its first run to its report.

`flow` and `many` are the flows; `campaign` is one gate at work; `journal` keeps what a retry must know; `approval` asks
a person; `suspend` frees the worker while a run goes on, and `watcher` wakes what sleeps.
"""
