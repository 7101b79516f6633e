"""Runs by their names, through both ways to a cluster, as a user would from the shell."""

from pathlib import Path

import pytest

from tests.pipelines.cluster.double import CREATED, NAMESPACE, cluster_double
from tests.pipelines.cluster.test_watch import BAD, GOOD
from tests.pipelines.cluster.ways import WAYS, environment, refused
from tests.pipelines.command import pipelines


@pytest.mark.parametrize("way", WAYS)
def test_the_list_has_a_line_a_run(way: str, tmp_path: Path) -> None:
    with cluster_double(states=BAD, moment=1, sweep="lr-sweep") as double:
        env = environment(way, double, tmp_path)
        shown, of_sweep, of_other = (
            pipelines("list", *flags, env=env) for flags in ([], ["--sweep=lr-sweep"], ["--sweep=other"])
        )
    words = next(line for line in shown.stdout.splitlines() if CREATED in line).split()
    assert (words[1], words[-1]) == ("Failed", "lr-sweep")
    assert shown.stdout == of_sweep.stdout
    assert f"no training workflows in namespace {NAMESPACE}" in of_other.stdout


def test_names_in_the_list_are_whole(tmp_path: Path) -> None:
    name = f"a-sweep-{'x' * 60}"
    with cluster_double(states=BAD, moment=1, sweep=name) as double:
        shown = pipelines("list", env={**environment("kubernetes", double, tmp_path), "COLUMNS": "40"})
    assert "2026-01-01T09:59:00Z" in shown.stdout
    assert shown.stdout.splitlines()[1].split()[-1] == name


def test_a_step_that_has_not_started_has_no_log(tmp_path: Path) -> None:
    with cluster_double(states=BAD, moment=1) as double:
        shown = pipelines("logs", CREATED, "--step=train-detr", env=environment("kubernetes", double, tmp_path))
    assert (shown.returncode, shown.stdout) == (0, "")


@pytest.mark.parametrize("way", WAYS)
def test_logs_are_the_steps_own_lines(way: str, tmp_path: Path) -> None:
    log = ["line 1", 'time="2026-01-01T10:01:29.000Z" level=info msg="capturing logs" argo=true', "line 2"]
    with cluster_double(states=BAD, moment=1, log=log) as double:
        env = environment(way, double, tmp_path)
        one = pipelines("logs", CREATED, "--step", "train-detr", env=env)
        both = pipelines("logs", CREATED, env=env)
        unknown = refused(pipelines("logs", CREATED, "--step", "train", env=env))
    assert one.stdout == "line 1\nline 2\n"
    assert both.stdout.startswith("==> fetch-dump <==\nof another pod\n==> train-detr <==\nline 1\n")
    assert "there are fetch-dump, train-detr" in unknown


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [CREATED, "lr-sweep"])
def test_a_run_or_a_sweep_is_stopped(way: str, name: str, tmp_path: Path) -> None:
    with cluster_double(states=GOOD, sweep="lr-sweep") as double:
        env = environment(way, double, tmp_path)
        waiting = pipelines("stop", name, env=env)
        double.moment = 1
        done = pipelines("stop", name, env=env)
        unknown = refused(pipelines("stop", "no-such", env=env))
        double.moment = 3
        late = refused(pipelines("stop", CREATED, env=env))
    assert waiting.stdout == done.stdout == f"stopped {CREATED}\n"
    verbs = [
        path.rpartition("/")[2] if method == "PUT" else body["spec"]["shutdown"].lower()
        for method, path, _, body in double.asked
        if method in ("PUT", "PATCH")
    ]
    assert verbs == ["terminate", "stop"], "one that waits for a lock would go on waiting"
    assert "no workflow 'no-such'" in unknown
    assert "finished already: Succeeded" in late


def test_a_failed_run_is_retried_through_the_argo_server(tmp_path: Path) -> None:
    with cluster_double(states=BAD) as double:
        env = environment("argo", double, tmp_path)
        running = refused(pipelines("retry", CREATED, env=env))
        double.moment = 1
        done = pipelines("retry", CREATED, env=env)
    assert "is Running: only one that failed" in running
    assert f"retrying {CREATED}" in done.stdout
    assert [path for method, path, _, _ in double.asked if method == "PUT"] == [
        f"/api/v1/workflows/{NAMESPACE}/{CREATED}/retry"
    ]


def test_through_kubernetes_it_is_the_argo_command_that_retries(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    with cluster_double(states=BAD, moment=1) as double:
        env = {**environment("kubernetes", double, tmp_path), "PATH": str(tools)}
        line = refused(pipelines("retry", CREATED, env=env))
        (tools / "argo").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
        (tools / "argo").chmod(0o755)
        done = pipelines("retry", CREATED, env=env)
    command = f"retry {CREATED} --namespace {NAMESPACE}"
    assert f"`argo {command}`" in line
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text().strip() == command
