"""The code that pods without an image clone: one commit for all of them, by a way that they have a key for."""

import os
import re
import subprocess
from collections.abc import Mapping

from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.workflow.parameters import REVISION, SOURCE

SECONDS_TO_ANSWER = 30
KEYS = {False: {"usernameSecret", "passwordSecret"}, True: {"sshPrivateKeySecret"}}
"""Fields of a git artifact that name a secret, by whether they open SSH addresses."""


def pinned(manifest: Manifest, overrides: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Replace the branch or tag that pods clone by the commit that it is now.

    Every pod clones anew: without this, those of a retry could run other code than those before it.

    Args:
        manifest: the compiled workflow.
        overrides: workflow parameters, where a sweep may have several values with commas between them.

    Returns:
        The parameters, and in a line what became of the revision; empty where it is a commit already, where it varies,
        and where pods have an image.

    Raises:
        PipelineError: the repository can be read, and has no such branch or tag.
    """
    values = {**_defaults(manifest), **overrides}
    source, revision = values.get(SOURCE.name, ""), values.get(REVISION.name)
    if not source or revision is None or "," in source + revision or re.fullmatch("[0-9a-f]{40}", revision):
        return dict(overrides), ""
    name = f"revision '{revision}'" if revision else "the default branch"
    try:
        commit = _commit(source, revision)
    except (OSError, subprocess.SubprocessError) as error:
        why = "there is no git here" if isinstance(error, OSError) else "git cannot read the repository from here"
        return dict(overrides), f"{name} stays as it is ({why}): pods that start later may clone newer code"
    if commit:
        return {**overrides, REVISION.name: commit}, f"{name} is commit {commit}: all pods clone that, on a retry too"
    if re.fullmatch(r"[\w./-]*", revision) and not re.fullmatch("[0-9a-f]{4,39}", revision):
        raise PipelineError(f"the repository that 'source' names has no branch or tag '{revision}': give another")
    return dict(overrides), f"{name} stays as it is: it is neither a branch nor a tag"


def _commit(source: str, revision: str) -> str:
    """Ask a repository for the commit of a branch or tag; empty if it has none of that name."""
    environment = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **os.environ, "GIT_TERMINAL_PROMPT": "0"}
    answer = subprocess.run(
        ["git", "ls-remote", "--", source, revision or "HEAD", f"{revision}^{{}}"],  # noqa: S607
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        timeout=SECONDS_TO_ANSWER,
    )  # fmt: skip
    commits = {name: commit for commit, _, name in (line.partition("\t") for line in answer.stdout.splitlines())}
    # In the order in which Argo's git looks, an annotated tag's commit before the tag itself.
    names = (
        ["HEAD"] if not revision else [f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"]
    )
    return next((commits[name] for name in names if name in commits), "")


def refuse_other_key(manifest: Manifest, overrides: Mapping[str, str]) -> None:
    """Refuse a source that is opened by another kind of key than the manifest's secret has.

    Raises:
        PipelineError: it is an SSH address, and pods have a password or nothing; or the other way round.
    """
    source = overrides.get(SOURCE.name, "")
    named = {
        key
        for template in manifest.spec["templates"]
        for artifact in template.get("inputs", {}).get("artifacts", [])
        for key in artifact.get("git", {})
    }
    if not source or not named:
        return
    by_ssh = "://" not in source or source.startswith("ssh://")
    if named & KEYS[not by_ssh]:
        has = "with a --git-secret of the other kind"
    elif by_ssh and not named & KEYS[by_ssh]:
        has = "without a key"
    else:
        return
    raise PipelineError(
        f"parameter 'source' is an {'SSH' if by_ssh else 'HTTPS'} address, and the manifest was compiled {has}: "
        "compile with --repo and --git-secret for that repository"
    )


def _defaults(manifest: Manifest) -> dict[str, str]:
    declared = manifest.spec.get("arguments", {}).get("parameters", [])
    return {each["name"]: str(each["value"]) for each in declared if "value" in each}
