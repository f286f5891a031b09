"""`python -m xconv` is the command `xconv`."""

from xconv.cli import main

main(prog_name="xconv")
