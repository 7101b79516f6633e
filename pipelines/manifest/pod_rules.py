"""What a Kubernetes API server insists on in a pod, for the parts that a workflow can get wrong.

Source: kubernetes v1.31, pkg/apis/core/validation/validation.go and k8s.io/apimachinery/pkg/util/validation. The
faults are worded as there, so that they are found by whoever searches for them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]

LABEL_LENGTH = 63
SUBDOMAIN_LENGTH = 253
PORT_NAME_LENGTH = 15
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(rf"{DNS_LABEL.pattern}(\.{DNS_LABEL.pattern})*")
QUALIFIED_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
PORT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]*)?([KMGTPE]i|[mkMGTPE]|[eE][0-9]+)?")


@dataclass(frozen=True)
class Fault:
    """A field that an API server refuses, in its words."""

    field: str
    value: Any
    reason: str
    duplicate: bool = False
    container: str = ""
    """Name of the container that the field is in."""

    def __str__(self) -> str:
        kind = "Duplicate value" if self.duplicate else "Invalid value"
        return f"{self.field}: {kind}: {json.dumps(self.value)}" + (f": {self.reason}" if self.reason else "")


Faults = Iterator[Fault]


def is_dns_label(text: str) -> bool:
    """Return whether a text is a label of RFC 1123, of at most 63 characters."""
    return len(text) <= LABEL_LENGTH and bool(DNS_LABEL.fullmatch(text))


def is_dns_subdomain(text: str) -> bool:
    """Return whether a text is a subdomain of RFC 1123, of at most 253 characters."""
    return len(text) <= SUBDOMAIN_LENGTH and bool(DNS_SUBDOMAIN.fullmatch(text))


def pod_faults(pod: Document) -> Faults:
    """Return what an API server would refuse in a pod."""
    metadata, spec = pod["metadata"], pod["spec"]
    yield from _subdomain("metadata.name", metadata["name"])
    yield from _labels("metadata.labels", metadata.get("labels", {}))
    for key in metadata.get("annotations", {}):
        yield from _key("metadata.annotations", key)
    yield from _labels("spec.nodeSelector", spec.get("nodeSelector", {}))
    if spec.get("serviceAccountName"):
        yield from _subdomain("spec.serviceAccountName", spec["serviceAccountName"])
    if spec.get("priorityClassName"):
        yield from _subdomain("spec.priorityClassName", spec["priorityClassName"])
    for index, secret in enumerate(spec.get("imagePullSecrets", [])):
        yield from _subdomain(f"spec.imagePullSecrets[{index}].name", secret["name"])
    for index, toleration in enumerate(spec.get("tolerations", [])):
        yield from _toleration(f"spec.tolerations[{index}]", toleration)
    volumes: set[str] = set()
    for index, volume in enumerate(spec.get("volumes", [])):
        yield from _unique_label(f"spec.volumes[{index}].name", volume["name"], volumes)
        claim = volume.get("persistentVolumeClaim")
        if claim:
            yield from _subdomain(f"spec.volumes[{index}].persistentVolumeClaim.claimName", claim["claimName"])
    names: set[str] = set()
    host_ports: set[tuple[int, str]] = set()
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind, [])):
            place = f"spec.{kind}[{index}]"
            yield from _unique_label(f"{place}.name", container["name"], names)
            yield from _container(place, container, volumes)
            yield from _ports(place, container, host_ports)


def claim_faults(claim: Document) -> Faults:
    """Return what an API server would refuse in a volume claim template."""
    yield from _subdomain("metadata.name", claim["metadata"]["name"])
    spec = claim["spec"]
    size = str(spec["resources"]["requests"]["storage"])
    if not QUANTITY.fullmatch(size):
        yield Fault("spec.resources.requests.storage", size, "a quantity is a number with a suffix, such as 50Gi")
    if spec.get("storageClassName"):
        yield from _subdomain("spec.storageClassName", spec["storageClassName"])


def _container(place: str, container: Document, volumes: set[str]) -> Faults:
    name = container["name"]
    yield from _resources(f"{place}.resources", container.get("resources") or {}, name)
    image = container.get("image", "")
    if not image or image != image.strip():
        yield Fault(f"{place}.image", image, "an image is required, without spaces around it", container=name)
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts", [])):
        where = f"{place}.volumeMounts[{index}]"
        if mount["name"] not in volumes:
            yield Fault(f"{where}.name", mount["name"], "Not found", container=name)
        path = mount["mountPath"]
        if path in paths:
            yield Fault(f"{where}.mountPath", path, "must be unique", container=name)
        if not path or ":" in path:
            yield Fault(f"{where}.mountPath", path, "must not be empty or contain ':'", container=name)
        below = mount.get("subPath", "")
        if below.startswith("/") or ".." in below.split("/"):
            yield Fault(f"{where}.subPath", below, "must be a relative path without '..'", container=name)
        paths.add(path)
    for index, variable in enumerate(container.get("env", [])):
        if not ENV_NAME.fullmatch(variable["name"]) or variable["name"].startswith(".."):
            yield Fault(f"{place}.env[{index}].name", variable["name"], "is not a variable's name", container=name)
    for index, source in enumerate(container.get("envFrom", [])):
        for reference in ("secretRef", "configMapRef"):
            if reference in source:
                yield from _subdomain(f"{place}.envFrom[{index}].{reference}.name", source[reference]["name"])


def _resources(place: str, resources: Document, container: str) -> Faults:
    limits = resources.get("limits") or {}
    for kind in ("requests", "limits"):
        for name, amount in (resources.get(kind) or {}).items():
            where = f"{place}.{kind}[{name}]"
            if not QUANTITY.fullmatch(str(amount)):
                yield Fault(where, amount, "a quantity is a number, such as 500m, 2 or 4Gi", container=container)
            elif kind == "requests" and name in limits and quantity(str(amount)) > quantity(str(limits[name])):
                reason = f"must be less than or equal to {name} limit of {limits[name]}"
                yield Fault(where, amount, reason, container=container)


def quantity(text: str) -> float:
    """Return the number that a quantity such as 500m or 4Gi stands for; infinity if it is none."""
    if not QUANTITY.fullmatch(text):
        return float("inf")
    digits = re.match(r"[0-9.]+", text)
    assert digits
    unit = text[digits.end() :]
    if unit[:1] in ("e", "E") and unit[1:]:
        return float(text)
    if unit.endswith("i"):
        return float(digits[0]) * 1024.0 ** ("KMGTPE".index(unit[0]) + 1)
    return float(digits[0]) * {"m": 1e-3, "": 1.0, "k": 1e3, "K": 1e3}.get(unit, 1e3 ** (" KMGTPE".index(unit or " ")))


def _toleration(place: str, toleration: Document) -> Faults:
    operator = toleration.get("operator", "Equal")
    if operator not in ("Equal", "Exists"):
        yield Fault(f"{place}.operator", operator, "must be Equal or Exists")
    if toleration.get("effect", "") not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        yield Fault(f"{place}.effect", toleration["effect"], "must be NoSchedule, PreferNoSchedule or NoExecute")
    if toleration.get("key"):
        yield from _key(f"{place}.key", toleration["key"])
    elif operator != "Exists":
        yield Fault(f"{place}.operator", operator, "must be Exists when `key` is empty")
    if operator == "Exists" and toleration.get("value"):
        yield Fault(f"{place}.value", toleration["value"], "must be empty when `operator` is Exists")


def _ports(place: str, container: Document, host_ports: set[tuple[int, str]]) -> Faults:
    names: set[str] = set()
    for index, port in enumerate(container.get("ports", [])):
        where, name = f"{place}.ports[{index}]", port.get("name", "")
        if name in names:
            yield Fault(f"{where}.name", name, "", duplicate=True, container=container["name"])
        if name and not (
            len(name) <= PORT_NAME_LENGTH and PORT_NAME.fullmatch(name) and re.search("[a-z]", name)
        ):  # fmt: skip
            reason = f"must be at most {PORT_NAME_LENGTH} lower-case letters, digits and '-', with a letter"
            yield Fault(f"{where}.name", name, reason, container=container["name"])
        for kind in ("containerPort", "hostPort"):
            if kind in port and not 0 < port[kind] < 65536:
                yield Fault(f"{where}.{kind}", port[kind], "must be between 1 and 65535", container=container["name"])
        names |= {name} if name else set()
        if "hostPort" in port:
            taken = (port["hostPort"], port.get("protocol", "TCP"))
            if taken in host_ports:
                yield Fault(f"{where}.hostPort", port["hostPort"], "", duplicate=True, container=container["name"])
            host_ports.add(taken)


def _unique_label(place: str, name: str, taken: set[str]) -> Faults:
    if not is_dns_label(name):
        reason = f"must be at most {LABEL_LENGTH} lower-case letters, digits and '-'"
        yield Fault(place, name, f"{reason}, and begin and end with a letter or digit")
    if name in taken:
        yield Fault(place, name, "", duplicate=True)
    taken.add(name)


def _subdomain(place: str, name: str) -> Faults:
    if not is_dns_subdomain(name):
        yield Fault(
            place, name, "must be lower-case letters, digits, '-' and '.', and begin and end with a letter or digit"
        )


def _labels(place: str, labels: Document) -> Faults:
    for key, value in labels.items():
        yield from _key(place, key)
        if value and (len(value) > LABEL_LENGTH or not QUALIFIED_NAME.fullmatch(value)):
            reason = f"must be at most {LABEL_LENGTH} letters, digits, '-', '_' and '.'"
            yield Fault(place, value, f"{reason}, and begin and end with a letter or digit")


def _key(place: str, key: str) -> Faults:
    prefix, _, name = key.rpartition("/")
    if "/" in key:
        yield from _subdomain(place, prefix)
    if len(name) > LABEL_LENGTH or not QUALIFIED_NAME.fullmatch(name):
        yield Fault(place, key, f"must be a prefix, '/', and a name of at most {LABEL_LENGTH} characters")
