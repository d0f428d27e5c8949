"""Ways in: each parses, calls one operation and renders."""
