"""`python -m app.cli` is `eggs`."""

from app.cli.main import main

main()
