"""Executions: their events, commands, state, decisions and retry policy."""
