"""Register the workflow as a template in Onepanel.

What core (d69f6a4) checks late or answers unclearly is checked here first: server/workflow_template_server.go,
server/auth/auth.go, pkg/workflow_template.go, pkg/util/uid/uid.go.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from pipelines.errors import PipelineError
from pipelines.manifest.pod_rules import LABEL_LENGTH, is_dns_label
from pipelines.workflow.contract import LABELS
from steps.common.files import parse_yaml

SECONDS_TO_ANSWER = 60
PAGE_SIZE = 100
UID_LENGTH = 30
NAMESPACE_LENGTH = LABEL_LENGTH - len("s00000000-0000-0000-0000-000000000000--")
"""Core names each side-car's service `s<UUID>--<namespace>`, and executes nothing where that is no label."""
SETTINGS = ("ONEPANEL_API_URL", "ONEPANEL_TOKEN", "ONEPANEL_NAMESPACE")
API_URL_HINT = "check ONEPANEL_API_URL, which ends in /api on most installations"


@dataclass(frozen=True)
class Published:
    """A template as Onepanel has it now."""

    uid: str
    version: int
    changed: bool
    """Whether there was anything to publish."""


def publish(name: str, manifest: str, environ: Mapping[str, str]) -> Published:
    """Create the template, or give an existing one of that name a new version where something changed.

    Args:
        name: the template's name.
        manifest: the bare spec as YAML.
        environ: `ONEPANEL_API_URL` (such as `https://app.example.com/api`), `ONEPANEL_NAMESPACE`, and
            `ONEPANEL_TOKEN`: an access token, or what `opctl auth token` prints, with `ONEPANEL_USERNAME`.

    Raises:
        PipelineError: a variable is missing, the name is one that core cannot keep, or Onepanel does not answer or
            refuses.
    """
    settings = {each: environ.get(each, "").strip() for each in (*SETTINGS, "ONEPANEL_USERNAME")}
    missing = [each for each in SETTINGS if not settings[each]]
    if missing:
        raise PipelineError(
            f"{', '.join(missing)} not set: Onepanel's address, a token, and the namespace to publish in"
        )
    uid = template_uid(name)
    namespace = settings["ONEPANEL_NAMESPACE"]
    if len(namespace) > NAMESPACE_LENGTH:
        raise PipelineError(
            f"ONEPANEL_NAMESPACE '{namespace}' has {len(namespace)} characters: Onepanel executes workflows only in "
            f"namespaces of at most {NAMESPACE_LENGTH}"
        )
    onepanel = _Onepanel(settings["ONEPANEL_API_URL"], namespace)
    onepanel.log_in(settings["ONEPANEL_TOKEN"], settings["ONEPANEL_USERNAME"])
    labels = dict(LABELS)
    known = onepanel.find(uid)
    if known:
        if known.get("name") != name:
            raise PipelineError(
                f"'{name}' and the template '{known.get('name')}' would both have the uid '{uid}': publish with "
                f"--name '{known.get('name')}' to give it a new version, or choose another name"
            )
        latest = onepanel.ask("GET", f"/{uid}")
        given = {each.get("key"): each.get("value") for each in latest.get("labels") or []}
        if LABELS.items() <= given.items() and _same(str(latest.get("manifest", "")), manifest):
            return Published(uid, int(latest.get("version") or 0), changed=False)
        labels = {**given, **labels}
    body = {
        "name": name,
        "manifest": manifest,
        "labels": [{"key": key, "value": value} for key, value in labels.items()],
    }
    if known:
        answer = onepanel.ask("POST", f"/{uid}/versions", json={**body, "uid": uid})
    else:
        answer = onepanel.ask("POST", "", json=body)
    version = str(answer.get("version", ""))
    if answer.get("uid") != uid or not version.isdigit() or not int(version):
        raise PipelineError(f"{onepanel.url} answers, but with no template: {API_URL_HINT}")
    return Published(uid, int(version), changed=True)


def template_uid(name: str) -> str:
    """Return the uid that core derives from a template's name.

    Raises:
        PipelineError: core could not keep a template of that name, or not execute it.
    """
    uid = re.sub(r"[^a-zA-Z0-9-]+", "-", name).lower()
    if len(uid) > UID_LENGTH or not is_dns_label(uid):
        raise PipelineError(
            f"the name '{name}' would give the template the uid '{uid}', which must have 1 to {UID_LENGTH} letters, "
            "digits and '-', and begin and end with a letter or digit: give another --name"
        )
    return uid


def _same(one: str, other: str) -> bool:
    try:
        return bool(parse_yaml(one) == parse_yaml(other))
    except ValueError:
        return False


class _Onepanel:
    """The calls of Onepanel's REST interface that publishing needs."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url.rstrip("/")
        self._namespace = namespace
        self._templates = f"{self.url}/apis/v1beta1/{namespace}/workflow_templates"
        self._session = requests.Session()
        # Otherwise a ~/.netrc entry for the host would replace the token.
        self._session.auth = lambda request: request

    def log_in(self, token: str, username: str) -> None:
        """Use an access token, or what Onepanel gives one for: its MD5, which `opctl auth token` prints."""
        token = token.removeprefix("Bearer").strip()
        if not token.isascii() or re.search(r"\s", token):
            raise PipelineError("ONEPANEL_TOKEN has spaces or other characters that no token has: set the token alone")
        if re.fullmatch(r"[0-9a-fA-F]{32}", token):
            if not username:
                raise PipelineError(
                    "ONEPANEL_TOKEN is what `opctl auth token` prints, which counts only with a user's name: "
                    "set ONEPANEL_USERNAME too"
                )
            login = {"username": username, "token": token}
            answer = self._call("POST", f"{self.url}/apis/v1beta1/auth/get_access_token", json=login)
            token = str(answer.get("accessToken", ""))
            if not token:
                raise PipelineError(f"{self.url} answers, but with no access token: {API_URL_HINT}")
        self._session.headers["Authorization"] = f"Bearer {token}"

    def find(self, uid: str) -> dict[str, Any]:
        """Return what the list of templates says of one, nothing when there is none."""
        page = 1
        while True:
            listed = self.ask("GET", "", params={"page": page, "pageSize": PAGE_SIZE})
            for template in listed.get("workflowTemplates") or []:
                if template.get("uid") == uid and not template.get("isArchived"):
                    return dict(template)
            if page >= int(listed.get("pages") or 1):
                return {}
            page += 1

    def ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Make a call below the namespace's templates; return the answer's content."""
        return self._call(method, f"{self._templates}{path}", **content)

    def _call(self, method: str, address: str, **content: Any) -> dict[str, Any]:
        try:
            answer = self._session.request(method, address, timeout=SECONDS_TO_ANSWER, **content)
        except requests.exceptions.SSLError:
            raise PipelineError(
                f"{self.url} has no certificate that this machine trusts: check ONEPANEL_API_URL"
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise PipelineError(f"ONEPANEL_API_URL is '{self.url}': write it as https://host/api") from None
        except requests.RequestException as error:
            raise PipelineError(
                f"Onepanel does not answer at {self.url} ({type(error).__name__}): check ONEPANEL_API_URL"
            ) from None
        try:
            document = answer.json()
        except requests.exceptions.JSONDecodeError:
            document = None
        if answer.ok and isinstance(document, dict):
            return document
        if answer.ok:
            raise PipelineError(f"{address} answers, but not as Onepanel's API does: {API_URL_HINT}")
        reason = document.get("message", answer.reason) if isinstance(document, dict) else answer.reason
        raise PipelineError(self._refusal(answer.status_code, address, str(reason)))

    def _refusal(self, status: int, address: str, reason: str) -> str:
        if 'configmaps "onepanel" not found' in reason:
            return f"ONEPANEL_NAMESPACE '{self._namespace}' is no namespace that is set up for Onepanel: {reason}"
        if address.endswith("/get_access_token") and status != 404:
            return f"Onepanel does not accept ONEPANEL_USERNAME and ONEPANEL_TOKEN ({status}): {reason}"
        if status in (401, 403):
            return (
                f"Onepanel at {self.url} does not accept ONEPANEL_TOKEN for namespace '{self._namespace}' "
                f"({status}): {reason}"
            )
        if status == 404:
            return (
                f"Onepanel has nothing at {address} (404): {API_URL_HINT}, and ONEPANEL_NAMESPACE '{self._namespace}'"
            )
        return f"Onepanel refuses the template ({status}): {reason}"
