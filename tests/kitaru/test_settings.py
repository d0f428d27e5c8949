"""Each layer of the settings alone and against the next, and what is refused."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.urls import parse_url
from kitaru import settings
from kitaru.choice import choose_stack
from kitaru.errors import KitaruUsageError
from kitaru.image import NO_IMAGE, ImageSettings
from kitaru.settings import (
    KitaruConfig,
    Layer,
    configure,
    forget_files,
    in_force,
    initialise_project,
    journal_url,
    resolve,
    resolve_with,
)

VALUES: dict[str, tuple[Any, Any, Any]] = {
    # One value for each of: configure(), the environment, pyproject.toml.
    "journal": ("/configured/a.db", "/environment/b.db", "/pyproject/c.db"),
    "cache": (False, "no", False),
    "retries": (3, "2", 1),
    "lease_seconds": (9, "8.5", 7),
    "stack": ("configured", "environment", "pyproject"),
    "image": ("configured:1", "environment:2", "pyproject:3"),
    "runners": (3, "2", 1),
    "runner_idle_seconds": (9, "8.5", 0),
}
EXPECTED: dict[str, tuple[Any, Any, Any]] = {
    "journal": (
        "sqlite:////configured/a.db",
        "sqlite:////environment/b.db",
        "sqlite:////pyproject/c.db",
    ),
    "cache": (False, False, False),
    "retries": (3, 2, 1),
    "lease_seconds": (9.0, 8.5, 7.0),
    "stack": ("configured", "environment", "pyproject"),
    "image": (
        ImageSettings(base_image="configured:1"),
        ImageSettings(base_image="environment:2"),
        ImageSettings(base_image="pyproject:3"),
    ),
    "runners": (3, 2, 1),
    "runner_idle_seconds": (9.0, 8.5, 0.0),
}
FILE_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/?"), min_size=1)
LAYERS = (Layer.CONFIGURE, Layer.ENVIRONMENT, Layer.PYPROJECT)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with nothing set anywhere."""
    for variable in list(os.environ):
        if variable.startswith("KITARU_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = tmp_path / "project" / "inner"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr("kitaru.settings._configured", {})
    return here


def write_pyproject(folder: Path, text: str) -> Path:
    file = folder / "pyproject.toml"
    file.write_text(text, encoding="utf-8")
    return file


def set_layer(layer: Layer, option: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = VALUES[option][LAYERS.index(layer)]
    match layer:
        case Layer.CONFIGURE:
            configure(**{option: value})
        case Layer.ENVIRONMENT:
            monkeypatch.setenv(f"KITARU_{option.upper()}", value)
        case _:
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            write_pyproject(folder, f"[tool.kitaru]\n{option} = {text}\n")


def test_built_in_values_hold_when_nothing_is_set(tmp_path: Path) -> None:
    config = resolve()
    assert (config.cache, config.retries, config.lease_seconds) == (True, 0, 30.0)
    assert (config.stack, config.image) == ("local", NO_IMAGE)
    assert config.journal == journal_url(tmp_path / "data" / "kitaru" / "journal.db")
    assert {origin.layer for origin in config.origins.values()} == {Layer.BUILT_IN}


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_is_heard_alone(
    layer: Layer, option: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_layer(layer, option, folder, monkeypatch)
    config = resolve()
    assert getattr(config, option) == EXPECTED[option][LAYERS.index(layer)]
    assert config.origins[option].layer is layer
    others = [config.origins[other].layer for other in VALUES if other != option]
    assert others == [Layer.BUILT_IN] * (len(VALUES) - 1)


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize(("higher", "lower"), [(0, 1), (1, 2), (0, 2)])
def test_a_higher_layer_wins_and_gives_way_when_it_is_gone(
    higher: int, lower: int, option: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_layer(LAYERS[lower], option, folder, monkeypatch)
    set_layer(LAYERS[higher], option, folder, monkeypatch)
    config = resolve()
    assert config.origins[option].layer is LAYERS[higher]
    assert getattr(config, option) == EXPECTED[option][higher]
    configure(**{option: None})
    monkeypatch.delenv(f"KITARU_{option.upper()}", raising=False)
    expected = LAYERS[lower] if lower == 2 else Layer.BUILT_IN
    assert resolve().origins[option].layer is expected


@given(
    configured=st.none() | st.integers(0, 10**9),
    environment=st.none() | st.integers(0, 10**9),
    pyproject=st.none() | st.integers(0, 10**9),
)
def test_the_highest_layer_that_says_something_wins(
    configured: int | None, environment: int | None, pyproject: int | None
) -> None:
    text = "" if pyproject is None else f"[tool.kitaru]\nretries = {pyproject}\n"
    here = Path.cwd()
    write_pyproject(here, text)
    said = [value for value in (configured, environment, pyproject) if value is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KITARU_RETRIES", "" if environment is None else str(environment))
        configure(retries=configured)
        assert resolve().retries == (said[0] if said else 0)


def test_configure_returns_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_RETRIES", "4")
    config = configure(cache=False)
    assert isinstance(config, KitaruConfig)
    assert (config.cache, config.retries) == (False, 4)
    assert config == resolve()


def test_configure_leaves_what_it_is_not_told() -> None:
    configure(retries=2)
    configure(cache=False)
    assert (resolve().retries, resolve().cache) == (2, False)


def test_configure_applies_all_or_nothing() -> None:
    with pytest.raises(KitaruUsageError):
        configure(cache=False, retries=-1)
    assert resolve().cache is True


def test_configure_changes_nothing_when_a_lower_layer_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KITARU_CACHE", "maybe")
    with pytest.raises(KitaruUsageError, match="KITARU_CACHE"):
        configure(retries=5)
    monkeypatch.delenv("KITARU_CACHE")
    assert resolve().retries == 0


def test_a_call_beats_every_layer(folder: Path) -> None:
    configure(journal="/configured.db", lease_seconds=9)
    config = resolve_with("runtime", journal="own.db")
    assert config.journal == journal_url(folder / "own.db")
    assert config.origins["journal"] == (Layer.CALL, "runtime(journal=...)")
    assert (config.lease_seconds, config.origins["lease_seconds"].layer) == (9.0, Layer.CONFIGURE)
    assert resolve().journal == "sqlite:////configured.db"
    with pytest.raises(KitaruUsageError, match=r"^runtime\(lease_seconds=\.\.\.\): 0 is not"):
        resolve_with("runtime", lease_seconds=0)


def test_configure_is_seen_by_every_thread() -> None:
    configure(retries=7)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(resolve().retries))
    thread.start()
    thread.join()
    assert seen == [7]


@pytest.mark.parametrize("text", ["", "  ", "\t"])
@pytest.mark.parametrize("option", VALUES)
def test_an_empty_variable_counts_as_unset(
    option: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"KITARU_{option.upper()}", text)
    assert {origin.layer for origin in resolve().origins.values()} == {Layer.BUILT_IN}


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_the_environment_turns_the_cache_on(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_CACHE", text)
    assert resolve().cache is True


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_the_environment_turns_the_cache_off(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_CACHE", text)
    assert resolve().cache is False


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("KITARU_RETRIES", "-1"),
        ("KITARU_RETRIES", "abc"),
        ("KITARU_RETRIES", "1.5"),
        ("KITARU_RETRIES", "1_0"),
        ("KITARU_RETRIES", "٣"),
        ("KITARU_RETRIES", "9" * 5000),
        ("KITARU_CACHE", "maybe"),
        ("KITARU_CACHE", "2"),
        ("KITARU_LEASE_SECONDS", "0.5"),
        ("KITARU_LEASE_SECONDS", "nan"),
        ("KITARU_LEASE_SECONDS", "inf"),
        ("KITARU_LEASE_SECONDS", "1e400"),
        ("KITARU_LEASE_SECONDS", "-30"),
        ("KITARU_LEASE_SECONDS", "soon"),
        ("KITARU_IMAGE", '{"base_image": ""}'),
        ("KITARU_JOURNAL", "mysql://host/name"),
        ("KITARU_JOURNAL", "sqlite:journal.db"),
        ("KITARU_JOURNAL", "sqlite://journal.db"),
        ("KITARU_JOURNAL", "sqlite:///"),
        ("KITARU_JOURNAL", "sqlite:////journal.db?mode=ro"),
        ("KITARU_JOURNAL", "file:journal.db"),
        ("KITARU_JOURNAL", ":memory:"),
        ("KITARU_JOURNAL", "sqlite:///:memory:"),
        ("KITARU_JOURNAL", "memory://somewhere"),
    ],
)
def test_a_bad_variable_is_refused_by_name(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(KitaruUsageError) as caught:
        resolve()
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "is not accepted; " in message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retries", -1),
        ("retries", True),
        ("retries", 1.0),
        ("retries", "1"),
        ("cache", 1),
        ("cache", "true"),
        ("lease_seconds", 0),
        ("lease_seconds", True),
        ("lease_seconds", float("nan")),
        ("lease_seconds", float("inf")),
        ("lease_seconds", 10**400),
        ("lease_seconds", "30"),
        ("stack", ""),
        ("stack", " "),
        ("stack", 3),
        ("image", ""),
        ("image", 3),
        ("image", ["python"]),
        ("image", {"base": "python"}),
        ("runners", 0),
        ("runners", True),
        ("runners", "2"),
        ("runner_idle_seconds", -1),
        ("runner_idle_seconds", False),
        ("runner_idle_seconds", float("nan")),
        ("journal", ""),
        ("journal", 3),
        ("journal", b"/bytes.db"),
        ("journal", "a\0b"),
    ],
)
def test_configure_refuses_a_bad_value(option: str, value: Any) -> None:
    with pytest.raises(KitaruUsageError, match=rf"^configure\({option}=\.\.\.\): "):
        configure(**{option: value})


@pytest.mark.parametrize(
    "line",
    [
        "retries = -1",
        'retries = "1"',
        "cache = 1",
        "lease_seconds = nan",
        "journal = 3",
        "stack = 3",
        "image = 3",
        "image = {base_image = 3}",
    ],
)
def test_a_bad_value_in_pyproject_is_refused_with_file_and_key(line: str, folder: Path) -> None:
    file = write_pyproject(folder, f"[tool.kitaru]\n{line}\n")
    with pytest.raises(KitaruUsageError) as caught:
        resolve()
    key = line.split(" ")[0]
    assert str(caught.value).startswith(f"{file}: [tool.kitaru] {key}: ")


def test_a_bad_value_is_refused_even_where_a_higher_layer_hides_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pyproject(folder, "[tool.kitaru]\nretries = -1\n")
    monkeypatch.setenv("KITARU_RETRIES", "1")
    with pytest.raises(KitaruUsageError, match="pyproject"):
        resolve()


def test_an_unknown_key_is_refused_and_the_known_ones_are_listed(folder: Path) -> None:
    write_pyproject(folder, "[tool.kitaru]\nretry = 1\n")
    with pytest.raises(KitaruUsageError) as caught:
        resolve()
    assert "no key 'retry'" in str(caught.value)
    assert (
        "cache, image, journal, lease_seconds, retries, runner_idle_seconds, runners, stack"
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[tool.kitaru]\nretries = = 1\n", ":2: not valid TOML"),
        ("[tool.kitaru", ", at its end: not valid TOML"),
        ("[tool]\nkitaru = 3\n", "a table [tool.kitaru] is needed"),
    ],
)
def test_a_broken_pyproject_is_named(text: str, place: str, folder: Path) -> None:
    file = write_pyproject(folder, text)
    with pytest.raises(KitaruUsageError) as caught:
        resolve()
    assert str(file) in str(caught.value)
    assert place in str(caught.value)


def test_a_pyproject_that_is_not_utf_8_is_named_with_its_line(folder: Path) -> None:
    (folder / "pyproject.toml").write_bytes(b"# one\n# two\n# \xff\n")
    with pytest.raises(KitaruUsageError, match=r"pyproject\.toml:3: .*UTF-8"):
        resolve()


def test_a_changed_pyproject_is_read_again(folder: Path) -> None:
    write_pyproject(folder, "[tool.kitaru]\nretries = 1\n")
    assert resolve().retries == 1
    write_pyproject(folder, "[tool.kitaru]\nretries = 10\n")
    assert resolve().retries == 10


def test_pyproject_is_found_upwards_past_one_that_does_not_speak_of_kitaru(folder: Path) -> None:
    write_pyproject(folder, "[project]\nname = 'inner'\n")
    outer = write_pyproject(folder.parent, "[tool.kitaru]\nretries = 6\n")
    config = resolve()
    assert config.retries == 6
    assert config.origins["retries"].where == f"{outer}: [tool.kitaru] retries"


def test_a_nearer_pyproject_hides_a_farther_one(folder: Path) -> None:
    write_pyproject(folder.parent, "[tool.kitaru]\nretries = 6\ncache = false\n")
    write_pyproject(folder, "[tool.kitaru]\nretries = 1\n")
    assert (resolve().retries, resolve().cache) == (1, True)


def test_a_relative_journal_in_pyproject_is_relative_to_the_file(folder: Path) -> None:
    write_pyproject(folder.parent, "[tool.kitaru]\njournal = 'here/journal.db'\n")
    assert resolve().journal == journal_url(folder.parent / "here" / "journal.db")


@pytest.mark.parametrize("text", ["here.db", "./here.db", "sqlite:///here.db", "x/../here.db"])
def test_a_relative_journal_elsewhere_is_relative_to_the_working_directory(
    text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_JOURNAL", text)
    assert resolve().journal == journal_url(folder / "here.db")


def test_a_relative_configured_journal_stays_where_it_was_configured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(journal=Path("here.db"))
    monkeypatch.chdir(tmp_path)
    assert resolve().journal == journal_url(folder / "here.db")


def test_a_journal_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KITARU_JOURNAL", "~/mine.db")
    assert resolve().journal == journal_url(tmp_path / "home" / "mine.db")


def test_a_refused_url_is_not_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_JOURNAL", "mysql://me:secret@host/name")
    with pytest.raises(KitaruUsageError, match=r"'mysql://\.\.\.' is not accepted") as caught:
        resolve()
    assert "secret" not in str(caught.value)


def test_every_resolved_journal_is_one_that_the_journal_can_open(tmp_path: Path) -> None:
    assert parse_url(resolve().journal).path == str(tmp_path / "data" / "kitaru" / "journal.db")
    assert parse_url(configure(journal="/a b/%41.db").journal).path == "/a b/%41.db"
    assert parse_url(configure(journal="memory://").journal).backend == "memory"


def test_a_journal_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_JOURNAL", "memory://")
    assert resolve().journal == "memory://"


@pytest.mark.parametrize("name", ["", "with space"])
def test_a_folder_is_no_journal(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / name
    place.mkdir(exist_ok=True)
    monkeypatch.setenv("KITARU_JOURNAL", str(place))
    with pytest.raises(KitaruUsageError, match="is a folder; name a file in it"):
        resolve()


@given(FILE_NAMES)
def test_any_file_name_survives_the_url(name: str) -> None:
    file = Path("/folder") / f"a{name}b"
    url = journal_url(file)
    assert url == f"sqlite:///{file}"
    assert configure(journal=url).journal == url
    assert configure(journal=file).journal == url


def test_a_file_name_that_is_not_utf_8_survives_the_url() -> None:
    file = os.fsdecode(b"/folder/\xff.db")
    url = configure(journal=file).journal
    assert url == f"sqlite:///{file}"
    assert configure(journal=url).journal == url


def test_the_nearest_project_folder_holds_the_journal(folder: Path) -> None:
    outer = initialise_project(folder.parent)
    assert resolve().journal == journal_url(outer / "journal.db")
    inner = initialise_project(folder)
    config = resolve()
    assert config.journal == journal_url(inner / "journal.db")
    assert config.origins["journal"] == (Layer.PROJECT_FOLDER, str(inner))


def test_a_journal_that_is_set_beats_the_project_folder(folder: Path) -> None:
    initialise_project(folder)
    write_pyproject(folder.parent, "[tool.kitaru]\njournal = '/elsewhere.db'\n")
    assert resolve().journal == "sqlite:////elsewhere.db"


def test_initialising_a_project_again_changes_nothing(folder: Path) -> None:
    made = initialise_project(folder)
    ignore = made / ".gitignore"
    assert ignore.read_text(encoding="utf-8").splitlines()[-1] == "*"
    ignore.write_text("mine\n", encoding="utf-8")
    (made / "journal.db").write_bytes(b"precious")
    assert initialise_project(str(folder)) == made
    assert ignore.read_text(encoding="utf-8") == "mine\n"
    assert (made / "journal.db").read_bytes() == b"precious"


def test_a_project_needs_a_folder(folder: Path) -> None:
    with pytest.raises(KitaruUsageError, match="is not a folder"):
        initialise_project(folder / "absent")
    (folder / ".kitaru").touch()
    with pytest.raises(KitaruUsageError, match="move it away"):
        initialise_project(folder)


def test_the_active_stack_is_the_lowest_layer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = choose_stack("chosen")
    assert resolve().stack == "chosen"
    assert resolve().origins["stack"] == (Layer.ACTIVE_STACK, str(file))
    write_pyproject(folder, "[tool.kitaru]\nstack = 'pyproject'\n")
    assert resolve().stack == "pyproject"
    monkeypatch.setenv("KITARU_STACK", "environment")
    assert resolve().stack == "environment"
    assert configure(stack="configured").stack == "configured"
    configure(stack=None)
    assert resolve().stack == "environment"


def test_a_broken_choice_is_no_stack_and_hinders_no_other_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = choose_stack("chosen")
    file.write_text("{}", encoding="utf-8")
    assert resolve().stack == ""
    assert resolve().origins["stack"] == (Layer.ACTIVE_STACK, str(file))
    monkeypatch.setenv("KITARU_STACK", "environment")
    assert resolve().stack == "environment"


def test_what_this_process_has_chosen_is_in_force_at_once() -> None:
    assert in_force().stack == "local"
    choose_stack("chosen")
    forget_files()
    assert in_force().stack == "chosen"


def test_an_image_is_merged_field_by_field_and_variable_by_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_pyproject(
        folder,
        """
        [tool.kitaru.image]
        base_image = "python:3.12"
        requirements = ["httpx", "attrs"]
        [tool.kitaru.image.environment]
        A = "pyproject"
        B = "pyproject"
        C = "pyproject"
        """,
    )
    monkeypatch.setenv(
        "KITARU_IMAGE", '{"requirements": [], "environment": {"B": "variable", "C": "variable"}}'
    )
    config = configure(image={"environment": {"C": "configured"}})
    assert config.image == ImageSettings(
        base_image="python:3.12",
        requirements=[],
        environment={"A": "pyproject", "B": "variable", "C": "configured"},
    )
    said_by = {name: origin.where for name, origin in config.origins.items() if "image" in name}
    assert said_by == {
        "image": "configure(image=...)",
        "image.base_image": f"{file}: [tool.kitaru] image",
        "image.requirements": "KITARU_IMAGE",
        "image.environment": "configure(image=...)",
        "image.environment.A": f"{file}: [tool.kitaru] image",
        "image.environment.B": "KITARU_IMAGE",
        "image.environment.C": "configure(image=...)",
    }


def test_a_variable_names_a_base_image_or_holds_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_IMAGE", "python:3.13")
    assert resolve().image == ImageSettings(base_image="python:3.13")
    monkeypatch.setenv("KITARU_IMAGE", '{"parent_image": "python:3.12"}')
    assert resolve().image == ImageSettings(base_image="python:3.12")
    monkeypatch.setenv("KITARU_IMAGE", '{"environment": {"TOKEN": "sesame",}}')
    with pytest.raises(KitaruUsageError, match="KITARU_IMAGE: not valid JSON") as caught:
        resolve()
    assert "sesame" not in str(caught.value)


def test_a_configuration_does_not_show_secrets() -> None:
    config = configure(image={"environment": {"API_KEY": "sesame"}})
    assert "sesame" not in repr(config)


def test_a_working_directory_that_is_gone_leaves_absolute_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert resolve().origins["journal"].layer is Layer.BUILT_IN
    monkeypatch.setenv("KITARU_JOURNAL", "relative.db")
    with pytest.raises(KitaruUsageError, match="name an absolute path"):
        resolve()


def test_a_configuration_is_a_frozen_value() -> None:
    config = resolve()
    assert hash(config) == hash(resolve())
    with pytest.raises(AttributeError):
        config.retries = 3  # type: ignore[misc]


def test_settings_cost_no_heavy_import() -> None:
    program = (
        "import sys; import kitaru.settings; "
        "print(sorted({'asyncio', 'msgspec', 'structlog', 'tomllib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_runners_of_a_journal_are_the_same_whichever_name_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "journal.db")
    folder = settings.runner_folder(f"sqlite:///{tmp_path}/real/journal.db")
    assert folder == settings.runner_folder(f"sqlite:///{tmp_path}/link.db")
    assert folder == Path(os.path.realpath(tmp_path), "real", "journal.db-runners")
    assert settings.runner_folder("memory://") is None
