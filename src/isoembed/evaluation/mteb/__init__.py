"""The MTEB library on an exported model: its own tasks, its own results, and local files as tasks of it."""
