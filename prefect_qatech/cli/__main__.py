"""`python -m prefect_qatech.cli`."""

from prefect_qatech.cli import main

main()
