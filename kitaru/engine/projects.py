"""What of a project is deployed with a flow: its root, where its modules are, what git says."""

import ast
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

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


def commit_of(root: str) -> Commit | None:
    """The commit that a folder stands at; None where git does not know."""
    sha = _git(root, "rev-parse", "HEAD")
    if not sha:
        return None
    return Commit(sha=sha, is_dirty=bool(_git(root, "status", "--porcelain", "--", ".")))


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


def _git(folder: str, *arguments: str) -> str:
    import subprocess  # not for running flows

    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, without a shell
            ["git", *arguments],  # noqa: S607 - the git of whoever deploys
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
