"""Where flow code runs."""
