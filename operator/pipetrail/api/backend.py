"""The trackers that a target may name: ``spec.backend``, a union with exactly one key.

A reference names no namespace: a TrackingTarget sees its own only, a ClusterTrackingTarget's Secrets and ConfigMaps lie
in the operator's.
"""

from typing import Annotated, ClassVar

from msgspec import UNSET, UnsetType

from pipetrail.api import rules
from pipetrail.api.model import ATOMIC, Model, doc

DataKey = Annotated[str, doc("One key of the object's data.", rules.DATA_KEY, min_length=1, max_length=253)]


class SecretKeyRef(Model, frozen=True, kw_only=True):
    """A key of a Secret: in the target's own namespace or, for a ClusterTrackingTarget, in the operator's."""

    SCHEMA: ClassVar = ATOMIC

    name: Annotated[str, doc("Name of the Secret.", rules.OBJECT_NAME, min_length=1, max_length=253)]
    key: DataKey


class ConfigMapKeyRef(Model, frozen=True, kw_only=True):
    """A key of a ConfigMap: in the target's own namespace or, for a ClusterTrackingTarget, in the operator's."""

    SCHEMA: ClassVar = ATOMIC

    name: Annotated[str, doc("Name of the ConfigMap.", rules.OBJECT_NAME, min_length=1, max_length=253)]
    key: DataKey


class BasicAuth(Model, frozen=True, kw_only=True):
    """User name and password, each in a Secret."""

    username_secret_ref: Annotated[SecretKeyRef, doc("Where the user name lies.")]
    password_secret_ref: Annotated[SecretKeyRef, doc("Where the password lies.")]


class MlflowAuth(Model, frozen=True, kw_only=True):
    """How to log in: exactly one of bearerTokenSecretRef and basic."""

    RULES: ClassVar = (
        rules.exactly_one(
            ("bearerTokenSecretRef", "basic"),
            "auth: name exactly one of bearerTokenSecretRef and basic, or leave auth out",
        ),
    )

    bearer_token_secret_ref: Annotated[SecretKeyRef, doc("Where the token lies that is sent as a bearer token.")] | (
        UnsetType
    ) = UNSET
    basic: Annotated[BasicAuth, doc("User name and password, each in a Secret.")] | UnsetType = UNSET


class CaBundleRef(Model, frozen=True, kw_only=True):
    """Where the certificates lie (PEM) that sign the tracker's."""

    config_map_key_ref: Annotated[ConfigMapKeyRef, doc("The ConfigMap and its key, as in ca.crt.")]


class MlflowBackend(Model, frozen=True, kw_only=True):
    """An MLflow tracking server."""

    tracking_uri: Annotated[
        str,
        doc(
            "Address of the MLflow server for the operator, as in http://mlflow.mlflow.svc:5000. A path is kept.",
            *rules.HTTP_ADDRESS, min_length=1, max_length=2000,
        ),
    ]  # fmt: skip
    ui_uri: (
        Annotated[
            str,
            doc(
                "Address of the same server for people, for links; absent means trackingUri.",
                *rules.HTTP_ADDRESS, min_length=1, max_length=2000,
            ),
        ]
        | UnsetType
    ) = UNSET  # fmt: skip
    auth: Annotated[MlflowAuth, doc("How to log in; absent means without credentials.")] | UnsetType = UNSET
    ca_bundle_ref: (
        Annotated[CaBundleRef, doc("The certificates that sign the server's; absent means the public ones.")]
        | UnsetType
    ) = UNSET


class NeptuneBackend(Model, frozen=True, kw_only=True):
    """A self-hosted Neptune, or a server that speaks its protocol."""

    server_uri: Annotated[
        str,
        doc(
            "Address of the Neptune server, as in https://neptune.example.com; the API token must be one of it.",
            *rules.HTTP_ADDRESS, min_length=1, max_length=2000,
        ),
    ]  # fmt: skip
    project: Annotated[str, doc("The project, as workspace/name.", rules.NEPTUNE_PROJECT, min_length=3, max_length=250)]
    api_token_secret_ref: Annotated[SecretKeyRef, doc("Where the API token lies.")]
    ca_bundle_ref: (
        Annotated[CaBundleRef, doc("The certificates that sign the server's; absent means the public ones.")]
        | UnsetType
    ) = UNSET


class TensorboardBackend(Model, frozen=True, kw_only=True):
    """Event files for TensorBoard, below the folder that the operator was given for them (--tensorboard-root)."""

    directory: Annotated[
        str,
        doc(
            "A folder below the target's own: <root>/<namespace>, of a ClusterTrackingTarget <root>/_cluster.",
            rules.RELATIVE_PATH, max_length=250,
        ),
    ] = ""  # fmt: skip
    ui_uri: (
        Annotated[
            str,
            doc(
                "Address of the TensorBoard that serves that folder, for links.",
                *rules.HTTP_ADDRESS, min_length=1, max_length=2000,
            ),
        ]
        | UnsetType
    ) = UNSET  # fmt: skip


class Backend(Model, frozen=True, kw_only=True):
    """The tracker: exactly one key."""

    KINDS: ClassVar = ("mlflow", "neptune", "tensorboard")
    RULES: ClassVar = (rules.exactly_one(KINDS, "backend: name exactly one tracker, e.g. mlflow"),)

    mlflow: Annotated[MlflowBackend, doc("An MLflow tracking server.")] | UnsetType = UNSET
    neptune: Annotated[NeptuneBackend, doc("A self-hosted Neptune server.")] | UnsetType = UNSET
    tensorboard: Annotated[TensorboardBackend, doc("Event files for TensorBoard.")] | UnsetType = UNSET

    @property
    def kind(self) -> str:
        """The key that is set: mlflow, neptune, tensorboard."""
        return next((kind for kind in self.KINDS if getattr(self, kind) is not UNSET), "")
