"""Data: sources of pairs, a store of tokenised pairs on disk, and batches in a resumable order."""
