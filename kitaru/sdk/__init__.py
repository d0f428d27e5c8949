"""What users import: flows, checkpoints, handles, clients."""
