"""Durable execution for Python: flows whose every checkpoint survives crashes, deploys and time.

Names are loaded at their first use, so that ``import kitaru`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kitaru.divergence import ArgumentDifference, DivergedCall, Divergence, DivergenceStory
    from kitaru.domain.execution.retry import Retry
    from kitaru.engine.codec import RecordedObject, register_type
    from kitaru.errors import (
        KitaruBackendError,
        KitaruCancelled,
        KitaruCancelledError,
        KitaruCheckpointProcessError,
        KitaruContextError,
        KitaruDeploymentInputValuesError,
        KitaruDeploymentNotFoundError,
        KitaruDivergenceError,
        KitaruError,
        KitaruExecutionError,
        KitaruFeatureNotAvailableError,
        KitaruImageError,
        KitaruRuntimeError,
        KitaruSerializationError,
        KitaruStackIntegrationDependencyError,
        KitaruStateError,
        KitaruTimeoutError,
        KitaruTransactionError,
        KitaruUsageError,
        KitaruUserCodeError,
        KitaruWaitAborted,
        KitaruWaitExpired,
        KitaruWaitValidationError,
    )
    from kitaru.image import ImageSettings
    from kitaru.projections.stacks import StackInfo
    from kitaru.projections.views import Execution, PendingWait
    from kitaru.sdk.artifacts import load, save
    from kitaru.sdk.checkpoint import AsyncCheckpoint, Checkpoint, CheckpointFuture, checkpoint
    from kitaru.sdk.client import AsyncKitaruClient, KitaruClient
    from kitaru.sdk.completion import as_completed, wait_all, wait_any
    from kitaru.sdk.deployments import AsyncDeployment, Deployment
    from kitaru.sdk.deterministic import now, random, sleep, uuid4
    from kitaru.sdk.execution import current_execution_id, idempotency_key
    from kitaru.sdk.flow import AsyncFlow, Flow, flow
    from kitaru.sdk.handle import AsyncFlowHandle, FlowHandle
    from kitaru.sdk.log import log
    from kitaru.sdk.runtime import runtime
    from kitaru.sdk.stacks import (
        create_stack,
        current_stack,
        delete_stack,
        list_stacks,
        use_stack,
    )
    from kitaru.sdk.transaction import AsyncTransaction, Transaction, transaction
    from kitaru.sdk.wait import wait
    from kitaru.settings import KitaruConfig, configure
    from kitaru.status import ExecutionStatus, FailureOrigin

_WHERE = {
    "ArgumentDifference": "kitaru.divergence",
    "AsyncCheckpoint": "kitaru.sdk.checkpoint",
    "AsyncDeployment": "kitaru.sdk.deployments",
    "AsyncFlow": "kitaru.sdk.flow",
    "AsyncFlowHandle": "kitaru.sdk.handle",
    "AsyncKitaruClient": "kitaru.sdk.client",
    "AsyncTransaction": "kitaru.sdk.transaction",
    "Checkpoint": "kitaru.sdk.checkpoint",
    "CheckpointFuture": "kitaru.sdk.checkpoint",
    "Deployment": "kitaru.sdk.deployments",
    "DivergedCall": "kitaru.divergence",
    "Divergence": "kitaru.divergence",
    "DivergenceStory": "kitaru.divergence",
    "Execution": "kitaru.projections.views",
    "ExecutionStatus": "kitaru.status",
    "FailureOrigin": "kitaru.status",
    "Flow": "kitaru.sdk.flow",
    "FlowHandle": "kitaru.sdk.handle",
    "ImageSettings": "kitaru.image",
    "KitaruBackendError": "kitaru.errors",
    "KitaruCancelled": "kitaru.errors",
    "KitaruCancelledError": "kitaru.errors",
    "KitaruCheckpointProcessError": "kitaru.errors",
    "KitaruClient": "kitaru.sdk.client",
    "KitaruConfig": "kitaru.settings",
    "KitaruContextError": "kitaru.errors",
    "KitaruDeploymentInputValuesError": "kitaru.errors",
    "KitaruDeploymentNotFoundError": "kitaru.errors",
    "KitaruDivergenceError": "kitaru.errors",
    "KitaruError": "kitaru.errors",
    "KitaruExecutionError": "kitaru.errors",
    "KitaruFeatureNotAvailableError": "kitaru.errors",
    "KitaruImageError": "kitaru.errors",
    "KitaruRuntimeError": "kitaru.errors",
    "KitaruSerializationError": "kitaru.errors",
    "KitaruStackIntegrationDependencyError": "kitaru.errors",
    "KitaruStateError": "kitaru.errors",
    "KitaruTimeoutError": "kitaru.errors",
    "KitaruTransactionError": "kitaru.errors",
    "KitaruUsageError": "kitaru.errors",
    "KitaruUserCodeError": "kitaru.errors",
    "KitaruWaitAborted": "kitaru.errors",
    "KitaruWaitExpired": "kitaru.errors",
    "KitaruWaitValidationError": "kitaru.errors",
    "PendingWait": "kitaru.projections.views",
    "RecordedObject": "kitaru.engine.codec",
    "Retry": "kitaru.domain.execution.retry",
    "StackInfo": "kitaru.projections.stacks",
    "Transaction": "kitaru.sdk.transaction",
    "as_completed": "kitaru.sdk.completion",
    "checkpoint": "kitaru.sdk.checkpoint",
    "configure": "kitaru.settings",
    "create_stack": "kitaru.sdk.stacks",
    "current_execution_id": "kitaru.sdk.execution",
    "current_stack": "kitaru.sdk.stacks",
    "delete_stack": "kitaru.sdk.stacks",
    "flow": "kitaru.sdk.flow",
    "idempotency_key": "kitaru.sdk.execution",
    "list_stacks": "kitaru.sdk.stacks",
    "load": "kitaru.sdk.artifacts",
    "log": "kitaru.sdk.log",
    "now": "kitaru.sdk.deterministic",
    "random": "kitaru.sdk.deterministic",
    "register_type": "kitaru.engine.codec",
    "runtime": "kitaru.sdk.runtime",
    "save": "kitaru.sdk.artifacts",
    "sleep": "kitaru.sdk.deterministic",
    "transaction": "kitaru.sdk.transaction",
    "use_stack": "kitaru.sdk.stacks",
    "uuid4": "kitaru.sdk.deterministic",
    "wait": "kitaru.sdk.wait",
    "wait_all": "kitaru.sdk.completion",
    "wait_any": "kitaru.sdk.completion",
}

__all__ = [
    "ArgumentDifference",
    "AsyncCheckpoint",
    "AsyncDeployment",
    "AsyncFlow",
    "AsyncFlowHandle",
    "AsyncKitaruClient",
    "AsyncTransaction",
    "Checkpoint",
    "CheckpointFuture",
    "Deployment",
    "DivergedCall",
    "Divergence",
    "DivergenceStory",
    "Execution",
    "ExecutionStatus",
    "FailureOrigin",
    "Flow",
    "FlowHandle",
    "ImageSettings",
    "KitaruBackendError",
    "KitaruCancelled",
    "KitaruCancelledError",
    "KitaruCheckpointProcessError",
    "KitaruClient",
    "KitaruConfig",
    "KitaruContextError",
    "KitaruDeploymentInputValuesError",
    "KitaruDeploymentNotFoundError",
    "KitaruDivergenceError",
    "KitaruError",
    "KitaruExecutionError",
    "KitaruFeatureNotAvailableError",
    "KitaruImageError",
    "KitaruRuntimeError",
    "KitaruSerializationError",
    "KitaruStackIntegrationDependencyError",
    "KitaruStateError",
    "KitaruTimeoutError",
    "KitaruTransactionError",
    "KitaruUsageError",
    "KitaruUserCodeError",
    "KitaruWaitAborted",
    "KitaruWaitExpired",
    "KitaruWaitValidationError",
    "PendingWait",
    "RecordedObject",
    "Retry",
    "StackInfo",
    "Transaction",
    "as_completed",
    "checkpoint",
    "configure",
    "create_stack",
    "current_execution_id",
    "current_stack",
    "delete_stack",
    "flow",
    "idempotency_key",
    "list_stacks",
    "load",
    "log",
    "now",
    "random",
    "register_type",
    "runtime",
    "save",
    "sleep",
    "transaction",
    "use_stack",
    "uuid4",
    "wait",
    "wait_all",
    "wait_any",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'kitaru' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
