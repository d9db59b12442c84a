"""The `GateReport` in the forms that its readers need: people, CI tools, programs, later campaigns.

Pure: a report in, text out. Only `files` and `load_policy` touch the disk.
"""
