"""One bucket on S3. botocore settles endpoint, region and credentials; libcurl moves the bytes."""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit
from xml.etree.ElementTree import ParseError

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path

from steps.common.budgets import MOST_EMPTY_PAGES, MOST_PAGES, Budget
from steps.common.errors import StepError, TemporaryError
from steps.common.messages import printable
from steps.storage.checksums import Sums
from steps.storage.config import ONEPANEL_CONFIG_DIR, StorageConfig
from steps.storage.errors import ChangedError, NotAllowedError, NotThereError, one_line
from steps.storage.objects import RemoteObject, Sent, Span
from steps.storage.patience import Patience
from steps.storage.s3_answers import parse, text_of, texts_of, xml_of
from steps.storage.s3_upload import upload
from steps.storage.signing import signed
from steps.storage.wire import Answer, Get, NoAnswerError, Wire

CREDENTIAL_CODES = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "SlowDown",
    "ServiceUnavailable",
    "Throttling",
    "XAmzContentSHA256Mismatch",
}
"""Refusals that another attempt may not meet: the store is busy, or the request was damaged on its way."""
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
EMPTY_SHA256 = hashlib.sha256().hexdigest()


def open_s3(bucket: str, config: StorageConfig) -> "S3":
    """Open a bucket.

    Raises:
        StepError: there are no credentials, or there is no such bucket, or it refuses us.
    """
    # Amazon's own endpoint is left to botocore, which knows the one of each region.
    endpoint = "" if _is_amazon(config.endpoint) else config.endpoint
    session = botocore.session.Session()
    if config.region:
        session.set_config_variable("region", config.region)
    if config.access_key:
        session.set_credentials(config.access_key, config.secret_key)

    def address(region: str) -> tuple[str, str]:
        if named := named_server(endpoint, session):
            return named, region
        client = session.create_client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=region,
            config=Config(s3={"addressing_style": "path"}),
        )
        return client.meta.endpoint_url.rstrip("/"), client.meta.region_name

    try:
        # S3 itself needs no region to be named; signatures do.
        url, region = address(session.get_config_variable("region") or "us-east-1")
        credentials = session.get_credentials()
    except (BotoCoreError, ValueError) as error:
        raise StepError(f"the S3 configuration ({config.origin}) cannot be used: {one_line(error)}") from None
    if credentials is None:
        raise StepError(
            f"no S3 credentials for s3://{bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
            f"give the pod an identity, or mount them in {ONEPANEL_CONFIG_DIR}"
        )
    if re.search(r"[^a-zA-Z0-9._-]", bucket):
        raise StepError(f"'{printable(bucket)}' is no bucket's name: letters, digits, '.', '-' and '_' only")
    ca_bundle = str(session.get_config_variable("ca_bundle") or get_cert_path(True))
    store = S3(bucket, url, region, credentials, ca_bundle, config)
    try:
        # So that a refusal comes at once and with its reason.
        answer = store.request("GET", query={"list-type": "2", "max-keys": "1"})
    except NotAllowedError:
        return store  # Whoever may not list may still read or write: the operation itself will tell.
    except WrongRegionError as error:
        url, region = address(error.region)
        return S3(bucket, url, region, credentials, ca_bundle, config)
    xml_of(answer, store.where)
    return store


def named_server(endpoint: str, session: botocore.session.Session) -> str:
    """Give the address of a server that is not Amazon's, if arguments or environment name one.

    It is what botocore would use, which takes a tenth of a second to find out what Amazon's would have been.
    <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>
    """
    if not endpoint and not session.get_config_variable("ignore_configured_endpoint_urls"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    well_formed = re.fullmatch(r"https?://[^/?#@\s]+", endpoint.rstrip("/"))
    return "" if not well_formed or _is_amazon(endpoint) else endpoint.rstrip("/")


def _is_amazon(endpoint: str) -> bool:
    return re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(endpoint).hostname or "") is not None


class WrongRegionError(StepError):
    """The bucket is in another region, `region`, than was asked."""

    def __init__(self, message: str, region: str) -> None:
        super().__init__(message)
        self.region = region


class S3:
    """One bucket. Every request is tried again while its failure may pass; keys are complete."""

    gives_many = True
    """Whether it has `get_many`."""

    def __init__(
        self, bucket: str, endpoint: str, region: str, credentials: Any, ca_bundle: str, config: StorageConfig
    ) -> None:
        self.url = f"s3://{bucket}"
        self.where = f"{self.url} at {endpoint}"
        self.stop = threading.Event()
        """Once it is set, every request ends."""
        self._bucket = bucket
        self.endpoint = endpoint
        self._region = region
        self._credentials = credentials
        self._ca_bundle = ca_bundle
        self._config = config
        self._origin = config.origin
        self._patience = Patience(config.retry_seconds, self.stop)
        self._wire = Wire(ca_bundle=ca_bundle, stall_seconds=config.stall_seconds, stop=self.stop)

    def request(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        into: memoryview | None = None,
        accept: Callable[[Answer], bool] = lambda answer: True,
    ) -> Answer:
        """Send a request until it is answered.

        Args:
            method: such as `GET`.
            key: of the object; empty: the bucket itself.
            query: parameters.
            headers: by lower-case names.
            body: to be sent.
            into: where the answer's body goes; None: to memory of its own.
            accept: tells whether a positive answer is one; if not, the request failed for now.

        Raises:
            StepError: the store refuses.
            TemporaryError: the object is not there or was changed, or failures did not end in time.
        """
        path = self._path(key)
        sum_ = hashlib.sha256(body).hexdigest() if len(body) else EMPTY_SHA256
        headers = {"x-amz-content-sha256": sum_, **(headers or {})}
        attempts = self._patience.begin()
        while True:
            # Signed anew each time: signatures are valid for minutes, and credentials change.
            url, all_headers = self._signed(method, path, query or {}, headers)
            try:
                answer = self._wire.send(method, url, all_headers, body, into)
            except NoAnswerError as error:
                failure = self._no_answer(error)
            else:
                if answer.status in (200, 204, 206) and accept(answer):
                    return answer
                failure = self._refusal(answer, key)
            attempts.failed(failure)

    def _path(self, key: str) -> str:
        return f"/{self._bucket}/{quote(key, safe='/~')}" if key else f"/{self._bucket}"

    def _signed(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, dict[str, str]]:
        try:
            credentials = self._credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise TemporaryError(f"no S3 credentials for {self.url}: {one_line(error)}") from None
        return signed(method, self.endpoint + path, query, headers, credentials, self._region)

    def _no_answer(self, error: NoAnswerError) -> TemporaryError:
        if error.trust:
            raise StepError(
                f"{self.endpoint} has a certificate that is not trusted here ({error}): name the file of its "
                "authority's certificate in AWS_CA_BUNDLE"
            ) from None
        return TemporaryError(
            f"no S3 server answers at {self.endpoint} ({error}): check the endpoint ({self._origin}; "
            "AWS_ENDPOINT_URL_S3 is the environment's) and the network"
        )

    def _refusal(self, answer: Answer, key: str) -> TemporaryError:
        """Give what may pass, raise what will not."""
        try:
            document = parse(bytes(answer.body))
            code, region = (text_of(document, name) for name in ("Code", "Region"))
        except (ParseError, ValueError):
            code = region = ""  # HEAD has no body; other servers have others.
        shown = " ".join(filter(None, [str(answer.status), printable(code)]))
        region = region or answer.headers.get("x-amz-bucket-region", "")
        if answer.status in PASSING_STATUS or code in PASSING_CODES or answer.status == 200:
            return TemporaryError(f"{self.where} fails ({shown}): run the step again later")
        if code == "NoSuchBucket":
            raise StepError(
                f"there is no bucket '{self._bucket}' at {self.endpoint}: check the bucket's name and the endpoint "
                f"({self._origin})"
            )
        if code in CREDENTIAL_CODES:
            raise StepError(
                f"{self.endpoint} refuses the credentials for bucket '{self._bucket}' ({code}): check the access key "
                f"and the secret key ({self._origin})"
            )
        if region and region != self._region and re.fullmatch(r"[a-z0-9-]+", region):
            raise WrongRegionError(
                f"bucket '{self._bucket}' is in region '{region}', not '{self._region}': give --region", region
            )
        if answer.status in (401, 403):
            raise NotAllowedError(f"{self.where} does not let these credentials do that ({shown}): ask its owner")
        if answer.status == 404 and (key or code in ("NoSuchKey", "NoSuchUpload")):
            raise NotThereError(f"{self.url}/{key} is not there ({shown}): run the step again")
        if answer.status in (409, 412, 416):
            raise ChangedError(f"{self.url}/{key} changed in the meantime ({shown}): run the step again")
        raise StepError(f"{self.endpoint} does not serve bucket '{self._bucket}' ({shown}): check the endpoint")

    def pages(self, prefix: str, delimiter: str = "") -> Iterator[Any]:
        """Give the pages of a listing, as XML."""
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
        if delimiter:
            query["delimiter"] = delimiter
        seen = set()
        refusal = f"{self.where} never ends its list of '{printable(prefix)}': check the server"
        pages, empty = Budget(MOST_PAGES, refusal), Budget(MOST_EMPTY_PAGES, refusal)
        while True:
            pages.spend(1)
            page = xml_of(self.request("GET", query=query), self.where)
            yield page
            if page.find("{*}Contents") is None and page.find("{*}CommonPrefixes") is None:
                empty.spend(1)
            token = text_of(page, "NextContinuationToken")
            if text_of(page, "IsTruncated") != "true":
                return
            if not token or token in seen:
                raise StepError(refusal)
            seen.add(token)
            query["continuation-token"] = token

    def list(self, prefix: str) -> Sequence[RemoteObject]:
        """List the objects whose keys begin with `prefix`, without folder markers."""
        found = []
        for page in self.pages(prefix):
            decoded = _decoding(page)
            for entry in page.iterfind("{*}Contents"):
                told = texts_of(entry)
                key, size = decoded(told.get("Key", "")), int(told.get("Size") or 0)
                if not size and key.endswith("/"):
                    continue
                found.append(RemoteObject(key, size, told.get("ETag", "").strip('"')))
        return found

    def children(self, prefix: str) -> tuple[Sequence[str], Sequence[str]]:
        """Give the prefixes, which end in a slash, and the keys directly under `prefix`."""
        folders: list[str] = []
        keys: list[str] = []
        for page in self.pages(prefix, "/"):
            decoded = _decoding(page)
            folders += (decoded(text_of(entry, "Prefix")) for entry in page.iterfind("{*}CommonPrefixes"))
            keys += (decoded(text_of(entry, "Key")) for entry in page.iterfind("{*}Contents"))
        return folders, keys

    def head(self, key: str) -> RemoteObject:
        """Describe the object at a key."""
        headers = self.request("HEAD", key).headers
        return RemoteObject(key, int(headers.get("content-length", 0)), headers.get("etag", "").strip('"'))

    def get(
        self, remote: RemoteObject, start: int, end: int, into: memoryview | None = None
    ) -> tuple[memoryview, Sums]:
        """Give bytes of an object, and what the store says of it; all bytes when they are the whole object.

        Raises:
            NotThereError: it vanished.
            ChangedError: it is another one by now.
        """
        answer = self.request("GET", remote.key, headers=_get_headers(remote, start, end), into=into)
        if not _is_of(answer, remote, end - start):
            raise ChangedError(f"{self.url}/{remote.key} changed in the meantime: run the step again")
        return answer.body, Sums.of(answer.headers)

    def get_many(
        self, spans: Iterator[Span | None], at_once: int
    ) -> Iterator[Sequence[tuple[Span, tuple[memoryview, Sums] | None]]]:
        """Give what `get` gives of many spans, each asked for once: None where that failed, for whatever reason.

        Args:
            spans: asked for the next one when one can be sent; None where it has none for now.
            at_once: how many are under way at most.
        """

        def requests() -> Iterator[Get | None]:
            for span in spans:
                if span is None:
                    yield None
                    continue
                headers = {"x-amz-content-sha256": EMPTY_SHA256, **_get_headers(span.remote, span.start, span.end)}
                yield Get(span, *self._signed("GET", self._path(span.remote.key), {}, headers), span.into)

        try:
            for ended in self._wire.get_many(requests(), at_once):
                yield [(get.of, _arrived(answer, get.of)) for get, answer in ended]
        except NoAnswerError as error:
            raise self._no_answer(error) from None

    def sums(self, remote: RemoteObject) -> Sums:
        """Give what the store says of an object, with the sizes of its parts where it came in parts."""
        headers = {"x-amz-checksum-mode": "ENABLED"}
        found = Sums.of(self.request("HEAD", remote.key, headers=headers).headers)
        return found.with_parts(remote.size, lambda number: self._part_size(remote.key, number))

    def _part_size(self, key: str, number: int) -> int:
        return int(self.request("HEAD", key, query={"partNumber": str(number)}).headers.get("content-length", 0))

    def read(self, key: str) -> bytes | None:
        """Give a small object's bytes; None where there is none."""
        try:
            return bytes(self.request("GET", key).body)
        except NotThereError:
            return None

    def delete(self, key: str) -> None:
        """Remove an object, which need not be there."""
        self.request("DELETE", key)

    def upload(self, path: Path, key: str) -> Sent:
        """Put a file at a key."""
        return upload(self, path, key)

    def afterwards(self) -> "S3":
        """Give the same bucket for what is still to be done, briefly, once everything was told to stop."""
        config = replace(self._config, retry_seconds=5, stall_seconds=5)
        return S3(self._bucket, self.endpoint, self._region, self._credentials, self._ca_bundle, config)


def _decoding(page: Any) -> Callable[[str], str]:
    """Tell how the keys of a page are written."""
    return unquote_plus if text_of(page, "EncodingType") == "url" else str


def _get_headers(remote: RemoteObject, start: int, end: int) -> dict[str, str]:
    headers = {"if-match": f'"{remote.etag}"'} if remote.etag else {}
    if (start, end) == (0, remote.size):
        headers["x-amz-checksum-mode"] = "ENABLED"
    else:
        headers["range"] = f"bytes={start}-{end - 1}"
    return headers


def _arrived(answer: Answer | None, span: Span) -> tuple[memoryview, Sums] | None:
    if answer is None or answer.status not in (200, 206) or not _is_of(answer, span.remote, span.end - span.start):
        return None
    return answer.body, Sums.of(answer.headers)


def _is_of(answer: Answer, remote: RemoteObject, size: int) -> bool:
    """Tell whether an answer is of the very object, and of that size."""
    return answer.headers.get("etag", "").strip('"') == remote.etag and len(answer.body) == size
