"""What a stack cannot honour is refused; every field of an image is honoured or refused."""

import pytest

from kitaru.domain.execution.events import StackReference
from kitaru.domain.stack.decide import TYPES
from kitaru.errors import KitaruUsageError
from kitaru.image import FIELDS, NO_IMAGE, ImageSettings
from kitaru.stacks.images.fields import HONOURED, check_image

WHOLE = ImageSettings(
    base_image="python:3.12",
    requirements=["httpx"],
    dockerfile="Dockerfile",
    build_context_root="/src",
    environment={"A": "b"},
    secret_environment_from=["TOKEN"],
    apt_packages=["git"],
    replicate_local_python_environment=False,
    image_tag="v1",
    target_repository="here",
    user="me",
    platform="linux/amd64",
)


def test_every_type_of_stack_says_what_it_honours() -> None:
    assert set(HONOURED) == set(TYPES)
    assert set(WHOLE.given()) == set(FIELDS)
    assert all(fields <= set(FIELDS) for fields in HONOURED.values())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_honoured_or_named_with_its_stack(kind: str, field: str) -> None:
    image = ImageSettings(**{field: getattr(WHOLE, field)})
    stack = StackReference("mine", kind)
    if field in HONOURED[kind]:
        check_image(image, stack)
        return
    with pytest.raises(KitaruUsageError, match=rf"^image\.{field}: the stack 'mine'"):
        check_image(image, stack)


@pytest.mark.parametrize("kind", TYPES)
def test_no_image_fits_every_stack(kind: str) -> None:
    check_image(NO_IMAGE, StackReference("mine", kind))


def test_all_unfit_fields_are_named() -> None:
    with pytest.raises(KitaruUsageError) as caught:
        check_image(WHOLE, StackReference("mine", "process"))
    assert "image.base_image, image.dockerfile, image.build_context_root" in str(caught.value)
