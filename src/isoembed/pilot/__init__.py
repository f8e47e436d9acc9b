"""Pilots: which small runs to make next, and what those that have ended say of a larger budget."""
