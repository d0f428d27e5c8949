"""What a person has chosen for a project: the active stack. A small file, written atomically."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from kitaru.errors import KitaruBackendError, KitaruUsageError
from kitaru.folders import project_folder, user_config_folder

FILE = "active-stack.json"
VARIABLE = "KITARU_CONFIG_PATH"
MOST_BYTES = 4_096


class Choice(NamedTuple):
    """The stack that was chosen, and the file that says so."""

    stack: str
    """Empty: the file is there, and names none."""
    file: Path


def choice_file() -> Path:
    """Where a choice is kept: below KITARU_CONFIG_PATH, in the nearest ``.kitaru/``, or in the
    user's configuration folder."""
    folder = os.environ.get(VARIABLE, "").strip()
    if folder:
        return Path(os.path.expanduser(folder)).absolute() / FILE
    return (project_folder() or user_config_folder(sys.platform, os.environ)) / FILE


def chosen_stack() -> Choice | None:
    """What was chosen; None when nothing was.

    A file with something else in it is a choice of no stack, so that another one can be chosen.
    Raises KitaruUsageError where it cannot be read.
    """
    try:
        file = choice_file()
    except KitaruUsageError:
        # There is no home directory: then there is no choice in it either.
        return None
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KitaruUsageError(f"{file} cannot be read: {error}.") from error
    return Choice(_stack_in(content), file)


def choose_stack(name: str) -> Path:
    """Writes a choice down and returns the file; whoever reads meanwhile sees the old or the new.

    Raises KitaruBackendError when it cannot be written.
    """
    import json
    import secrets

    file = choice_file()
    draft = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("x", encoding="utf-8") as opened:
                opened.write(json.dumps({"stack": name}) + "\n")
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise KitaruBackendError(f"{file} cannot be written: {error}") from error
    return file


def forget_choice() -> None:
    """From now on nothing is chosen. Raises KitaruBackendError when the file cannot be removed."""
    file = choice_file()
    try:
        file.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        raise KitaruBackendError(f"{file} cannot be removed: {error}") from error


def _stack_in(content: bytes) -> str:
    import json

    if len(content) > MOST_BYTES:
        return ""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    stack = value.get("stack") if isinstance(value, dict) else None
    return stack if isinstance(stack, str) else ""
