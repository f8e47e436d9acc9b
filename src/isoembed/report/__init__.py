"""What people read: tables for the terminal, Markdown for the folder."""
