"""The tests for a real cluster, against the double: they ask for what its interfaces have, and can fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes.client.exceptions import ApiException

from tests.pipelines.cluster import test_live_cluster as live
from tests.pipelines.cluster.double import Double, cluster_double
from tests.pipelines.cluster.ways import environment


@pytest.fixture
def cluster() -> Iterator[Double]:
    with cluster_double() as double:
        yield double


@pytest.fixture
def api(cluster: Double, tmp_path: Path) -> k8s.ApiClient:
    return k8s_config.new_client_from_config(environment("kubernetes", cluster, tmp_path)["KUBECONFIG"])


restricted = live.restricted


@pytest.mark.parametrize("name", live.ADMITTED)
def test_what_the_api_server_is_asked(name: str, api: k8s.ApiClient, restricted: str, cluster: Double) -> None:
    live.test_every_pod_is_admitted_where_restricted_is_enforced(live.ADMITTED[name], api, restricted)
    live.test_the_api_server_takes_every_field(live.ADMITTED[name], api, restricted)
    asked = [path.rpartition("/")[2] for method, path, _, _ in cluster.asked if method == "POST"]
    assert asked.count("pods") >= 5
    assert {"workflows", "workflowtemplates", "roles", "rolebindings"} <= set(asked)


def test_the_other_pods_are_kept_out(api: k8s.ApiClient, restricted: str) -> None:
    live.test_a_pod_that_is_not_restricted_is_kept_out(api, restricted)


def test_a_cluster_that_enforces_nothing_is_noticed(api: k8s.ApiClient, restricted: str, cluster: Double) -> None:
    cluster.spaces[restricted] = {}
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        live.test_a_pod_that_is_not_restricted_is_kept_out(api, restricted)


def test_the_schedule(api: k8s.ApiClient, restricted: str, cluster: Double) -> None:
    live.test_a_schedule_is_kept_until_it_is_removed(api, restricted)
    assert cluster.kept == {}


def test_the_namespace_goes(api: k8s.ApiClient, cluster: Double) -> None:
    made = live.restricted.__wrapped__(api)  # type: ignore[attr-defined]
    name = next(made)
    assert cluster.spaces[name] == live.ENFORCED
    with pytest.raises(ApiException):
        made.throw(ApiException(status=403))
    assert cluster.spaces == {}
