"""Opening a bucket on S3: boto3 settles endpoint, region and credentials, and says why it is refused."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from steps.common.errors import StepError
from steps.storage.config import ONEPANEL_CONFIG_DIR, StorageConfig
from steps.storage.errors import one_line

CREDENTIAL_CODES = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
FORBIDDEN_CODES = {"AccessDenied", "AllAccessDisabled", "403"}


def open_s3(bucket: str, config: StorageConfig) -> tuple[S3Store, str]:
    """Open a bucket, give its store and its endpoint."""
    # Amazon's own endpoint is left to boto3, which knows the one of each region.
    endpoint = "" if _is_amazon(config.endpoint) else config.endpoint
    try:
        session = boto3.Session(
            aws_access_key_id=config.access_key or None,
            aws_secret_access_key=config.secret_key or None,
            region_name=config.region or None,
        )
        client = session.client(
            "s3",
            endpoint_url=endpoint or None,
            # S3 itself needs no region to be named; signatures do.
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 3},
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )
        credentials = session.get_credentials()
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"the S3 configuration ({config.origin}) cannot be used: {one_line(error)}") from None
    if credentials is None:
        raise StepError(
            f"no S3 credentials for s3://{bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
            f"give the pod an identity, or mount them in {ONEPANEL_CONFIG_DIR}"
        )
    endpoint = client.meta.endpoint_url
    region = _probe_s3(client, bucket, endpoint, config.origin) or client.meta.region_name
    # Without an endpoint obstore builds Amazon's from the region.
    address: Any = {} if _is_amazon(endpoint) else {"endpoint": endpoint}
    store = S3Store(
        bucket,
        **address,
        region=region,
        client_options={"allow_http": endpoint.startswith("http://"), "timeout": timedelta(minutes=5)},
        retry_config={"max_retries": 8, "retry_timeout": timedelta(minutes=2)},
        credential_provider=Boto3CredentialProvider(session),
    )
    return store, endpoint


def _is_amazon(endpoint: str) -> bool:
    return re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(endpoint).hostname or "") is not None


def _probe_s3(client: Any, bucket: str, endpoint: str, origin: str) -> str:
    """Ask for one key, so that a refusal comes at once and with its reason; give the bucket's region."""
    try:
        answer = client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except NoCredentialsError:
        raise StepError(
            f"no S3 credentials for s3://{bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except ClientError as error:
        answer = error.response
        code = answer.get("Error", {}).get("Code", "unknown")
        if code == "NoSuchBucket":
            raise StepError(
                f"there is no bucket '{bucket}' at {endpoint}: check the bucket's name and the endpoint ({origin})"
            ) from None
        if code in CREDENTIAL_CODES:
            raise StepError(
                f"{endpoint} refuses the credentials for bucket '{bucket}' ({code}): check the access key and the "
                f"secret key ({origin})"
            ) from None
        if code not in FORBIDDEN_CODES:
            raise StepError(f"{endpoint} does not serve bucket '{bucket}' ({code}): {one_line(error)}") from None
        # Whoever may not list may still read or write: the operation itself will tell.
    except (ConnectionError, HTTPClientError) as error:
        raise StepError(
            f"no S3 server answers at {endpoint} ({type(error).__name__}): check the endpoint ({origin}; "
            "AWS_ENDPOINT_URL_S3 is the environment's)"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"bucket '{bucket}' at {endpoint} cannot be used: {one_line(error)}") from None
    headers: dict[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region", "")
