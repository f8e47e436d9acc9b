"""What people read in a terminal: aligned tables and short sentences."""
