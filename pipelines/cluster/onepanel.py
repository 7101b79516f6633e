"""Register the workflow as a template in Onepanel."""

from collections.abc import Mapping
from typing import Any

import requests

from pipelines.errors import PipelineError
from pipelines.workflow.dag import LABELS

SECONDS_TO_ANSWER = 60
PAGE_SIZE = 100


def publish(name: str, manifest: str, environ: Mapping[str, str]) -> tuple[str, int]:
    """Create the template, or give an existing one of that name a new version.

    Args:
        name: the template's name.
        manifest: the bare spec as YAML.
        environ: `ONEPANEL_API_URL` (such as `https://app.example.com/api`), `ONEPANEL_TOKEN`,
            `ONEPANEL_NAMESPACE`.

    Returns:
        The template's uid and the new version's number.

    Raises:
        PipelineError: a variable is missing, or Onepanel does not answer or refuses.
    """
    missing = [each for each in ("ONEPANEL_API_URL", "ONEPANEL_TOKEN", "ONEPANEL_NAMESPACE") if not environ.get(each)]
    if missing:
        raise PipelineError(
            f"{', '.join(missing)} not set: Onepanel's address, a token, and the namespace to publish in"
        )
    onepanel = _Onepanel(environ["ONEPANEL_API_URL"], environ["ONEPANEL_TOKEN"], environ["ONEPANEL_NAMESPACE"])
    body = {
        "name": name,
        "manifest": manifest,
        "labels": [{"key": key, "value": value} for key, value in LABELS.items()],
    }
    uid = onepanel.find(name)
    if uid:
        answer = onepanel.ask("POST", f"/{uid}/versions", json={**body, "uid": uid})
    else:
        answer = onepanel.ask("POST", "", json=body)
    return str(answer.get("uid", uid)), int(answer.get("version", 0))


class _Onepanel:
    """The calls of Onepanel's REST interface that publishing needs."""

    def __init__(self, url: str, token: str, namespace: str) -> None:
        self._base = f"{url.rstrip('/')}/apis/v1beta1/{namespace}/workflow_templates"
        self._namespace = namespace
        self._session = requests.Session()
        self._session.headers["Authorization"] = token if token.startswith("Bearer ") else f"Bearer {token}"
        # Otherwise a ~/.netrc entry for the host would replace the token.
        self._session.auth = lambda request: request

    def find(self, name: str) -> str:
        """Give the uid of the template called `name`, empty when there is none."""
        page = 1
        while True:
            listed = self.ask("GET", "", params={"page": page, "pageSize": PAGE_SIZE})
            for template in listed.get("workflowTemplates") or []:
                if template.get("name") == name and not template.get("isArchived"):
                    return str(template["uid"])
            if page >= int(listed.get("pages") or 1):
                return ""
            page += 1

    def ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Make a call; give the answer's content."""
        try:
            answer = self._session.request(method, f"{self._base}{path}", timeout=SECONDS_TO_ANSWER, **content)
        except requests.exceptions.SSLError:
            raise PipelineError(
                f"{self._base} has no certificate that this machine trusts: check ONEPANEL_API_URL"
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise PipelineError(f"ONEPANEL_API_URL leads to {self._base}: write it as https://host/api") from None
        except requests.RequestException as error:
            raise PipelineError(
                f"Onepanel does not answer at {self._base} ({type(error).__name__}): check ONEPANEL_API_URL"
            ) from None
        try:
            document = answer.json()
        except requests.exceptions.JSONDecodeError:
            document = {}
        if answer.ok and isinstance(document, dict):
            return document
        reason = document.get("message", answer.reason) if isinstance(document, dict) else answer.reason
        if answer.status_code in (401, 403):
            raise PipelineError(
                f"Onepanel at {self._base} does not accept ONEPANEL_TOKEN for namespace '{self._namespace}' "
                f"({answer.status_code}): {reason}"
            )
        if answer.status_code == 404:
            raise PipelineError(
                f"Onepanel has nothing at {self._base}{path} (404): check ONEPANEL_API_URL, which ends in /api on most "
                f"installations, and ONEPANEL_NAMESPACE '{self._namespace}'"
            )
        raise PipelineError(f"Onepanel refuses the template ({answer.status_code}): {reason}")
