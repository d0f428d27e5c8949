"""How a refused value tells its place: the path grows on the way out."""

from kitaru.errors import KitaruSerializationError

_LONGEST_PATH = 400


class RefusedError(Exception):
    """A value that cannot be kept; each level that it passes adds its step to the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._steps: list[str] = []

    def at(self, step: str) -> "RefusedError":
        self._steps.append(step)
        return self

    def as_error(self, where: str) -> KitaruSerializationError:
        path = _shortened(where + "".join(reversed(self._steps)))
        return KitaruSerializationError(f"{path}: {self.reason}", path=path)


def key_step(key: object) -> str:
    """The step to a dict's value: ``.name``, ``['odd key']``, ``[3]``."""
    if type(key) is str and key.isidentifier():
        return f".{key}"
    if type(key) in (str, int, float, bool, bytes, type(None)):
        text = ascii(key)
        return f"[{text if len(text) <= 60 else text[:57] + '...'}]"
    return f"[{type(key).__name__}]"


def _shortened(path: str) -> str:
    if len(path) <= _LONGEST_PATH:
        return path
    half = _LONGEST_PATH // 2
    return f"{path[:half]}...{path[-half:]}"
