"""What a runner's environment is to have: packages, variables, a container's base."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from kitaru.errors import KitaruUsageError

MASK: Final = "***"
ALIASES: Final = {"parent_image": "base_image"}

_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|(?:^|_)PASS(?:_|$)|_PWD(?:_|$)",
    re.IGNORECASE,
)
# Both begin with what is rare, so that a long value costs no more than its length.
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@|https?://(?!git@)[^/\s:@]+@", re.IGNORECASE)
_NO_LINE = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
"""What ends a line somewhere, what no file's encoding has, and other control characters."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_TEXTS = (
    "base_image",
    "dockerfile",
    "build_context_root",
    "image_tag",
    "target_repository",
    "user",
    "platform",
)
_LISTS = ("requirements", "secret_environment_from", "apt_packages")
_STORED = "its URL holds a password, and it is stored; take it out."
_HOLDS_PASSWORD = {
    "requirements": "a requirement's URL holds a password, and requirements are stored; give it to "
    "the installer through a .netrc file or UV_INDEX_..._PASSWORD."
}


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageSettings:
    """What a stack that is not this very process is to give a flow's code.

    A field that is None was not set: a lower layer decides. Raises KitaruUsageError for a bad
    value. Which stack honours which field: docs/reference/images.md; what it cannot honour is an
    error before the run.
    """

    base_image: str | None = None
    """The container image that a built one starts from."""
    requirements: Sequence[str] | None = None
    """Python packages, each as pip writes one: ``httpx>=0.28``, ``name @ file:///a.whl``, or the
    absolute path of a wheel or a project."""
    dockerfile: str | None = None
    """The path of a Containerfile to be used as it is."""
    build_context_root: str | None = None
    """The folder that `dockerfile` is built in."""
    environment: Mapping[str, str] | None = None
    """Variables of the runner. The value of one that looks secret is never stored or printed."""
    secret_environment_from: Sequence[str] | None = None
    """Variables that whoever starts a runner must have, and passes on; their values are never
    stored."""
    apt_packages: Sequence[str] | None = None
    """Packages of the container's system."""
    replicate_local_python_environment: bool | None = None
    """Whether the runner is given the packages, in the versions, that this process has."""
    image_tag: str | None = None
    """The tag of a built container image."""
    target_repository: str | None = None
    """The repository that a built image's name begins with."""
    user: str | None = None
    """The user that a container runs as."""
    platform: str | None = None
    """The platform that a container is built for, such as ``linux/amd64``."""

    def __post_init__(self) -> None:
        for name in _TEXTS:
            _check_text(name, getattr(self, name))
        for name in _LISTS:
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        object.__setattr__(self, "environment", _environment(self.environment))
        for requirement in self.requirements or ():
            _check_requirement(requirement)
        for name in self.secret_environment_from or ():
            _check_variable("secret_environment_from", name)
        replicate = self.replicate_local_python_environment
        if replicate is not None and not isinstance(replicate, bool):
            raise _refused("replicate_local_python_environment", replicate, "True or False")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.masked().items())
        return f"ImageSettings({shown})"

    def __hash__(self) -> int:
        return hash(tuple(str(value) for value in self.given().values()))

    def given(self) -> dict[str, Any]:
        """The fields that are set, with their values as they are."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def masked(self) -> dict[str, Any]:
        """The fields that are set, fit to be shown: no secret's value is in it."""
        shown = self.given()
        for name in _LISTS:
            if name in shown:
                shown[name] = list(shown[name])
        if self.environment is not None:
            shown["environment"] = {
                name: MASK if is_secret(name, value) else value
                for name, value in self.environment.items()
            }
        return shown

    def over(self, lower: "ImageSettings") -> "ImageSettings":
        """These settings where they are set, else the lower ones.

        A list replaces the lower one, an empty one clears it; variables are taken one by one.
        """
        merged = {**lower.given(), **self.given()}
        if self.environment is not None and lower.environment is not None:
            merged["environment"] = {**lower.environment, **self.environment}
        return ImageSettings(**merged)

    def storable(self) -> "ImageSettings":
        """What may be written down: a variable that looks secret is kept by its name alone."""
        kept = {
            name: value
            for name, value in (self.environment or {}).items()
            if not is_secret(name, value)
        }
        held_back = [name for name in self.environment or {} if name not in kept]
        if not held_back:
            return self
        known = [name for name in self.secret_environment_from or () if name not in held_back]
        return replace(self, environment=kept, secret_environment_from=(*known, *held_back))

    def secrets(self) -> dict[str, str]:
        """The variables with their values that `storable` holds back."""
        given = self.environment or {}
        return {name: value for name, value in given.items() if is_secret(name, value)}


ImageSetting = str | Mapping[str, Any] | ImageSettings
"""A base image's name, the fields by name, or the settings themselves."""

FIELDS: Final = tuple(field.name for field in fields(ImageSettings))


def image_settings(value: object, where: str) -> ImageSettings:
    """The settings that a text, a mapping or settings stand for.

    `where` names the place for people. Raises KitaruUsageError for anything else, and for a field
    that does not exist or has a bad value.
    """
    match value:
        case ImageSettings():
            return value
        case str():
            given: dict[str, Any] = {"base_image": value}
        case Mapping():
            given = _fields(value, where)
        case _:
            raise KitaruUsageError(
                f"{where}: an image is a text (its base image), a mapping or ImageSettings, not "
                f"{type(value).__name__}."
            )
    try:
        return ImageSettings(**given)
    except KitaruUsageError as error:
        raise KitaruUsageError(f"{where}: {error}") from None


def image_from_text(text: str, where: str) -> ImageSettings:
    """What a variable or an option says: a JSON object of fields, or the base image's name."""
    if not text.lstrip().startswith(("{", "[")):
        return image_settings(text, where)
    import json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Not the text itself: it may hold a secret.
        raise KitaruUsageError(f"{where}: not valid JSON: {error}.") from None
    return image_settings(value, where)


def is_secret(name: str, value: str = "") -> bool:
    """Whether a variable looks as if nobody should see its value."""
    return bool(_SECRET_NAME.search(name) or _PASSWORD_IN_URL.search(value))


def _fields(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, item in value.items():
        name = ALIASES.get(key, key)
        if name not in FIELDS:
            known = ", ".join(sorted(FIELDS))
            raise KitaruUsageError(f"{where}: an image has no field {key!r}; it knows {known}.")
        if name in given:
            raise KitaruUsageError(f"{where}: {name} is given twice, once as another name for it.")
        given[name] = item
    return given


def _check_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise _refused(name, value, "a text")
    if _PASSWORD_IN_URL.search(value):
        raise KitaruUsageError(f"image.{name}: {_HOLDS_PASSWORD.get(name, _STORED)}")
    if not value.strip() or _NO_LINE.search(value):
        raise _refused(name, value, "a text of one line that is not empty")


def _texts(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise _refused(name, value, "a list of texts")
    if isinstance(value, bytes | Mapping) or not isinstance(value, Sequence):
        # Not what it is: whoever mistakes the names of secrets for a mapping gives their values.
        raise KitaruUsageError(
            f"image.{name}: a list of texts is needed, and not a {type(value).__name__}."
        )
    for item in value:
        _check_text(name, "" if item is None else item)
    return tuple(value)


def _environment(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise KitaruUsageError("image.environment: a mapping of names to texts is needed.")
    for name, item in value.items():
        _check_variable("environment", name)
        # The value is not shown: it may be a secret.
        if not isinstance(item, str):
            raise KitaruUsageError(
                f"image.environment: {name} is of type {type(item).__name__}; a text is needed."
            )
        if "\0" in item:
            raise KitaruUsageError(f"image.environment: {name} contains a NUL character.")
        if _SURROGATE.search(item):
            raise KitaruUsageError(
                f"image.environment: {name} contains what no text can hold (a surrogate)."
            )
    return dict(value)


def _check_variable(field: str, name: object) -> None:
    if isinstance(name, str) and _VARIABLE.fullmatch(name):
        return
    # Whoever writes NAME=VALUE has written a value, too.
    before, separator, _ = name.partition("=") if isinstance(name, str) else (name, "", "")
    shown = f"{before}=..." if separator else before
    raise _refused(field, shown, "the name of a variable (letters, digits and _, no digit first)")


def _check_requirement(requirement: str) -> None:
    given = requirement.strip()
    package = given.partition(";")[0]
    if given.startswith(("-", "#")) or given.endswith("\\"):
        raise _refused("requirements", requirement, "one package, and no option of an installer,")
    _, _, location = package.partition("@")
    is_path = "/" in package and "@" not in package and "://" not in package
    is_relative = is_path and not given.startswith(("/", "file:")) and not _DRIVE.match(given)
    if is_relative or given.startswith((".", "~")) or location.strip().startswith((".", "~")):
        raise _refused("requirements", requirement, "an absolute path")


def _refused(name: str, value: object, accepted: str) -> KitaruUsageError:
    return KitaruUsageError(f"image.{name}: {value!r} is not accepted; {accepted} is.")


NO_IMAGE: Final = ImageSettings()
"""Nothing is asked for."""
