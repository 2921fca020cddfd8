"""Every check of the conformance kit on what the plugin offers."""

from kdcore.testing import ComponentTests


class TestConformance(ComponentTests):
    distribution = "kd-plugin-search"
