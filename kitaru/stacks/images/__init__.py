"""What an image asks for, and how each kind of stack gives it."""
