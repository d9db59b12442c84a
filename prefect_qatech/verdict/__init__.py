"""Pure: what the answers of QA.tech mean. No I/O, no clock, no Prefect; the same input gives the same verdict.

`outcomes` says what an attempt says about a test, `identity` which test it is, `policy` what a gate asks for, `judge`
whether the release may go out, `rerun` what to ask for again.
"""
