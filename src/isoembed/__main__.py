"""`python -m isoembed`, which torchrun needs."""

from isoembed.cli import main

main()
