"""Looks at the flows in source files, and one call deep into the functions of the same project."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from kitaru.engine.lint.codes import CODES
from kitaru.engine.lint.modules import FunctionNode, Module
from kitaru.engine.lint.rules import Body, Place
from kitaru.errors import KitaruUsageError

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


class Finding(Struct, frozen=True, kw_only=True):
    """One place that a replay cannot repeat."""

    file: str
    line: int
    column: int
    """From 1."""
    code: str
    found: str
    """What stands there: ``time.time()``."""
    flow: str
    """The flow in whose body it is, or which calls what it is in."""
    function: str = ""
    """The function that the flow calls; empty in the flow's own body."""

    @property
    def message(self) -> str:
        """What it is, and what to do."""
        code = CODES[self.code]
        via = f" (in {self.function}, which it calls)" if self.function else ""
        where = f" in flow {self.flow}{via}" if self.flow else ""
        return f"{code.title}: {self.found}{where}; instead: {code.instead}"


def lint(paths: Iterable[str]) -> list[Finding]:
    """What is found in these files, and in the Python files of these folders, in order.

    Nothing is imported or run. Raises KitaruUsageError for a path that is not there.
    """
    return list(_Linter().findings(paths))


class _Linter:
    def __init__(self) -> None:
        self._modules: dict[Path, Module | None] = {}
        self._found: set[tuple[str, int, int, str]] = set()

    def findings(self, paths: Iterable[str]) -> Iterator[Finding]:
        for file in _files(paths):
            try:
                module = self._read(file)
            except (SyntaxError, UnicodeDecodeError, OSError) as error:
                yield Finding(
                    file=_shown(file),
                    line=getattr(error, "lineno", None) or 1,
                    column=getattr(error, "offset", None) or 1,
                    code="KIT100",
                    found=str(getattr(error, "msg", None) or error),
                    flow="",
                )
                continue
            for name, function in module.flows.items():
                yield from self._of_flow(module, name, function)

    def _of_flow(self, module: Module, flow: str, function: FunctionNode) -> Iterator[Finding]:
        body = Body(module, function)
        yield from self._new(module, body.places(), flow, "")
        called: set[int] = {id(function)}
        for _, name in body.references():
            target = self._function(module, name)
            if target is None or id(target[1]) in called:
                continue
            called.add(id(target[1]))
            places = Body(*target).places()
            yield from self._new(target[0], places, flow, target[1].name)

    def _new(
        self, module: Module, places: Iterator[Place], flow: str, function: str
    ) -> Iterator[Finding]:
        for code, node, found in places:
            place = (str(module.file), node.lineno, node.col_offset, code)
            if place in self._found or code in module.ignored.get(node.lineno, ()):
                continue
            self._found.add(place)
            yield Finding(
                file=_shown(module.file),
                line=node.lineno,
                column=node.col_offset + 1,
                code=code,
                found=found,
                flow=flow,
                function=function,
            )

    def _function(self, module: Module, name: str) -> tuple[Module, FunctionNode] | None:
        """The function of the project that a dotted name stands for, unless it is a checkpoint."""
        place, _, last = name.rpartition(".")
        home = module if not place else self._imported(module, place)
        function = home.functions.get(last) if home is not None else None
        if home is None or function is None or not home.is_own(function):
            return None
        return home, function

    def _imported(self, module: Module, name: str) -> Module | None:
        for root in dict.fromkeys([module.root, module.file.resolve().parent]):
            base = root.joinpath(*name.split("."))
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if file.is_file():
                    return self._read_quietly(file)
        return None

    def _read_quietly(self, file: Path) -> Module | None:
        try:
            return self._read(file)
        except (SyntaxError, UnicodeDecodeError, OSError):
            # It is told of where it is looked at for itself.
            return None

    def _read(self, file: Path) -> Module:
        key = file.resolve()
        known = self._modules.get(key)
        if known is None:
            known = self._modules[key] = Module(file)
        return known


def _files(paths: Iterable[str]) -> Iterator[Path]:
    for given in paths:
        path = Path(given)
        if path.is_dir():
            yield from _files_in(path)
        elif path.is_file():
            yield path
        else:
            raise KitaruUsageError(f"There is no file or folder {given}.")


def _files_in(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED
            and not name.startswith(".")
            and not (Path(here, name) / "pyvenv.cfg").is_file()
        )
        yield from (Path(here, name) for name in sorted(files) if name.endswith(".py"))


def _shown(file: Path) -> str:
    try:
        relative = os.path.relpath(file)
    except ValueError:
        return str(file)
    return str(file) if relative.startswith("..") else relative
