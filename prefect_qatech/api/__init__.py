"""QA.tech over HTTP. Imports no Prefect."""
