"""Every check of the conformance kit on what the plugin offers; examples.py of the package says on what."""

import pytest

from kdcore.testing import ComponentTests

# They have no paper of their own.
pytestmark = pytest.mark.filterwarnings("ignore:.*names no paper")


class TestConformance(ComponentTests):
    distribution = "kd-plugin-torch"
