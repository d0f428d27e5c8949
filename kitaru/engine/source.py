"""Where a flow's code is, how another process loads it, and whether it has changed."""

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from kitaru.domain.execution.events import SourceReference
from kitaru.errors import KitaruStateError, KitaruUsageError

MAIN = "__main__"


class SourceNotLoadable(KitaruUsageError):
    """A flow's code cannot be loaded; the message says what to mend."""

    def __init__(self, message: str, *, target: str, file: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.target = target
        """What was to be loaded: a file, a module, or either with ``:flow``."""
        self.file = file
        """The file in which the trouble is, when it is known."""
        self.line = line


class SourceShadowed(KitaruStateError):
    """A module of that name comes from another file in this process than in the recorded one."""

    def __init__(self, module: str, *, recorded: str, found: str) -> None:
        super().__init__(
            f"Module {module} was recorded from {recorded}, and here it comes from "
            f"{found or 'no file at all'}. Run this execution in a process that finds the recorded "
            "one first on its path."
        )
        self.module = module
        self.recorded = recorded
        self.found = found


def reference_of(function: Callable[..., Any]) -> SourceReference:
    """Where a function is defined, for a process that has to find it again.

    What was typed at a prompt or in a notebook has no file.
    """
    place = getattr(inspect.unwrap(function), "__globals__", {})
    file = _absolute(place.get("__file__"))
    module = _recorded_name(function.__module__, place.get("__spec__") if file else None)
    if module == MAIN:
        root = os.path.dirname(os.path.realpath(file)) if file else ""
    else:
        root = _root_of(module, file) if file else ""
    return SourceReference(module=module, qualname=function.__qualname__, file=file, root=root)


def load_module(file_or_module: str) -> ModuleType:
    """The module in a file, or of a name that can be imported here or from the working directory.

    A script is loaded without running its ``__main__`` part. Raises SourceNotLoadable.
    """
    if _looks_like_a_file(file_or_module):
        return _load_file(os.path.abspath(os.path.expanduser(file_or_module)))
    if not all(part.isidentifier() for part in file_or_module.split(".")):
        raise SourceNotLoadable(
            f"{file_or_module!r} is neither a file of Python nor the name of a module; write "
            "path/to/file.py:flow or module:flow.",
            target=file_or_module,
        )
    return _import(file_or_module, _working_directory())


def load_target(target: str) -> Any:
    """The flow that ``file_or_module:flow`` names; the name may be left out where there is one.

    Raises SourceNotLoadable, listing the flows that were found.
    """
    place, separator, name = target.rpartition(":")
    if not separator or os.sep in name or "/" in name:
        place, name = target, ""
    elif not place or not all(part.isidentifier() for part in name.split(".")):
        raise SourceNotLoadable(
            f"{target!r} does not name a flow; write path/to/file.py:flow or module:flow.",
            target=target,
        )
    module = load_module(place)
    return _named_flow(module, name, target) if name else _only_flow(module, target)


def load_flow(reference: SourceReference) -> Any:
    """The flow that an execution was started with, for a process that goes on with it.

    Raises SourceNotLoadable, or SourceShadowed where going on would run other code.
    """
    target = f"{reference.file or reference.module}:{reference.qualname}"
    if "<locals>" in reference.qualname:
        raise SourceNotLoadable(
            f"{target} is defined inside a function, where no other process can find it; move the "
            "flow to the top level of its module.",
            target=target,
            file=reference.file,
        )
    return _named_flow(_load_referenced(reference, target), reference.qualname, target)


def load_checkpoint(reference: SourceReference) -> Any:
    """The checkpoint of this function, for the process of an isolated attempt.

    Raises SourceNotLoadable, or SourceShadowed where other code would run.
    """
    target = f"{reference.file or reference.module}:{reference.qualname}"
    module = _load_referenced(reference, target)
    value: Any = module
    for part in reference.qualname.split("."):
        value = getattr(value, part, None)
    for found in (value, *vars(module).values()):
        wrapped = getattr(found, "__wrapped__", None)
        if _is_checkpoint(found) and getattr(wrapped, "__qualname__", "") == reference.qualname:
            return found
    raise SourceNotLoadable(
        f"{target} is not a checkpoint: there is none of that name.",
        target=target,
        file=_file_of(module),
    )


def main_module_of(file: str) -> str:
    """The name under which this process has, or would have, the module that was `__main__`.

    Classes that another process recorded under ``__main__`` are found in that module.
    """
    loaded = _loaded_from(file)
    return loaded.__name__ if loaded else _script_name(file)


def recorded_module(name: str) -> str:
    """The name of a module as it is to be recorded: a script is ``__main__`` in every process."""
    return _recorded_name(name, getattr(sys.modules.get(MAIN), "__spec__", None))


def loading() -> str | None:
    """The file or module that is being loaded by this call stack, if any.

    Starting a flow then would start it again at each take-over: whoever runs flows refuses.
    """
    return _loading.get()


def fingerprint_of(function: Callable[..., Any]) -> str:
    """The hexadecimal SHA-256 of what a function's own source means.

    Layout, comments, docstrings and the options of Kitaru's own decorators make no difference.
    """
    unwrapped = inspect.unwrap(function)
    node = _source_tree(unwrapped)
    if node is not None:
        meaning = _normalised(node)
    elif isinstance(unwrapped, FunctionType):
        meaning = [sys.version_info[:2], _code_facts(unwrapped.__code__, unwrapped.__doc__)]
    else:
        meaning = [getattr(unwrapped, "__module__", ""), getattr(unwrapped, "__qualname__", "")]
    return hashlib.sha256(repr(meaning).encode("utf-8", "surrogatepass")).hexdigest()


_SCRIPT = "kitaru_script_"
_OWN_DECORATORS = ("flow", "checkpoint")

_lock = threading.RLock()
_loading: ContextVar[str | None] = ContextVar("kitaru_loading", default=None)


def _recorded_name(name: str, main_spec: Any) -> str:
    if name.startswith(_SCRIPT) or name == "__mp_main__":
        return MAIN
    if name == MAIN and main_spec is not None:
        # Under `python -m package.module` other processes can import it by its real name.
        return str(main_spec.name)
    return name


def _absolute(file: object) -> str:
    return os.path.abspath(file) if isinstance(file, str) else ""


def _file_of(module: ModuleType | None) -> str:
    return _absolute(getattr(module, "__file__", None))


def _root_of(module: str, file: str) -> str:
    """The folder from which importing the module gives this file; empty when there is none."""
    path = Path(file)
    location = path.parent if path.stem == "__init__" else path.with_suffix("")
    parts = tuple(module.split("."))
    return str(location.parents[len(parts) - 1]) if location.parts[-len(parts) :] == parts else ""


def _same_file(one: str, other: str) -> bool:
    return bool(one and other) and os.path.realpath(one) == os.path.realpath(other)


def _looks_like_a_file(text: str) -> bool:
    return text.endswith(".py") or os.sep in text or "/" in text or os.path.isfile(text)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _load_referenced(reference: SourceReference, target: str) -> ModuleType:
    module, file = reference.module, reference.file
    if module == MAIN and not file:
        raise SourceNotLoadable(
            f"Flow {reference.qualname} was defined at a prompt or in a notebook, where no other "
            "process can find it; keep flows that must survive their process in a file.",
            target=target,
        )
    by_file = module == MAIN or (not reference.root and os.path.isfile(file))
    if by_file and not _can_be_imported(module):
        return _load_file(file)
    if module not in sys.modules and (main := _own_main(file)) is not None:
        return main
    loaded = _import(module, reference.root)
    found = _file_of(loaded)
    # A recorded file that is gone was moved, together with its project: that is no other code.
    if not _same_file(found, file) and os.path.exists(file):
        raise SourceShadowed(module, recorded=file, found=found)
    return loaded


def _can_be_imported(module: str) -> bool:
    if module == MAIN:
        return False
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _own_main(file: str) -> ModuleType | None:
    main = sys.modules.get(MAIN)
    return main if _same_file(_file_of(main), file) else None


def _loaded_from(file: str) -> ModuleType | None:
    """The module that this process has from a file already."""
    if (main := _own_main(file)) is not None:
        return main
    if (script := sys.modules.get(_script_name(file))) is not None:
        return script
    basename = os.path.basename(os.path.realpath(file))
    for module in list(sys.modules.values()):
        found = getattr(module, "__file__", None)
        if isinstance(found, str) and found.endswith(basename) and _same_file(found, file):
            return module
    return None


def _script_name(file: str) -> str:
    path = os.path.realpath(file)
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return f"{_SCRIPT}{digest}_{re.sub(r'[^0-9A-Za-z_]', '_', Path(path).stem)}"


def _load_file(file: str) -> ModuleType:
    with _lock:
        if (loaded := _loaded_from(file)) is not None:
            return loaded
        if not os.path.isfile(file):
            raise SourceNotLoadable(f"There is no file {file}.", target=file, file=file)
        package = _package_of(file)
        if package:
            return _import(*package)
        return _load_script(file)


def _package_of(file: str) -> tuple[str, str] | None:
    """The dotted name and root of a file inside a package."""
    path = Path(file)
    folder, parts = path.parent, [] if path.stem == "__init__" else [path.stem]
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    in_package = folder != path.parent and all(part.isidentifier() for part in parts)
    return (".".join(parts), str(folder)) if in_package else None


def _load_script(file: str) -> ModuleType:
    name = _script_name(file)
    loader = importlib.machinery.SourceFileLoader(name, file)
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    _put_on_path(os.path.dirname(os.path.realpath(file)))
    # Before it runs: dataclasses and annotations look their module up while classes are made.
    sys.modules[name] = module
    try:
        with _explained(file):
            loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import(name: str, root: str) -> ModuleType:
    with _lock:
        _put_on_path(root)
        importlib.invalidate_caches()
        with _explained(name):
            return importlib.import_module(name)


def _put_on_path(folder: str) -> None:
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)


@contextmanager
def _explained(target: str) -> Iterator[None]:
    token = _loading.set(target)
    try:
        yield
    except SyntaxError as error:
        place = f"{error.filename or target}:{error.lineno or 0}"
        raise SourceNotLoadable(
            f"{place}: {error.msg}.",
            target=target,
            file=error.filename or "",
            line=error.lineno or 0,
        ) from error
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not missing or not f"{target}.".startswith(f"{missing}."):
            raise _failed(target, error) from error
        raise SourceNotLoadable(
            f"There is no module {missing!r} in {_working_directory()} or on the path of "
            f"{sys.executable}.",
            target=target,
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(target, error) from error
    finally:
        _loading.reset(token)


def _failed(target: str, error: BaseException) -> SourceNotLoadable:
    file, line = _raised_at(error)
    kind = type(error).__qualname__
    return SourceNotLoadable(
        f"Loading {target} failed at {file}:{line} with {kind}: {error}",
        target=target,
        file=file,
        line=line,
    )


def _raised_at(error: BaseException) -> tuple[str, int]:
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith("<frozen ")
    ]
    return frames[-1] if frames else ("", 0)


def _is_flow(value: object) -> bool:
    return getattr(type(value), "__kitaru_flow__", False) is True


def _is_checkpoint(value: object) -> bool:
    return getattr(type(value), "__kitaru_checkpoint__", False) is True


def flows_in(module: ModuleType) -> dict[str, Any]:
    """The flows that a module defines, or that it has from elsewhere when it defines none."""
    flows: dict[int, tuple[str, Any]] = {}
    for name, value in list(vars(module).items()):
        if _is_flow(value):
            flows.setdefault(id(value), (name, value))
    defined = {
        name: flow
        for name, flow in flows.values()
        if getattr(flow, "__module__", None) == module.__name__
    }
    return defined or dict(flows.values())


def _only_flow(module: ModuleType, target: str) -> Any:
    flows = flows_in(module)
    if len(flows) == 1:
        return next(iter(flows.values()))
    problem = "has several flows; name one, as in module:flow" if flows else "has no flow"
    raise SourceNotLoadable(
        f"{target} {problem}. {_listed(flows)}", target=target, file=_file_of(module)
    )


def _named_flow(module: ModuleType, name: str, target: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if _is_flow(value):
        return value
    flows = flows_in(module)
    for flow in flows.values():
        # `nightly = flow(run_report)`: the flow goes by another name than its function.
        if getattr(getattr(flow, "__wrapped__", None), "__qualname__", None) == name:
            return flow
    problem = "there is nothing of that name" if value is None else f"that is {_described(value)}"
    if _is_flow(getattr(value, "__wrapped__", None)):
        problem = "another decorator stands above @flow and hides it; put @flow on top"
    raise SourceNotLoadable(
        f"{target} is not a flow: {problem}. {_listed(flows)}",
        target=target,
        file=_file_of(module),
    )


def _described(value: object) -> str:
    return "a function without @flow" if inspect.isroutine(value) else f"a {type(value).__name__}"


def _listed(flows: dict[str, Any]) -> str:
    return f"Flows found: {', '.join(sorted(flows))}." if flows else "No flows were found."


def _source_tree(function: Callable[..., Any]) -> ast.AST | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    node = tree.body[0] if len(tree.body) == 1 else None
    # Another name: the file was edited after it had been loaded, and these are other lines.
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return node if node.name == function.__name__ else None


def _normalised(node: object) -> Any:
    """A tree as nested lists, the same on every version of Python: nothing empty, no positions."""
    if isinstance(node, list):
        return [_normalised(item) for item in node]
    if not isinstance(node, ast.AST):
        return [type(node).__name__, repr(node)]
    facts = [
        [name, _normalised(value)]
        for name, value in _fields(node)
        if value is not None and value != [] and name not in ("ctx", "kind", "type_comment")
    ]
    return [type(node).__name__, facts]


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and _has_docstring(node, value):
            yield name, value[1:]
        elif name == "decorator_list":
            yield name, [decorator for decorator in value if not _is_own(decorator)]
        elif isinstance(node, ast.JoinedStr):
            yield name, _joined(value)
        else:
            yield name, value


def _joined(parts: list[ast.expr]) -> list[Any]:
    """The parts of an f-string; how its plain text is cut up differs between versions of Python."""
    joined: list[Any] = []
    for part in parts:
        text = part.value if isinstance(part, ast.Constant) else part
        if isinstance(text, str) and joined and isinstance(joined[-1], str):
            joined[-1] += text
        elif text != "":
            joined.append(text)
    return joined


def _has_docstring(node: ast.AST, body: list[ast.stmt]) -> bool:
    owners = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if not isinstance(node, owners) or not body or not isinstance(body[0], ast.Expr):
        return False
    constant = body[0].value
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


def _is_own(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _OWN_DECORATORS


def _code_facts(code: CodeType, docstring: str | None) -> list[Any]:
    constants = [
        _code_facts(constant, None) if isinstance(constant, CodeType) else _constant(constant)
        for constant in code.co_consts
        if docstring is None or constant != docstring
    ]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants]


def _constant(constant: object) -> Any:
    if isinstance(constant, tuple):
        return [_constant(item) for item in constant]
    if isinstance(constant, frozenset):
        return sorted(repr(_constant(item)) for item in constant)
    return [type(constant).__name__, repr(constant)]
