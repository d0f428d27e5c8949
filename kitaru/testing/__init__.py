"""For tests of flows: recorded histories as test items."""
