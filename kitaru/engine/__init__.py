"""The shell of effects: runs flows against their journals."""
