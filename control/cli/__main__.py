"""`python -m sluicegate.control.cli`: the same as `sluicegate`, where no script is on PATH."""

from sluicegate.control.cli import main

main()
