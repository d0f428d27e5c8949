"""The rules: pure, without clock, I/O, randomness or asyncio."""
