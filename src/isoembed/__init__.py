"""isoembed."""
