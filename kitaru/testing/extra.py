"""What the test tools need beside Kitaru itself."""

import importlib
from types import ModuleType

from kitaru.errors import KitaruUsageError


def needed(module: str, what: str) -> ModuleType:
    """A module of the ``testing`` extra. Raises KitaruUsageError, with the command, without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise KitaruUsageError(
            f"{what} needs {module}, which is not installed here: pip install 'kitaru[testing]'."
        ) from error
