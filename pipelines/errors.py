"""User errors."""


class PipelineError(Exception):
    """A user error: one line that names the file or field and the remedy."""
