"""What can be done, once, for every surface alike."""
