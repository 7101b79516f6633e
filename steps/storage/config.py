"""Which bucket, where it is and who we are there."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from steps.common.errors import StepError
from steps.common.files import parse_yaml
from steps.common.messages import printable
from steps.storage.errors import one_line

ONEPANEL_CONFIG_DIR = Path("/etc/onepanel")
"""Where Onepanel mounts `artifactRepository` and the files of the keys that it names."""
BUCKET_VARIABLE = "S3_BUCKET"
"""AWS has no standard variable for a bucket's name; this is ours."""
RETRY_VARIABLE, STALL_VARIABLE = "STORAGE_RETRY_SECONDS", "STORAGE_STALL_SECONDS"


@dataclass(frozen=True)
class StorageConfig:
    """Where objects live. An empty field means: leave it to boto3's own resolution."""

    bucket: str = ""
    """A bucket's name, or an address with a scheme, such as `gs://name`."""
    endpoint: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    origin: str = "the arguments and the AWS environment"
    """Where the values come from, for messages."""
    retry_seconds: float = 120
    """For how long what may pass (a network that is down, a busy store) is tried again, from the first failure on."""
    stall_seconds: float = 30
    """After how long without a byte a request is given up and tried again."""

    @classmethod
    def resolve(
        cls,
        *,
        bucket: str = "",
        endpoint: str = "",
        region: str = "",
        config_dir: Path = ONEPANEL_CONFIG_DIR,
        environ: Mapping[str, str] = os.environ,
    ) -> "StorageConfig":
        """Settle the configuration: arguments first, then Onepanel's mounted one, then the environment.

        Raises:
            StepError: the mounted configuration cannot be read or lacks what it must have.
        """
        mounted = _read_onepanel(config_dir)
        return cls(
            bucket=bucket or mounted.bucket or environ.get(BUCKET_VARIABLE, ""),
            endpoint=_with_scheme(endpoint) or mounted.endpoint,
            region=region or mounted.region,
            access_key=mounted.access_key,
            secret_key=mounted.secret_key,
            origin=mounted.origin,
            retry_seconds=_seconds(environ, RETRY_VARIABLE, cls.retry_seconds),
            stall_seconds=_seconds(environ, STALL_VARIABLE, cls.stall_seconds),
        )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    if text and not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text, re.ASCII):
        raise StepError(f"{name} is '{printable(text)}': give a number of seconds, such as {default:g}")
    return float(text or default)


def _read_onepanel(config_dir: Path) -> StorageConfig:
    path = config_dir / "artifactRepository"
    if not path.is_file():
        return StorageConfig()
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{path} is not readable YAML: {one_line(error)}") from None
    section = document.get("s3") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        raise StepError(f"{path} has no section 's3': give the storage's endpoint and bucket there")
    if not section.get("bucket"):
        raise StepError(f"{path} has no 's3.bucket': give the bucket's name there")

    def secret(name: str) -> str:
        reference = section.get(name)
        if not reference:
            return ""  # The pod's own identity, then.
        if not isinstance(reference, dict) or not reference.get("key"):
            raise StepError(f"{path}: 's3.{name}.key' must name a file beside it")
        file = config_dir / str(reference["key"])
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise StepError(
                f"{path}: 's3.{name}.key' names {file}, which cannot be read: mount the secret that holds it there"
            ) from None

    access_key, secret_key = secret("accessKeySecret"), secret("secretKeySecret")
    if bool(access_key) != bool(secret_key):
        raise StepError(
            f"{path} gives only one of 's3.accessKeySecret' and 's3.secretKeySecret': give both, or neither for the "
            "pod's own identity"
        )
    return StorageConfig(
        bucket=str(section["bucket"]),
        endpoint=_with_scheme(str(section.get("endpoint") or ""), insecure=bool(section.get("insecure"))),
        region=str(section.get("region") or ""),
        access_key=access_key,
        secret_key=secret_key,
        origin=str(path),
    )


def _with_scheme(endpoint: str, *, insecure: bool = False) -> str:
    if "@" in endpoint.partition("://")[2].partition("/")[0] or ("://" not in endpoint and "@" in endpoint):
        raise StepError(
            "the endpoint holds a name or password before an '@', which logs would show: give the address alone, and "
            "the credentials as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not endpoint or "://" in endpoint:
        return endpoint
    return f"{'http' if insecure else 'https'}://{endpoint}"
