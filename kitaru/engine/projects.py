"""What of a project is deployed with a flow: its root, where its modules are, what git says."""

import ast
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kitaru.domain.deployment.events import Commit, EntryPoint
from kitaru.domain.execution.events import SourceReference
from kitaru.engine.bundles import IGNORE_FILE, NotBundled
from kitaru.engine.source import SourceNotLoadable

MARKER = ".kitaru"
PYPROJECT = "pyproject.toml"
GIT_SECONDS = 10
STARTING = ("run", "deploy", "invoke", "replay")


def project_root(file: str) -> str:
    """The folder that is deployed with a file: the nearest above it that `kitaru init` has marked,
    else the nearest with a pyproject.toml, else the file's own, or that of its outermost package.
    """
    folder = Path(os.path.realpath(file)).parent
    for marked in (folder, *folder.parents):
        if (marked / MARKER).is_dir():
            return str(marked)
    for marked in (folder, *folder.parents):
        if (marked / PYPROJECT).is_file():
            return str(marked)
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return str(folder)


def check_root(root: str) -> None:
    """Raises NotBundled for a folder that holds everything, and so what is nobody's business."""
    everything = {os.path.realpath(os.sep), os.path.realpath(os.path.expanduser("~"))}
    if os.path.realpath(root) in everything:
        raise NotBundled(
            root,
            "it holds far more than a project. Put the flow's file into a folder of its own, or "
            "mark one with `kitaru init`.",
        )


def deployable(reference: SourceReference, flow: str) -> None:
    """Raises SourceNotLoadable for a flow that no bundle of files can hold."""
    target = f"{reference.file or reference.module}:{reference.qualname}"
    if "<locals>" in reference.qualname:
        raise SourceNotLoadable(
            f"Flow {flow!r} ({target}) is defined inside a function, where a runner cannot find "
            "it; move it to the top level of its module.",
            target=target,
            file=reference.file,
        )
    if not reference.file or not os.path.isfile(reference.file):
        raise SourceNotLoadable(
            f"Flow {flow!r} was defined at a prompt or in a notebook; put it into a file, so that "
            "there is something to deploy.",
            target=target,
            file=reference.file,
        )


def entry_point(reference: SourceReference, root: str, paths: Sequence[str]) -> EntryPoint:
    """Where a flow is in the bundle of a root with these files. Raises SourceNotLoadable."""
    file = _relative(reference.file, root)
    if file not in paths:
        raise SourceNotLoadable(
            f"{reference.file} is not among the files that are deployed from {root}; see "
            f"{IGNORE_FILE} there.",
            target=f"{reference.file}:{reference.qualname}",
            file=reference.file,
        )
    own = _relative(reference.root or os.path.dirname(os.path.realpath(reference.file)), root)
    if own.split("/")[0] == os.pardir:
        raise SourceNotLoadable(
            f"Module {reference.module} is imported from {reference.root}, which is above its "
            f"project {root}: a runner could not find it there. Mark the folder that it is "
            f"imported from with `kitaru init`, and no folder below.",
            target=f"{reference.file}:{reference.qualname}",
            file=reference.file,
        )
    return EntryPoint(
        module=reference.module,
        qualname=reference.qualname,
        file=file,
        root=own,
        import_roots=tuple(dict.fromkeys((own, *_import_roots(root, paths)))),
    )


def defines_flow(content: bytes, qualname: str) -> bool:
    """Whether a file of Python has a decorated function of this name, wherever it stands."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return False
    name = qualname.rpartition(".")[2]
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == name
        and bool(node.decorator_list)
        for node in ast.walk(tree)
    )


def defines_still(content: bytes, function: Callable[..., Any]) -> bool:
    """Whether a file defines a loaded function with the parameters that it was loaded with.

    True where it cannot be told: for a function that another one stands for, or that is not from a
    file. Raises SyntaxError for a file that is no Python any more.
    """
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__") or not os.path.isfile(code.co_filename):
        return True
    names, asynchronous = code.co_qualname.split("."), inspect.iscoroutinefunction(function)
    if "<locals>" in names:
        return True
    taken = _parameters_of_code(function)
    return any(
        _parameters_of_tree(node.args) == taken
        and isinstance(node, ast.AsyncFunctionDef) == asynchronous
        for node in _definitions(ast.parse(content).body, names)
    )


def _definitions(
    body: Iterable[ast.AST], names: Sequence[str]
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of this qualified name, whatever blocks they stand in."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if [node.name] == list(names):
                    yield node
            case ast.ClassDef():
                if node.name == names[0]:
                    yield from _definitions(node.body, names[1:])
            case _:
                yield from _definitions(ast.iter_child_nodes(node), names)


def _parameters_of_tree(found: ast.arguments) -> tuple[Any, ...]:
    return (
        [each.arg for each in found.posonlyargs],
        [each.arg for each in found.args],
        found.vararg.arg if found.vararg else None,
        [each.arg for each in found.kwonlyargs],
        found.kwarg.arg if found.kwarg else None,
        len(found.defaults),
        {
            each.arg
            for each, default in zip(found.kwonlyargs, found.kw_defaults, strict=True)
            if default is not None
        },
    )


def _parameters_of_code(function: Any) -> tuple[Any, ...]:
    code = function.__code__
    names = list(code.co_varnames)
    by_place, by_name = code.co_argcount, code.co_kwonlyargcount
    rest = names[by_place + by_name :]
    return (
        names[: code.co_posonlyargcount],
        names[code.co_posonlyargcount : by_place],
        rest.pop(0) if code.co_flags & inspect.CO_VARARGS else None,
        names[by_place : by_place + by_name],
        rest.pop(0) if code.co_flags & inspect.CO_VARKEYWORDS else None,
        len(function.__defaults__ or ()),
        set(function.__kwdefaults__ or ()),
    )


def start_at_top_level(content: bytes, flow: str) -> int:
    """The line at which loading a file of Python runs, deploys or invokes a flow; 0: nowhere."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return 0
    for node in _loaded(tree.body):
        if isinstance(node, ast.Call) and _starts(node.func, flow):
            return node.lineno
    return 0


def _starts(called: ast.expr, flow: str) -> bool:
    """Whether it is ``flow.run``, ``flow.aio.deploy`` and the like."""
    if not isinstance(called, ast.Attribute) or called.attr not in STARTING:
        return False
    owner = called.value
    while isinstance(owner, ast.Attribute):
        owner = owner.value
    return isinstance(owner, ast.Name) and owner.id == flow


def _loaded(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """What runs when a file is loaded: no function's body, and nothing behind the main guard."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        yield node
        yield from _loaded(ast.iter_child_nodes(node))


def commit_of(root: str, paths: Iterable[str]) -> Commit | None:
    """The commit that a folder stands at, and whether these files of it are the commit's.

    None where git does not know.
    """
    sha = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".")
    known = _git(root, "ls-files", "-z", "--recurse-submodules")
    if not sha or changed is None or known is None:
        return None
    # What git ignores may be deployed all the same.
    is_dirty = bool(changed) or not set(paths) <= set(os.fsdecode(known).split("\0"))
    return Commit(sha=sha.decode(), is_dirty=is_dirty)


def _import_roots(root: str, paths: Iterable[str]) -> list[str]:
    """The folders of a project that this process looks for modules in, in its order."""
    folders = {""} | {path.rpartition("/")[0] for path in paths}
    holding = {
        "/".join(folder.split("/")[:n]) for folder in folders for n in range(folder.count("/") + 2)
    }
    found = []
    for entry in sys.path:
        place = os.path.realpath(entry or os.curdir)
        if os.path.commonpath([place, root]) == root and _relative(place, root) in holding:
            found.append(_relative(place, root))
    return found


def _relative(path: str, root: str) -> str:
    relative = os.path.relpath(os.path.realpath(path), root)
    return "" if relative == os.curdir else relative.replace(os.sep, "/")


def _git(folder: str, *arguments: str) -> bytes | None:
    """What git says; None where it cannot."""
    import subprocess  # not for running flows

    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, without a shell
            ["git", *arguments],  # noqa: S607 - the git of whoever deploys
            cwd=folder,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
