"""Runs in, laws out: tables of anybody's, ledgers of sweeps, law files."""
