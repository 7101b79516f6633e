"""The Pod Security Standard "restricted": what a namespace that enforces it admits.

Source: Kubernetes v1.34, k8s.io/pod-security-admission/policy, one check a function there; the standard's page lists
the same controls. "restricted" includes "baseline".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.manifest.pod_rules import Fault, Faults

Document = Mapping[str, Any]

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SECCOMP = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip


def restricted_faults(pod: Document) -> Faults:
    """Return what keeps a pod out of a namespace that enforces "restricted"."""
    spec = pod["spec"]
    context = spec.get("securityContext") or {}
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield Fault(f"spec.{field}", True, "host namespaces")
    for index, volume in enumerate(spec.get("volumes", [])):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield Fault(f"spec.volumes[{index}].{kind}", volume["name"], "restricted volume types")
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield Fault("spec.securityContext.sysctls", sysctl["name"], "forbidden sysctls")
    yield from _either("spec.securityContext", context, "")
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind, [])):
            yield from _container(f"spec.{kind}[{index}]", container, context)


def _container(place: str, container: Document, pod: Document) -> Iterator[Fault]:
    name, own = container["name"], container.get("securityContext") or {}
    where = f"{place}.securityContext"
    yield from _either(where, own, name)
    if own.get("privileged"):
        yield Fault(f"{where}.privileged", True, "privileged", container=name)
    if own.get("allowPrivilegeEscalation") is not False:
        yield Fault(
            f"{where}.allowPrivilegeEscalation", own.get("allowPrivilegeEscalation"), "must be false", container=name
        )
    capabilities = own.get("capabilities") or {}
    if "ALL" not in capabilities.get("drop", []):
        yield Fault(f"{where}.capabilities.drop", capabilities.get("drop"), 'must include "ALL"', container=name)
    if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield Fault(f"{where}.capabilities.add", sorted(added), "only NET_BIND_SERVICE may be added", container=name)
    if own.get("procMount", "Default") != "Default":
        yield Fault(f"{where}.procMount", own["procMount"], "must be Default", container=name)
    not_root = own.get("runAsNonRoot", pod.get("runAsNonRoot"))
    if not_root is not True:
        yield Fault(f"{where}.runAsNonRoot", not_root, "must be true, here or for the pod", container=name)
    seccomp = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")
    if seccomp not in SECCOMP:
        yield Fault(f"{where}.seccompProfile.type", seccomp, "must be RuntimeDefault or Localhost", container=name)
    for index, port in enumerate(container.get("ports", [])):
        if port.get("hostPort"):
            yield Fault(f"{place}.ports[{index}].hostPort", port["hostPort"], "host ports", container=name)


def _either(where: str, context: Document, container: str) -> Iterator[Fault]:
    """Check what a pod and a container can both say."""
    if context.get("runAsUser") == 0:
        yield Fault(f"{where}.runAsUser", 0, "must not be 0", container=container)
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield Fault(f"{where}.windowsOptions.hostProcess", True, "must not be set", container=container)
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield Fault(f"{where}.appArmorProfile.type", "Unconfined", "must not be Unconfined", container=container)
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield Fault(f"{where}.seLinuxOptions", dict(selinux), "SELinux options", container=container)
