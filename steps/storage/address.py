"""Addresses in object storage: `s3://bucket/key`, or a key in the configured bucket."""

import re

from steps.common.errors import StepError


def has_scheme(path: str) -> bool:
    """Tell whether `path` is an address such as `s3://bucket/prefix`."""
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def clean_key(key: str, path: str) -> str:
    """Give a key as obstore takes it; empty segments, which people write by accident, fall away."""
    segments = [segment for segment in key.split("/") if segment]
    if {".", ".."} & set(segments) or re.search(r"[\x00-\x1f\x7f]", key):
        raise StepError(f"{path!r} has a segment '.' or '..' or a control character: give the key without it")
    return "/".join(segments)
