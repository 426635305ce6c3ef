"""`python -m ggquant`: the command line, for when the `ggquant` script is not on the path."""

from ggquant.cli import main

main()
