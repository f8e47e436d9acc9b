"""The command line: parse, call, print."""

from isoembed.cli.entry import app, main

__all__ = ["app", "main"]
