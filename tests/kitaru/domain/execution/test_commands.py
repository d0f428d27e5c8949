"""Every command has its rule."""

import typing

import pytest

from kitaru.domain.execution import commands
from kitaru.domain.execution.decide import decide
from kitaru.domain.execution.state import ABSENT
from kitaru.errors import KitaruStateError

COMMANDS = [cls for cls in typing.get_args(commands.Command) if cls is not commands.Start]


@pytest.mark.parametrize("cls", COMMANDS, ids=lambda cls: cls.__name__)
def test_no_command_falls_through_the_rules(cls: type) -> None:
    facts = dict.fromkeys(cls.__struct_fields__, "retry")  # type: ignore[attr-defined]
    with pytest.raises(KitaruStateError):
        decide(ABSENT, cls(**facts))
