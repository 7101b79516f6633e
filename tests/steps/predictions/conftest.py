"""A trained model, as other rooms have it."""

from tests.steps.cvat.conftest import run  # noqa: F401 - a fixture
