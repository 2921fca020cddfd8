"""Every check of the conformance kit on what the plugin offers; examples.py of the package says on what."""

from kdcore.testing import ComponentTests


class TestConformance(ComponentTests):
    distribution = "kd-plugin-compact"
