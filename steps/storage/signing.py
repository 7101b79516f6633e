"""AWS Signature Version 4 of requests to S3, of which botocore's takes longer than the request itself.

<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>
"""

import functools
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

UNRESERVED = "-_.~"


def signed(
    method: str,
    url: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    credentials: Any,
    region: str,
    now: float | None = None,
) -> tuple[str, dict[str, str]]:
    """Sign a request.

    Args:
        method: such as `GET`.
        url: with its path quoted, without a query.
        query: parameters, not quoted.
        headers: to be sent and signed, by lower-case names; `x-amz-content-sha256` among them.
        credentials: frozen ones of botocore's.
        region: of the bucket.
        now: seconds since the epoch; None: the present.

    Returns:
        The complete address, and all headers.
    """
    moment = _moment(int(time.time() if now is None else now))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    host, _, path = url.partition("://")[2].partition("/")
    headers = {**headers, "host": host, "x-amz-date": moment}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    in_order = sorted(headers.items())
    names = ";".join([name for name, _ in in_order])
    parameters = "&".join(
        f"{quote(name, safe=UNRESERVED)}={quote(value, safe=UNRESERVED)}" for name, value in sorted(query.items())
    )
    lines = "".join([f"{name}:{value.strip()}\n" for name, value in in_order])
    request = "\n".join([method, f"/{path}", parameters, lines, names, headers["x-amz-content-sha256"]])
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(_key(credentials.secret_key, scope), to_sign.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return (f"{url}?{parameters}" if parameters else url), headers


@functools.lru_cache(maxsize=4)
def _moment(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


@functools.lru_cache(maxsize=4)
def _key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
