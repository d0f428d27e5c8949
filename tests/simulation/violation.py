"""What a simulation raises when it has found something."""


class Violation(AssertionError):
    """The engine has broken one of its promises."""
