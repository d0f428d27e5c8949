"""What an image may say, how layers of it are merged, and that no secret's value gets out."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.errors import KitaruUsageError
from kitaru.image import (
    FIELDS,
    MASK,
    NO_IMAGE,
    ImageSettings,
    image_from_text,
    image_settings,
    is_secret,
)

TEXTS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
VARIABLES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
IMAGES = st.builds(
    ImageSettings,
    base_image=st.none() | TEXTS,
    requirements=st.none() | st.lists(TEXTS, max_size=3),
    dockerfile=st.none() | TEXTS,
    environment=st.none() | st.dictionaries(VARIABLES, TEXTS, max_size=4),
    apt_packages=st.none() | st.lists(TEXTS, max_size=3),
    secret_environment_from=st.none() | st.lists(VARIABLES, max_size=2),
    replicate_local_python_environment=st.none() | st.booleans(),
    platform=st.none() | TEXTS,
)


def test_a_text_is_a_base_image_and_a_mapping_has_fields() -> None:
    assert image_settings("python:3.12", "here") == ImageSettings(base_image="python:3.12")
    assert image_settings({"parent_image": "x"}, "here") == ImageSettings(base_image="x")
    given = ImageSettings(requirements=["httpx"])
    assert image_settings(given, "here") is given
    assert image_settings({"requirements": ["httpx"]}, "here") == given
    assert image_settings({}, "here") == NO_IMAGE


def test_a_text_from_outside_is_json_or_a_base_image() -> None:
    assert image_from_text("python:3.12", "here") == ImageSettings(base_image="python:3.12")
    assert image_from_text(' {"user": "me"}', "here") == ImageSettings(user="me")
    for bad in ("[1]", "{", '{"user": 1}', "{" * 100_000, '{"x": NaN'):
        with pytest.raises(KitaruUsageError, match=r"^here: "):
            image_from_text(bad, "here")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (3, "not int"),
        (None, "not NoneType"),
        ({"base": "x"}, "no field 'base'; it knows apt_packages"),
        ({1: "x"}, "no field 1"),
        ({"base_image": "x", "parent_image": "y"}, "base_image is given twice"),
        ("", "image.base_image: '' is not accepted"),
        ({"base_image": " "}, "image.base_image"),
        ({"dockerfile": 3}, "image.dockerfile: 3 is not accepted; a text is"),
        ({"user": "a\nb"}, "image.user"),
        ({"requirements": "httpx"}, "image.requirements: 'httpx' is not accepted; a list"),
        ({"requirements": ["httpx", ""]}, "image.requirements"),
        ({"requirements": [None]}, "image.requirements"),
        ({"requirements": [["httpx"]]}, "image.requirements"),
        ({"requirements": ["--index-url=x"]}, "no option of an installer"),
        ({"requirements": ["a\n--index-url=x"]}, "one line"),
        ({"requirements": ["./a.whl"]}, "an absolute path"),
        ({"requirements": ["a @ https://me:sesame@host/a.whl"]}, "URL holds a password"),
        ({"apt_packages": {"git": 1}}, "image.apt_packages"),
        ({"environment": ["A"]}, "image.environment: a mapping"),
        ({"requirements": [" -e /project"]}, "no option of an installer"),
        ({"requirements": ["httpx \\"]}, "no option of an installer"),
        ({"requirements": ["# httpx"]}, "no option of an installer"),
        ({"requirements": ["a\r--index-url=x"]}, "one line"),
        ({"requirements": ["a\u2028--index-url=x"]}, "one line"),
        ({"requirements": ["wheels/a.whl"]}, "an absolute path"),
        ({"requirements": ["~/a.whl"]}, "an absolute path"),
        ({"requirements": ["a @ ./a.whl"]}, "an absolute path"),
        ({"requirements": ["a @ git+https://sesame@host/a"]}, "URL holds a password"),
        ({"requirements": {"https://me:sesame@host/a.whl"}}, "not a set"),
        ({"base_image": "docker://me:sesame@host/image"}, "image.base_image: its URL holds a"),
        ({"user": "a\rRUN b"}, "image.user"),
        ({"user": "\ud800"}, "image.user"),
        ({"environment": {"A": "sesame\ud800"}}, "A contains what no text can hold"),
        ({"environment": {"TOKEN=sesame": "x"}}, "image.environment: 'TOKEN=...'"),
        ({"secret_environment_from": ["TOKEN=sesame"]}, "from: 'TOKEN=...'"),
        ({"secret_environment_from": {"TOKEN": "sesame"}}, "from: a list of texts is needed"),
        ({"environment": {"": "x"}}, "image.environment: ''"),
        ({"environment": {"A": 3}}, "image.environment: A is of type int"),
        ({"environment": {"A": "sesame\0"}}, "A contains a NUL"),
        ({"secret_environment_from": ["1A"]}, "image.secret_environment_from: '1A'"),
        ({"replicate_local_python_environment": "yes"}, "True or False"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(value: Any, named: str) -> None:
    with pytest.raises(KitaruUsageError) as caught:
        image_settings(value, "here")
    assert str(caught.value).startswith("here: ")
    assert named in str(caught.value)
    assert "sesame" not in str(caught.value)


@given(IMAGES, IMAGES)
def test_each_field_comes_from_the_higher_image_that_sets_it(
    higher: ImageSettings, lower: ImageSettings
) -> None:
    merged = higher.over(lower)
    for name in FIELDS:
        if name == "environment" and higher.environment is not None:
            expected: Any = {**(lower.environment or {}), **higher.environment}
        else:
            said = getattr(higher, name)
            expected = getattr(lower, name) if said is None else said
        assert getattr(merged, name) == expected


@given(IMAGES, IMAGES, IMAGES)
def test_it_does_not_matter_which_layers_are_merged_first(
    one: ImageSettings, two: ImageSettings, three: ImageSettings
) -> None:
    assert one.over(two).over(three) == one.over(two.over(three))
    assert one.over(NO_IMAGE) == one == NO_IMAGE.over(one)


def test_a_list_replaces_and_an_empty_one_clears() -> None:
    lower = ImageSettings(requirements=["a", "b"])
    assert ImageSettings(requirements=["c"]).over(lower).requirements == ("c",)
    assert ImageSettings(requirements=[]).over(lower).requirements == ()


@given(IMAGES)
def test_an_image_survives_being_written_down(image: ImageSettings) -> None:
    assert msgspec.json.decode(msgspec.json.encode(image), type=ImageSettings) == image


def test_what_is_read_is_checked_and_what_is_newer_is_let_be() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"base_image":""}', type=ImageSettings)
    newer = msgspec.json.decode(b'{"base_image":"x","later":1}', type=ImageSettings)
    assert newer == ImageSettings(base_image="x")


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("OPENAI_API_KEY", "x", True),
        ("github_token", "x", True),
        ("MY_SECRET", "x", True),
        ("DB_PASSWORD", "x", True),
        ("AUTH", "x", True),
        ("DATABASE_URL", "postgres://me:pass@host/db", True),
        ("DATABASE_URL", "postgres://host/db", False),
        ("DATABASE_URL", "postgres://:pass@host/db", True),
        ("INDEX", "https://ghp_0123@host/simple", True),
        ("DB_PASS", "x", True),
        ("SMTP_PASS_2", "x", True),
        ("MYSQL_PWD", "x", True),
        ("PWD", "/home/me", False),
        ("COMPASS", "north", False),
        ("SOURCE", "git+https://git@host/a", False),
        ("HOME", "/home/me", False),
        ("LOG_LEVEL", "debug", False),
    ],
)
def test_what_looks_secret(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value) is secret


@pytest.mark.parametrize(
    "requirement",
    [
        "httpx[http2]>=0.28; python_version < '4'",
        "a @ file:///wheels/a.whl",
        "a[b] @ /wheels/a.whl",
        "/wheels/a.whl[b]",
        "file:///wheels/a.whl",
        "https://host/a.whl",
        "git+https://host/a@main",
        "a @ git+ssh://git@host/a",
    ],
)
def test_what_pip_writes_for_one_package_is_taken(requirement: str) -> None:
    assert ImageSettings(requirements=[requirement]).requirements == (requirement,)


@pytest.mark.parametrize("part", ["x", "http://", "://:", "a:", "https://a"])
def test_a_long_value_is_looked_at_once(part: str) -> None:
    # Two million characters: a search that begins anew at each of them would take hours.
    assert not is_secret("CONFIGURATION", part * (2_000_000 // len(part)))


@given(st.dictionaries(VARIABLES, TEXTS, max_size=5))
def test_no_value_of_a_secret_is_shown_or_stored(others: dict[str, str]) -> None:
    image = ImageSettings(
        environment={**others, "MY_TOKEN": "sesame-1", "URL": "x://me:sesame-2@host"},
        secret_environment_from=["OTHER_KEY"],
    )
    stored = image.storable()
    for text in (repr(image), str(image), str(image.masked()), repr(stored)):
        assert "sesame" not in text
    assert b"sesame" not in msgspec.json.encode(stored)
    assert MASK in repr(image)
    assert {"OTHER_KEY", "MY_TOKEN", "URL"} <= set(stored.secret_environment_from or ())
    held_back = image.secrets()
    assert held_back["MY_TOKEN"] == "sesame-1"
    assert {**(stored.environment or {}), **held_back} == image.environment
    assert stored.storable() == stored


def test_later_changes_of_what_was_given_change_nothing() -> None:
    environment, requirements = {"A": "1"}, ["httpx"]
    image = ImageSettings(environment=environment, requirements=requirements)
    environment["A"] = "2"
    requirements.append("attrs")
    assert image == ImageSettings(environment={"A": "1"}, requirements=["httpx"])
