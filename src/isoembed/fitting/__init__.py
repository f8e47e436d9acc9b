"""Fitting laws: from runs to a law with its uncertainty, checked on runs that it was not fitted to."""
