"""`python -m workers.cli`: the same as `amibus`."""

from workers.cli import main

main()
