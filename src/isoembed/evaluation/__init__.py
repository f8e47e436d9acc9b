"""Evaluation: held-out loss, retrieval and STS, any system beside any other."""
