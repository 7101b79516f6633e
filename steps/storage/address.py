"""Addresses in object storage: `s3://bucket/key`, or a key in the configured bucket."""

import re

from steps.common.errors import StepError


def has_scheme(path: str) -> bool:
    """Tell whether `path` is an address such as `s3://bucket/prefix`."""
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def clean_key(key: str, path: str) -> str:
    """Give a key as obstore takes it, without the empty segments that people write by accident.

    Raises:
        StepError: `path`, which holds the key, has a segment that no key can have.
    """
    segments = [segment for segment in key.split("/") if segment]
    if {".", ".."} & set(segments) or re.search(r"[\x00-\x1f\x7f]", key):
        raise StepError(f"{path!r} has a segment '.' or '..' or a control character: give the key without it")
    return "/".join(segments)


def candidate_keys(path: str, key: str, namespace: str) -> list[str]:
    """Give the keys at which `path` may lie: as given, then under the namespace.

    Onepanel keeps a workflow's objects under its namespace, and its CVAT has passed keys with and without it.

    Args:
        path: as given; an address with a scheme is complete.
        key: of that path in its bucket.
        namespace: of the workflow; empty: none.
    """
    namespace = namespace.strip("/ ")
    if not namespace or has_scheme(path) or f"{key}/".startswith(f"{namespace}/"):
        return [key]
    return [key, f"{namespace}/{key}"]
