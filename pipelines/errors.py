"""Failures that are the user's to mend."""


class PipelineError(Exception):
    """A mistake said in one line, naming the field or file and the remedy."""
