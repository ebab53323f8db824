"""What all resources are made of: the base of every part, shared types, pod templates.

* Frozen, strict, closed: unknown fields are refused.
* A pod template may give resources, placement, volumes and variables; it cannot name hosts, service
  accounts, secrets or privileges, because it has no such fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from srt_operator import quantities


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a field accepts, in words, where its type alone does not say it well."""

    text: str


@dataclass(frozen=True, slots=True)
class ListKey:
    """Field by which the items of a list are told apart."""

    key: str


Bytes = Annotated[
    int,
    BeforeValidator(quantities.parse_bytes),
    PlainSerializer(quantities.format_bytes, return_type=str),
    Allowed(quantities.ALLOWED),
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Words = Annotated[
    tuple[Annotated[str, Field(max_length=512)], ...], Field(strict=False, max_length=64)
]
Label = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
ObjectName = Annotated[
    str,
    Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
    Allowed("the name of an object: lower-case letters, digits, dashes and dots"),
]
Quantity = Annotated[
    str,
    BeforeValidator(quantities.as_text),
    Field(max_length=quantities.MAX_CHARACTERS, pattern=quantities.QUANTITY_PATTERN),
    Allowed(quantities.QUANTITY_ALLOWED),
]
Resources = Annotated[dict[str, Quantity], Field(max_length=16)]


class Part(BaseModel):
    """Base of every part of a resource."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )


class Metadata(Part):
    """Who it is. Labels and annotations are the cluster's; a local run carries them along."""

    name: Annotated[
        str,
        Field(max_length=40, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"),
        Allowed("1 to 40 lower-case letters, digits and dashes, no dash at an end"),
    ]
    """Names the run folder and, in a cluster, the children; at most 40 characters."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace in a cluster; a local run ignores it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels in a cluster."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations in a cluster."""


class Reference(Part):
    """Another resource of the same namespace."""

    name: Label
    """Its name."""


class ResourceRequirements(Part):
    """What the main container needs."""

    requests: Resources = Field(default_factory=dict)
    """Kept free for it."""
    limits: Resources = Field(default_factory=dict)
    """The most it gets; GPUs are named here, as ``nvidia.com/gpu``."""


class EnvVariable(Part):
    """A variable of the main container."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Not one of the suite's own; on engines none that loads code (``LD_*``, ``PYTHON*``) and
    none of vLLM's that the gateway decides on.
    """
    value: Annotated[str, Field(max_length=4096)] = ""
    """As it is; secrets do not belong here."""


class Toleration(Part):
    """A taint that its pods bear."""

    key: Annotated[str, Field(max_length=316)] | None = None
    """Absent with ``operator: Exists``: every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Absent: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """How long a ``NoExecute`` taint is borne; absent: for ever."""


class EmptyDir(Part):
    """Space that goes with the pod."""

    medium: Literal["", "Memory"] = ""
    """``Memory``: counts as the pod's memory."""
    size_limit: Quantity | None = None
    """The most it takes."""


class ClaimVolume(Part):
    """A claim of the namespace."""

    claim_name: ObjectName
    """Its name."""
    read_only: bool = False
    """True: nobody writes to it from here."""


class ConfigMapVolume(Part):
    """Files of a ConfigMap of the namespace."""

    name: ObjectName
    """Its name."""


class Volume(Part):
    """A volume with exactly one source."""

    name: Label
    """How mounts call it."""
    empty_dir: EmptyDir | None = None
    """Space that goes with the pod."""
    persistent_volume_claim: ClaimVolume | None = None
    """A claim."""
    config_map: ConfigMapVolume | None = None
    """Files of a ConfigMap."""


class VolumeMount(Part):
    """Where a volume lies in the main container."""

    name: Label
    """Of the volume."""
    mount_path: Annotated[
        str,
        Field(max_length=512, pattern=r"^(/\.{0,2}[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"),
        Allowed("an absolute path of letters, digits, '.', '_' and '-', without '//', '.' or '..'"),
    ]
    """Absolute; not below ``/srt``, where the suite's own files lie."""
    sub_path: Annotated[str, Field(max_length=512)] | None = None
    """Folder of the volume; absent: all of it."""
    read_only: bool = False
    """True: nobody writes to it from here."""


class PodTemplate(Part):
    """How pods differ from what the site gives every pod."""

    resources: ResourceRequirements = ResourceRequirements()
    """Of the main container."""
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = Field(default_factory=dict)
    """Labels that a node must have."""
    affinity: dict[str, Any] = Field(default_factory=dict)
    """Kubernetes' own affinity, checked by the API server when pods are made."""
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False, max_length=32)] = ()
    """Taints that pods bear."""
    image_pull_secrets: Annotated[tuple[Reference, ...], Field(strict=False, max_length=8)] = ()
    """Secrets of the namespace that image registries ask for."""
    env: Annotated[tuple[EnvVariable, ...], Field(strict=False, max_length=64)] = ()
    """More variables of the main container."""
    volumes: Annotated[tuple[Volume, ...], Field(strict=False, max_length=16)] = ()
    """More volumes."""
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(strict=False, max_length=32)] = ()
    """Where the main container finds them."""
