"""Finding a flow's code again: by reference, by file, by name; and telling changed code."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kitaru.domain.execution.events import SourceReference
from kitaru.engine.source import (
    SourceNotLoadable,
    SourceShadowed,
    fingerprint_of,
    load_flow,
    load_module,
    load_target,
    loading,
    main_module_of,
    recorded_module,
    reference_of,
)

HEADER = """
import functools

class Flow:
    __kitaru_flow__ = True
    def __init__(self, function):
        functools.update_wrapper(self, function)

def flow(function):
    return Flow(function)
"""

ONE_FLOW = (
    HEADER
    + '''
RUNS = []

@flow
def report():
    """A flow."""

class Trouble(Exception):
    pass

if __name__ == "__main__":
    RUNS.append("main")
    raise SystemExit("the main part has run")
'''
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def write(file: Path, text: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(file)


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def defined_by(text: str) -> Callable[..., Any]:
    """The function `f` that a program defines, without any source to look up."""
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    function: Callable[..., Any] = namespace["f"]
    return function


def test_a_module_is_referred_to_by_name_file_and_root(folder: Path) -> None:
    file = write(folder / "package/inner/flows.py", ONE_FLOW)
    write(folder / "package/__init__.py", "")
    write(folder / "package/inner/__init__.py", "")
    module = load_module("package.inner.flows")
    assert reference_of(module.report.__wrapped__) == SourceReference(
        module="package.inner.flows", qualname="report", file=file, root=str(folder)
    )


def test_a_package_is_referred_to_by_its_init_file(folder: Path) -> None:
    file = write(folder / "package/__init__.py", ONE_FLOW)
    reference = reference_of(load_module("package").report.__wrapped__)
    assert (reference.module, reference.file, reference.root) == ("package", file, str(folder))


SHOW = """
def f(): pass
from kitaru.engine.source import reference_of
print(*(repr(part) for part in (lambda r: (r.module, r.file, r.root))(reference_of(f))))
"""


def test_a_script_is_referred_to_by_its_file(folder: Path) -> None:
    file = write(folder / "script.py", SHOW)
    (folder / "elsewhere").mkdir()
    assert run("../script.py", cwd=folder / "elsewhere") == f"'__main__' {file!r} {str(folder)!r}"


def test_a_module_that_is_run_is_referred_to_by_the_name_to_import(folder: Path) -> None:
    file = write(folder / "package/tool.py", SHOW)
    write(folder / "package/__init__.py", "")
    shown = run("-m", "package.tool", cwd=folder)
    assert shown == f"'package.tool' {file!r} {str(folder)!r}"


def test_what_is_typed_at_a_prompt_has_no_file(folder: Path) -> None:
    assert run("-c", SHOW, cwd=folder) == "'__main__' '' ''"


def test_a_script_under_a_profiler_is_still_the_script(folder: Path) -> None:
    file = write(folder / "script.py", SHOW)
    shown = run("-m", "cProfile", "-o", os.devnull, "script.py", cwd=folder).splitlines()[0]
    assert shown == f"'__main__' {file!r} {str(folder)!r}"


def test_a_loaded_script_is_referred_to_as_the_script_that_it_is(folder: Path) -> None:
    file = write(folder / "script.py", ONE_FLOW)
    module = load_module("script.py")
    reference = reference_of(module.report.__wrapped__)
    assert reference == SourceReference("__main__", "report", file, str(folder))
    assert load_flow(reference) is module.report


def test_a_script_is_loaded_without_its_main_part(folder: Path) -> None:
    file = write(folder / "script.py", ONE_FLOW)
    flow = load_flow(SourceReference("__main__", "report", file, str(folder)))
    assert flow.__name__ == "report"
    assert sys.modules[main_module_of(file)].RUNS == []
    assert "__main__" not in main_module_of(file)


def test_a_script_is_loaded_once(folder: Path) -> None:
    file = write(folder / "script.py", ONE_FLOW)
    name = main_module_of(file)
    module = load_module(file)
    assert module.__name__ == name
    assert sys.modules[name] is module
    (folder / "link.py").symlink_to(file)
    assert load_module("link.py") is module
    assert load_target("script.py") is module.report
    assert main_module_of(file) == name
    assert recorded_module(name) == "__main__"
    assert recorded_module("package.module") == "package.module"


def test_a_script_may_have_any_name(folder: Path) -> None:
    write(folder / "my nightly-report", ONE_FLOW)
    assert load_target("./my nightly-report:report").__name__ == "report"


def test_a_script_finds_its_neighbours_and_dataclasses_work_in_it(folder: Path) -> None:
    write(folder / "app/neighbour.py", "VALUE = 3\n")
    write(
        folder / "app/script.py",
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        from neighbour import VALUE

        @dataclass
        class Point:
            x: int
            origin: ClassVar[int] = VALUE
        """,
    )
    assert load_module("app/script.py").Point(1).origin == 3


def test_a_file_in_a_package_is_imported_by_its_name(folder: Path) -> None:
    write(folder / "package/__init__.py", "")
    write(folder / "package/names.py", "NAME = 'x'\n")
    write(folder / "package/flows.py", ONE_FLOW + "\nfrom .names import NAME\n")
    module = load_module("package/flows.py")
    assert module.__name__ == "package.flows"
    assert load_target("package.flows:report") is module.report


def test_a_file_that_was_imported_already_is_not_loaded_again(folder: Path) -> None:
    file = write(folder / "flows.py", ONE_FLOW)
    module = load_module("flows")
    assert load_module("flows.py") is module
    assert load_flow(SourceReference("__main__", "report", file, str(folder))) is module.report
    assert main_module_of(file) == "flows"


def test_a_process_uses_its_own_main_module(folder: Path) -> None:
    write(
        folder / "script.py",
        HEADER
        + """
import sys
from kitaru.domain.execution.events import SourceReference
from kitaru.engine.source import load_flow, main_module_of, reference_of

@flow
def report(): pass

found = load_flow(reference_of(report.__wrapped__))
imported = load_flow(SourceReference("script", "report", __file__))
print(found is report, imported is report, main_module_of(__file__), "script" in sys.modules)
""",
    )
    assert run("script.py", cwd=folder) == "True True __main__ False"


def test_the_root_is_put_on_the_path(folder: Path) -> None:
    file = write(folder / "project/flows_of_project.py", ONE_FLOW)
    reference = SourceReference("flows_of_project", "report", file, root=str(folder / "project"))
    assert load_flow(reference).__module__ == "flows_of_project"
    assert sys.path[0] == str(folder / "project")


def test_a_module_without_a_root_is_loaded_from_its_file(folder: Path) -> None:
    file = write(folder / "odd name.py", ONE_FLOW)
    assert load_flow(SourceReference("made.up.name", "report", file)).__name__ == "report"


def test_a_flow_inside_a_class_is_found(folder: Path) -> None:
    write(
        folder / "flows.py",
        HEADER + "\nclass Reports:\n    @flow\n    def nightly(): pass\n",
    )
    assert load_target("flows:Reports.nightly").__name__ == "nightly"


def test_a_flow_under_another_name_is_found_by_its_function(folder: Path) -> None:
    file = write(folder / "flows.py", HEADER + "\ndef body(): pass\n\nnightly = flow(body)\n")
    module = load_module("flows")
    assert load_flow(SourceReference("flows", "body", file, str(folder))) is module.nightly


def test_a_project_that_was_moved_is_found_at_its_new_place(folder: Path) -> None:
    write(folder / "new/flows.py", ONE_FLOW)
    gone = SourceReference("flows", "report", str(folder / "old/flows.py"), str(folder / "new"))
    assert load_flow(gone).__name__ == "report"


def test_whoever_loads_is_known_while_loading(folder: Path) -> None:
    write(
        folder / "script.py",
        "from kitaru.engine.source import loading\nWHILE_LOADING = loading()\n",
    )
    module = load_module("script.py")
    assert str(folder / "script.py") == module.WHILE_LOADING
    assert loading() is None


def test_the_only_flow_of_a_module_needs_no_name(folder: Path) -> None:
    write(folder / "flows.py", ONE_FLOW + "\nalias = report\n")
    assert load_target("flows.py").__name__ == "report"
    assert load_target("flows").__name__ == "report"


def test_a_flow_from_elsewhere_does_not_count_beside_its_own(folder: Path) -> None:
    write(folder / "flows.py", ONE_FLOW)
    write(folder / "more.py", HEADER + "\nfrom flows import report\n\n@flow\ndef own(): pass\n")
    assert load_target("more").__name__ == "own"


def test_a_module_that_only_passes_a_flow_on_has_that_one(folder: Path) -> None:
    write(folder / "flows.py", ONE_FLOW)
    write(folder / "front.py", "from flows import report\n")
    assert load_target("front").__name__ == "report"


def test_several_flows_are_listed(folder: Path) -> None:
    write(folder / "flows.py", HEADER + "\n@flow\ndef b(): pass\n\n@flow\ndef a(): pass\n")
    with pytest.raises(SourceNotLoadable, match=r"several flows; .* Flows found: a, b\."):
        load_target("flows.py")


def test_a_module_without_flows_says_so(folder: Path) -> None:
    write(folder / "flows.py", HEADER)
    with pytest.raises(SourceNotLoadable, match=r"has no flow\. No flows were found\."):
        load_target("flows.py")


def failure(action: Callable[[], object]) -> SourceNotLoadable:
    with pytest.raises(SourceNotLoadable) as caught:
        action()
    return caught.value


def test_a_missing_file_is_named(folder: Path) -> None:
    error = failure(lambda: load_target("absent.py:report"))
    assert str(error) == f"There is no file {folder / 'absent.py'}."
    gone = SourceReference("__main__", "report", str(folder / "gone.py"), str(folder))
    assert str(failure(lambda: load_flow(gone))) == f"There is no file {folder / 'gone.py'}."


def test_a_missing_module_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    error = failure(lambda: load_module("absent_package.flows"))
    assert "There is no module 'absent_package' in " in str(error)
    assert str(folder) in str(error)


def test_a_syntax_error_is_named_with_its_line(folder: Path) -> None:
    file = write(folder / "broken.py", "x = 1\ndef f(:\n    pass\n")
    for target in ("broken.py", "broken"):
        error = failure(lambda target=target: load_module(target))  # type: ignore[misc]
        assert str(error).startswith(f"{file}:2: ")
        assert (error.file, error.line) == (file, 2)
        assert isinstance(error.__cause__, SyntaxError)


@pytest.mark.parametrize("target", ["failing.py", "failing"])
def test_a_failing_import_names_its_cause_and_place(target: str, folder: Path) -> None:
    file = write(folder / "failing.py", "x = 1\nimport module_that_nobody_has\n")
    error = failure(lambda: load_module(target))
    assert f"failed at {file}:2 with ModuleNotFoundError: " in str(error)
    assert (error.file, error.line) == (file, 2)
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_script_that_exits_while_it_is_loaded_does_not_end_the_process(folder: Path) -> None:
    write(folder / "exits.py", "raise SystemExit(3)\n")
    error = failure(lambda: load_module("exits.py"))
    assert isinstance(error.__cause__, SystemExit)


def test_a_script_that_failed_to_load_can_be_loaded_once_it_is_mended(folder: Path) -> None:
    file = write(folder / "script.py", "raise OSError\n")
    failure(lambda: load_module("script.py"))
    assert main_module_of(file) not in sys.modules
    write(folder / "script.py", ONE_FLOW + "\n# mended\n")
    assert load_target("script.py").__name__ == "report"


def test_a_name_that_is_not_there_lists_the_flows(folder: Path) -> None:
    write(folder / "flows.py", ONE_FLOW)
    error = failure(lambda: load_target("flows:absent"))
    assert "there is nothing of that name. Flows found: report." in str(error)


def test_what_is_not_a_flow_is_refused(folder: Path) -> None:
    write(folder / "flows.py", ONE_FLOW + "\ndef plain(): pass\n")
    error = failure(lambda: load_target("flows:plain"))
    assert "that is a function without @flow. Flows found: report." in str(error)
    assert "that is a type." in str(failure(lambda: load_target("flows:Flow")))
    assert "that is a list." in str(failure(lambda: load_target("flows:RUNS")))


def test_a_flow_that_another_decorator_hides_is_told(folder: Path) -> None:
    above = "\ndef above(f):\n    return functools.wraps(f)(lambda: f)\n"
    write(folder / "flows.py", f"{ONE_FLOW}{above}\n@above\n@flow\ndef hidden(): pass\n")
    told = str(failure(lambda: load_target("flows:hidden")))
    assert "another decorator stands above @flow and hides it; put @flow on top" in told


@pytest.mark.parametrize(
    "target", ["flows:", ":report", "flows:a b", "flows:1", ".", "", "..flows", "my-flows:report"]
)
def test_a_target_that_makes_no_sense_is_refused(target: str) -> None:
    assert "write path/to/file.py:flow or module:flow" in str(failure(lambda: load_target(target)))


def test_a_flow_inside_a_function_cannot_be_found_again() -> None:
    reference = SourceReference("flows", "make.<locals>.report", "/x/flows.py", "/x")
    assert "move the flow to the top level" in str(failure(lambda: load_flow(reference)))


def test_a_flow_from_a_prompt_cannot_be_found_again() -> None:
    error = failure(lambda: load_flow(SourceReference("__main__", "report")))
    assert "keep flows that must survive their process in a file" in str(error)


def test_a_module_that_another_file_shadows_is_refused(folder: Path) -> None:
    recorded = write(folder / "recorded/shadowed.py", ONE_FLOW)
    other = write(folder / "other/shadowed.py", ONE_FLOW)
    sys.path.insert(0, str(folder / "other"))
    load_module("shadowed")
    reference = SourceReference("shadowed", "report", recorded, str(folder / "recorded"))
    with pytest.raises(SourceShadowed) as caught:
        load_flow(reference)
    assert (caught.value.recorded, caught.value.found) == (recorded, other)
    assert recorded in str(caught.value)
    assert other in str(caught.value)


def fingerprint(text: str, folder: Path, count: list[int]) -> str:
    count[0] += 1
    name = f"fingerprinted_{count[0]}"
    write(folder / f"{name}.py", text)
    module: ModuleType = load_module(name)
    return fingerprint_of(module.f)


ORIGINAL = """
def flow(*args, **options): return lambda function: function
def f(x):
    return [x, 1, 'a']
"""


@pytest.mark.parametrize(
    "same",
    [
        "def f(x):\n    'A docstring.'\n    return [x, 1, 'a']\n",
        '# A comment.\n\ndef f(\n    x,\n):\n    return [\n        x, 1, "a"]  # why\n',
        "def flow(**o): return lambda f: f\n@flow(retries=3)\ndef f(x):\n    return [x, 1, 'a']\n",
    ],
)
def test_layout_comments_docstrings_and_options_make_no_difference(same: str, folder: Path) -> None:
    count = [0]
    assert fingerprint(same, folder, count) == fingerprint(ORIGINAL, folder, count)


@pytest.mark.parametrize(
    "other",
    [
        "def f(x):\n    return [x, 2, 'a']\n",
        "def f(x):\n    return [x, 1.0, 'a']\n",
        "def f(x):\n    return [x, True, 'a']\n",
        "def f(x):\n    return [x, 1, b'a']\n",
        "def f(x, y=1):\n    return [x, 1, 'a']\n",
        "async def f(x):\n    return [x, 1, 'a']\n",
        "import functools\n@functools.cache\ndef f(x):\n    return [x, 1, 'a']\n",
        "def f(y):\n    return [y, 1, 'a']\n",
    ],
)
def test_another_meaning_makes_a_difference(other: str, folder: Path) -> None:
    count = [0]
    assert fingerprint(other, folder, count) != fingerprint(ORIGINAL, folder, count)


def test_a_fingerprint_is_the_same_in_every_version_of_python(folder: Path) -> None:
    text = """
    def f(x: int, *, y: "str" = "a") -> list[int]:
        match x:
            case [1, *rest] if y:
                return f"{x!r:>{y}} {{}} {rest}" "!"
            case {"a": 1, **others}:
                return {**others}
        return [i for i in x] if (lambda q, /, r=1: q)(x) else x[1:2]
    """
    assert fingerprint(text, folder, [0]).startswith("97db4ebb70faf98a")


def test_without_source_the_code_itself_is_compared() -> None:
    text = "def f(x):\n    return x in {'a', 'b', 'c'}, (lambda: 1)()\n"
    assert fingerprint_of(defined_by(text)) == fingerprint_of(defined_by("\n\n" + text))
    assert fingerprint_of(defined_by(text)) != fingerprint_of(defined_by(text.replace("1", "2")))
    assert fingerprint_of(defined_by(text)) != fingerprint_of(defined_by(text.replace("c", "d")))


def test_a_fingerprint_is_the_same_in_every_process(folder: Path) -> None:
    program = (
        "from kitaru.engine.source import fingerprint_of\n"
        "def f(x): return x in {'a', 'b', 'c'}, ({'d', 'e'}, 1)\n"
        "print(fingerprint_of(f))\n"
    )
    file = write(folder / "script.py", program)
    from_source = {run(file, cwd=folder) for _ in range(2)}
    without_source = {run("-c", program, cwd=folder) for _ in range(3)}
    assert len(from_source) == len(without_source) == 1
    assert len(from_source.pop()) == 64


def test_anything_callable_has_a_fingerprint() -> None:
    assert len(fingerprint_of(len)) == 64
    assert len(fingerprint_of(lambda: 1)) == 64
