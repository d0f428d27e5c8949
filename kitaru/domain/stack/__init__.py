"""Stacks: their events, commands, state and decisions."""
