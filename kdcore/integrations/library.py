"""The error for a library that an integration needs and that is not there."""

from __future__ import annotations

from kdcore.errors import KdcoreError


class MissingLibraryError(KdcoreError, ImportError):
    """An integration was imported without the library that it integrates with."""


def missing(integration: str, library: str, extra: str) -> MissingLibraryError:
    """Return the error that says what to install."""
    return MissingLibraryError(
        f"kdcore.integrations.{integration} needs {library}, which is not installed",
        repair=f"pip install kdcore[{extra}]",
    )
