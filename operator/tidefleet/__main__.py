"""`python -m tidefleet`: the command line."""

from tidefleet.cli.main import main

main()
