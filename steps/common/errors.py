"""User errors."""


class StepError(Exception):
    """Bad input, said in one line that names the file or address, the field and the remedy.

    `python -m steps` prints it without a traceback and exits with `EXIT_USER_ERROR`; anything else that
    escapes a step is a defect and keeps its traceback.
    """


EXIT_USER_ERROR = 2
"""Exit status of a step that refused its input: trying again cannot help, so the manifests do not retry on it."""
