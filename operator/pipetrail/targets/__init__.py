"""Targets: one module or package per tracker behind the contract of :mod:`pipetrail.targets.target`."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from pipetrail.api import (
    Backend,
    ConfigMapKeyRef,
    MlflowAuth,
    MlflowBackend,
    NeptuneBackend,
    SecretKeyRef,
    TensorboardBackend,
)
from pipetrail.record import Frozen
from pipetrail.targets.addresses import REFUSING, Addresses
from pipetrail.targets.target import Target, TrackerRun, Unusable


class Site(Frozen, frozen=True):
    """Where a target stands, and what the operator's admin lets targets do.

    `namespace` is empty for a ClusterTrackingTarget; `tensorboard_root` is empty if no folder was given.
    `addresses` judges each address that a target calls.
    """

    namespace: str = ""
    tensorboard_root: str = ""
    addresses: Addresses = REFUSING


CLUSTER_FOLDER: Final = "_cluster"  # no namespace is called so
Resolve = Callable[[SecretKeyRef | ConfigMapKeyRef], Awaitable[str]]


async def connect(backend: Backend, resolve: Resolve, site: Site) -> Target:
    """The target that `backend` asks for at `site`; `resolve` gives the text behind a reference. No tracker is called.

    A tracker's module is imported when it is asked for: whoever needs the contract alone (shape, plan) gets no HTTP.
    """
    match backend:
        case Backend(mlflow=MlflowBackend() as mlflow):
            return await _mlflow(mlflow, resolve, site)
        case Backend(neptune=NeptuneBackend() as neptune):
            return await _neptune(neptune, resolve, site)
        case Backend(tensorboard=TensorboardBackend() as tensorboard):
            return _tensorboard(tensorboard, site)
        case _:
            raise AssertionError("the API admits no other backend")


def fit(backend: Backend) -> Callable[[TrackerRun], TrackerRun]:
    """What the tracker of `backend` makes of a tracker run, without a connection: :meth:`Target.fit`."""
    match backend:
        case Backend(mlflow=MlflowBackend()):
            from pipetrail.targets.mlflow.fit import fit as fitted

            return fitted
        case Backend(neptune=NeptuneBackend()):
            from pipetrail.targets.neptune.fit import fit as to_attributes

            return to_attributes
        case Backend(tensorboard=TensorboardBackend()):
            from pipetrail.targets.tensorboard.fit import fit as to_files

            return to_files
        case _:
            raise AssertionError("the API admits no other backend")


async def _mlflow(backend: MlflowBackend, resolve: Resolve, site: Site) -> Target:
    from pipetrail.targets.mlflow.auth import Auth, Basic, Bearer, NoAuth
    from pipetrail.targets.mlflow.target import MlflowTarget
    from pipetrail.targets.mlflow.wire import session

    auth: Auth = NoAuth()
    if isinstance(backend.auth, MlflowAuth):
        basic, bearer = backend.auth.basic, backend.auth.bearer_token_secret_ref
        if basic:
            user = await resolve(basic.username_secret_ref)
            auth = Basic(user=user, password=await resolve(basic.password_secret_ref))
        elif bearer:
            auth = Bearer(token=await resolve(bearer))
    return MlflowTarget(
        backend.tracking_uri,
        ui_uri=backend.ui_uri or None,
        auth=auth,
        ca_pem=await resolve(backend.ca_bundle_ref.config_map_key_ref) if backend.ca_bundle_ref else None,
        session_factory=partial(session, addresses=site.addresses),
        own_stores=not site.namespace,
    )


async def _neptune(backend: NeptuneBackend, resolve: Resolve, site: Site) -> Target:
    """Raises :class:`Unusable` or :class:`Unauthorised` where address and token can't be right together."""
    from pipetrail.targets.neptune.target import NeptuneTarget

    return NeptuneTarget(
        backend.server_uri,
        backend.project,
        await resolve(backend.api_token_secret_ref),
        ca_pem=await resolve(backend.ca_bundle_ref.config_map_key_ref) if backend.ca_bundle_ref else None,
        addresses=site.addresses,
    )


def _tensorboard(backend: TensorboardBackend, site: Site) -> Target:
    """Raises :class:`Unusable` where the operator was given no folder: then there is nothing to write to."""
    from pipetrail.targets.tensorboard.target import TensorboardTarget

    if not site.tensorboard_root:
        raise Unusable("NoTensorboardRoot", "the operator was given no folder for event files (--tensorboard-root)")
    folders = tuple(part for part in backend.directory.split("/") if part)
    return TensorboardTarget(
        site.tensorboard_root, (site.namespace or CLUSTER_FOLDER, *folders), ui_uri=backend.ui_uri or ""
    )


__all__ = ["Resolve", "Site", "connect", "fit"]
