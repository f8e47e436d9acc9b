"""Above both towers: whole jobs, from a budget to a model on disk."""
