"""python -m onebay."""

from onebay.cli.main import main

main()
