"""Which recipe for a budget: by a law where one was measured, by published rules where none was."""
