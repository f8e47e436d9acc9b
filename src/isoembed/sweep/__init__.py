"""Sweeps: which runs to make, in what order, each once, on one machine or many."""
