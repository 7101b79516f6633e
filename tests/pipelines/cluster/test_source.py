"""The code that pods clone: the branch becomes a commit, and the manifest has a key that opens the repository."""

from pathlib import Path

import pytest
import yaml

from pipelines.cluster.source import pinned, refuse_other_key
from pipelines.errors import PipelineError
from pipelines.manifest.reader import Manifest
from pipelines.workflow.compile import manifests
from pipelines.workflow.contract import ONEPANEL_SPEC, WORKFLOW
from pipelines.workflow.options import Options
from tests.pipelines.cluster.double import cluster_double
from tests.pipelines.cluster.test_onepanel import onepanel, publish
from tests.pipelines.cluster.ways import DUMP, environment
from tests.pipelines.command import pipelines
from tests.pipelines.conftest import Repository

MANIFEST = Manifest.load(WORKFLOW)


def revision(manifest: Manifest = MANIFEST, **overrides: str) -> str:
    return pinned(manifest, overrides)[0].get("revision", "")


def test_a_branch_becomes_the_commit_that_it_is_now(source: Repository) -> None:
    first = source.git("rev-parse", "main")
    assert revision() == revision(revision="main") == first
    assert revision() != source.commit()
    assert revision() == source.git("rev-parse", "main") != first
    assert pinned(MANIFEST, {}) == (
        {"revision": revision()},
        f"revision 'main' is commit {revision()}: all pods clone that, on a retry too",
    )


def test_a_tag_becomes_its_commit_and_wins_over_a_branch_as_in_argo(source: Repository) -> None:
    first = source.git("rev-parse", "main")
    source.git("tag", "light")
    source.git("tag", "--annotate", "--message", "x", "main-1")
    source.git("branch", "x/main-1", source.commit())
    source.git("branch", "main-1")
    assert revision(revision="light") == revision(revision="main-1") == first
    assert revision(revision="x/main-1") == revision(revision="") == source.git("rev-parse", "main") != first


def test_what_is_a_commit_stays(source: Repository) -> None:
    commit = source.git("rev-parse", "main")
    for given in ({"revision": commit}, {"revision": "main,next"}):
        assert pinned(MANIFEST, given) == (given, "")
    for kept in (commit[:8], "main~1"):
        assert pinned(MANIFEST, {"revision": kept}) == (
            {"revision": kept},
            f"revision '{kept}' stays as it is: it is neither a branch nor a tag",
        )


def test_a_branch_that_is_not_there_is_refused(source: Repository, tmp_path: Path) -> None:
    with cluster_double() as double:
        line = pipelines("submit", DUMP, "--param=revision=mian", env=environment("argo", double, tmp_path)).refusal
    assert "no branch or tag 'mian'" in line
    assert double.asked == []


def test_pods_with_an_image_clone_nothing(source: Repository, tmp_path: Path) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text(manifests(Options(image="detr:1"))[Path("argo/detr-training.workflow.yaml")])
    assert pinned(Manifest.load(path), {}) == ({}, "")


def test_without_git_or_a_way_to_the_repository_the_branch_stays_and_it_is_said(
    source: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"source": "https://secret:token@git.example.com/private"}
    values, word = pinned(MANIFEST, given)
    assert values == given
    assert "revision 'main' stays as it is (git cannot read the repository from here)" in word
    assert "token" not in word
    monkeypatch.setenv("PATH", "")
    assert "(there is no git here)" in pinned(MANIFEST, {})[1]


def test_what_is_sent_has_the_commit(source: Repository, tmp_path: Path) -> None:
    commit = source.git("rev-parse", "main")
    template = yaml.safe_load(WORKFLOW.with_name("detr-training.workflowtemplate.yaml").read_text())
    with cluster_double(template=template, states=[{"phase": "Running"}]) as double:
        env = environment("argo", double, tmp_path)
        done = [
            pipelines("submit", DUMP, env=env),
            pipelines("submit", DUMP, "--from-template", "detr-training", env=env),
            pipelines("sweep", "--cluster", DUMP, "--param=lr=1e-4,3e-4", env=env),
        ]
        dry = pipelines("submit", DUMP, "--dry-run", env=env)
    for each in (*done, dry):
        assert (each.returncode, f"revision 'main' is commit {commit}" in each.stderr) == (0, True), each.stderr
    sent = [*double.created(), yaml.safe_load(dry.stdout)]
    assert len(sent) == 6
    for workflow in sent:
        values = {each["name"]: each["value"] for each in workflow["spec"]["arguments"]["parameters"]}
        assert values["revision"] == commit


def test_a_published_template_has_the_commit(source: Repository) -> None:
    commit = source.git("rev-parse", "main")
    with onepanel() as server:
        first, again = publish(server.address), publish(server.address)
        source.commit()
        later = publish(server.address)
    assert f"revision 'main' is commit {commit}" in first.stderr
    assert "up to date: version 1" in again.stdout
    assert "version 2" in later.stdout
    spec = yaml.safe_load(server.templates[0]["manifest"])
    compiled = yaml.safe_load(ONEPANEL_SPEC.read_text())
    (parameter,) = (each for each in spec["arguments"]["parameters"] if each["name"] == "revision")
    assert parameter["value"] == source.git("rev-parse", "main")
    parameter["value"] = "main"
    assert spec == compiled


@pytest.mark.parametrize(
    ("settings", "address", "said"),
    [
        ({}, "https://git.example.com/fork", ""),
        ({}, "git@git.example.com:fork", "'source' is an SSH address, and the manifest was compiled without a key"),
        ({"git_secret": "git"}, "https://git.example.com/fork", ""),
        (
            {"git_secret": "git"},
            "ssh://git@git.example.com/fork",
            "SSH address.* of the other kind: compile with --repo",
        ),
        ({"git_secret": "git", "repo": "git@git.example.com:x.git"}, "ssh://git@git.example.com/fork", ""),
        (
            {"git_secret": "git", "repo": "git@git.example.com:x.git"},
            "https://git.example.com/fork",
            "an HTTPS address",
        ),
        ({"image": "detr:1"}, "git@git.example.com:fork", ""),
    ],
)
def test_a_source_that_the_secret_does_not_open_is_refused(
    settings: dict[str, str], address: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text(manifests(Options(**settings))[Path("argo/detr-training.workflow.yaml")])  # type: ignore[arg-type]
    manifest = Manifest.load(path)
    if said:
        with pytest.raises(PipelineError, match=said):
            refuse_other_key(manifest, {"source": address})
    else:
        refuse_other_key(manifest, {"source": address})


def test_submit_refuses_it_before_anything_is_sent(tmp_path: Path) -> None:
    with cluster_double() as double:
        env = environment("kubernetes", double, tmp_path)
        line = pipelines("submit", DUMP, "--param=source=git@git.example.com:fork", env=env).refusal
    assert "'source' is an SSH address" in line
    assert double.asked == []
