"""The segmentation node: subscribes to colour and aligned depth, publishes masks, and counts every message.

It is a lifecycle node. When configured, it has loaded and warmed up the model and published the labels; while active,
it subscribes and segments; when deactivated, it keeps the model. The executor's thread only receives and pairs
messages; the pipeline's thread segments the newest frame and publishes; other long work has a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from deal_core.devices import gpu_memory, release_gpu_memory
from deal_core.errors import DealError, UsageError
from deal_core.recording.image_messages import is_rectified_topic
from deal_core.runtime.class_filter import kept_ids, label_ids
from deal_core.runtime.segmenter import BackendName, Precision, Segmenter
from deal_core.structures import ClassList
from deal_ros.diagnostics.judge import assess, final_counts
from deal_ros.diagnostics.snapshots import NEVER_RELOADED, LifecycleSnapshot, Limits, ModelSnapshot, NodeSnapshot
from deal_ros.diagnostics.status import to_message
from deal_ros.input import optional_libraries
from deal_ros.input.image_input import CAMERA_INFO_TOPIC, COLOR_TOPIC, DEPTH_TOPIC, transported
from deal_ros.input.qos import mask_qos
from deal_ros.input.stamps import ClockWatch
from deal_ros.node.background import in_background, run_in_background
from deal_ros.node.parameters import LiveParameters
from deal_ros.node.paths import path_of
from deal_ros.segmentation.active import SegmentationSession
from deal_ros.segmentation.labels import LabelPublisher
from deal_ros.segmentation.outputs import Outputs
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.snapshot import save_snapshot

NODE_NAME = "deal_segmentation"


def load_segmenter(parameters: SegmentationParameters) -> Segmenter:
    """Load the model file that the parameters name, and warm up the network.

    Raises:
        ModelFileError: the model file cannot be used.
        UsageError: no model is named, or the device does not exist here.
        BackendError: the selected back end cannot run the model.
    """
    parameters.check_complete()
    segmenter = Segmenter.load(
        path_of(parameters.model),
        parameters.device,
        cast(Precision, parameters.precision),
        backend=cast(BackendName, parameters.backend),
        engine_cache_dir=parameters.engine_cache_dir,
        input_size=parameters.input_size,
    )
    segmenter.warm_up(*segmenter.input_size, parameters.warmup_iterations)
    return segmenter


class SegmentationNode(LifecycleNode):
    """Lifecycle node with transitions, services, parameters and diagnostics; `SegmentationSession` does the work.

    Args:
        load: loads and warms up the model that the parameters name; called in a thread of its own.
        options: options of the lifecycle node (context, namespace, parameter_overrides, ...).

    Raises:
        UsageError: a parameter is invalid.
    """

    def __init__(self, load: Callable[[SegmentationParameters], Segmenter] = load_segmenter, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self._load = load
        self._model: _LoadedModel | None = None
        self._labels: LabelPublisher | None = None
        self._outputs: Outputs | None = None
        self._session: SegmentationSession | None = None
        self._failure: Exception | None = None
        self._is_starting = False
        self._reload = _Reload()
        self._snapshots: list[Path] = []
        self._reported: NodeSnapshot | None = None
        self._clock_watch = ClockWatch()
        self._live = LiveParameters(
            self,
            SegmentationParameters,
            is_configured=lambda: self._model is not None,
            check=self._check,
            on_change=self._adapt,
        )
        self._mask_publisher = self.create_publisher(Image, "~/mask", mask_qos())
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady time: with simulated time and no /clock, the node must still publish diagnostics.
        self._diagnostics_timer = self.create_timer(
            self.parameters.diagnostics_period_s,
            self.publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self.create_service(SetBool, "~/enable", self._on_enable)
        # Callback groups of their own: these callbacks wait for a thread, and other callbacks must not wait for them.
        for name, callback in (("reload_model", self._on_reload_model), ("save_snapshot", self._on_save_snapshot)):
            self.create_service(Trigger, f"~/{name}", callback, callback_group=MutuallyExclusiveCallbackGroup())

    @property
    def parameters(self) -> SegmentationParameters:
        """The current parameters."""
        return self._live.current

    @property
    def state(self) -> str:
        """Lifecycle state: "unconfigured", "inactive", "active" or "finalized"; during a transition, its name."""
        return str(self._state_machine.current_state[1])

    def start(self) -> None:
        """Configure and activate the node if the parameter `autostart` is true.

        Raises:
            DealError: a transition failed.
        """
        if not self.parameters.autostart:
            name = self.get_fully_qualified_name()
            self.get_logger().info(f"waiting for a lifecycle manager (or: ros2 lifecycle set {name} configure)")
            return
        self._is_starting = True
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise _as_deal_error(self._failure)
        self._is_starting = False

    def is_finished(self) -> bool:
        """Return False: the node runs until it receives a signal."""
        return False

    def finish(self) -> int:
        """Shut down and return 0."""
        if self.state != "finalized":
            self.trigger_shutdown()
        return 0

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model and publish its labels."""
        return self._attempt("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        return self._attempt("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, wait for the running frame and log the counts of all messages; the model stays loaded."""
        return self._attempt("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy the publishers of labels and outputs, and free the model's memory."""
        return self._attempt("clean up", self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate and clean up if necessary."""
        return self._attempt("shut down", self._shut_down)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after an unexpected error; the node returns to unconfigured."""
        failure = self._failure
        result = self._attempt("recover", self._shut_down)
        self._failure = self._failure or failure  # diagnostics must show the original error
        return result

    def publish_diagnostics(self) -> None:
        """Publish the current state of the node on /diagnostics."""
        is_simulated = self.get_parameter("use_sim_time").value is True
        now = self.get_clock().now()
        self._clock_watch.see(now.nanoseconds, time.monotonic(), is_simulated=is_simulated)
        snapshot = self._snapshot()
        statuses = assess(snapshot, self._reported)
        self._reported = snapshot
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics_publisher.publish(to_message(statuses, name, now.to_msg()))

    def _attempt(self, what: str, work: Callable[[], None]) -> TransitionCallbackReturn:
        """Run a transition; return FAILURE for an expected error (the state stays), ERROR for any other exception."""
        self.publish_diagnostics()
        self._failure = None
        try:
            work()
        except Exception as error:  # rclpy would drop it silently
            self._failure = error
            if not self._is_starting:  # otherwise the caller of `start` reports it
                self.get_logger().error(f"cannot {what}: {_describe(error)}")
            expected = isinstance(error, DealError)
            return TransitionCallbackReturn.FAILURE if expected else TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        wanted = self.parameters
        wanted.check_complete()
        model = run_in_background(
            lambda: self._load(wanted), period_s=wanted.diagnostics_period_s, meanwhile=self.publish_diagnostics
        )
        _check_classes(model, wanted)
        self.get_logger().info(f"{optional_libraries.message_filters()}, {optional_libraries.cv_bridge()}")
        self._labels = LabelPublisher(self, wanted.mask_encoding)
        self._outputs = Outputs(
            self,
            model.classes,
            depth_topic=self.resolve_topic_name(DEPTH_TOPIC),
            camera_info_topic=self.resolve_topic_name(CAMERA_INFO_TOPIC),
            is_rectified=is_rectified_topic(
                self.resolve_topic_name(transported(COLOR_TOPIC, wanted.color_transport)[0])
            ),
            mask_encoding=wanted.mask_encoding,
        )
        self._replace_model(_LoadedModel(model, wanted.model))
        self._publish_labels()
        self._reload = _Reload()

    def _activate(self) -> None:
        model, outputs = self._model, self._outputs
        assert model is not None and outputs is not None  # `_configure` always runs first
        session = SegmentationSession(
            self,
            model.segmenter,
            self.parameters,
            outputs,
            publish=self._mask_publisher.publish,
        )
        self._session = session
        found = self._model_snapshot(model)
        self.get_logger().info(
            f"ready: {found.model} ({found.model_sha256[:12]}, {found.classes} classes) with {found.backend} on "
            f"{found.device}, {found.precision}; depth {found.depth_mode}, pairing {found.pairing}; "
            f"subscribed to {' and '.join(each.topic for each in session.inputs)}"
        )

    def _deactivate(self) -> None:
        if self._session is None:
            return
        session = self._session
        if not session.close():
            self.get_logger().error("the running frame did not finish in time; deactivating without its result")
        self.publish_diagnostics()
        self._session = None
        counts = final_counts(session.pipeline.sync, session.pipeline.work)
        self.get_logger().info(f"stopped: {counts}")

    def _clean_up(self) -> None:
        if self._labels is not None:
            self._labels.close()
        if self._outputs is not None:
            self._outputs.close()
        self._labels = self._outputs = self._model = None
        release_gpu_memory()

    def _shut_down(self) -> None:
        self._deactivate()
        self._clean_up()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._session is None:
            response.success = False
            response.message = f"the node is {self.state}, not active: activate it first"
            return response
        self._session.enable(request.data)
        response.success = True
        response.message = "segmenting" if request.data else "unsubscribed; the model stays loaded"
        self.get_logger().info(f"~/enable: {response.message}")
        return response

    async def _on_reload_model(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        before, wanted = self._model, self.parameters
        if before is None:
            response.message = f"the node is {self.state}: configure it to load the model"
            return response
        self._reload = _Reload(f"loading {wanted.model}")
        try:
            segmenter = await in_background(lambda: self._load(wanted), self.executor)
            if self._model is not before:
                raise DealError(f"the node was cleaned up while the model was loading, and is {self.state}")
            _check_classes(segmenter, self.parameters)
            loaded = _LoadedModel(segmenter, wanted.model)
            await self._take_over(loaded)
        except Exception as error:  # after any error the node continues with the previous model
            response.message = f"{_describe(error)}; {before.path} stays in use"
            self._reload = _Reload(response.message, has_failed=True)
            self.get_logger().error(f"~/reload_model: {response.message}")
            return response
        response.success = True
        response.message = f"{loaded.version} replaces {before.version}"
        self._reload = _Reload(f"loaded {response.message}")
        self.get_logger().info(f"~/reload_model: {response.message}")
        return response

    async def _on_save_snapshot(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        last = self._session.pipeline.last if self._session else None
        if last is None:
            response.message = f"nothing to save: the node is {self.state} and has not segmented a frame"
            return response
        try:
            statuses = assess(self._snapshot(), self._reported)
            save = partial(save_snapshot, last, self.parameters, statuses, datetime.now(), tuple(self._snapshots))
            folder = await in_background(save, self.executor)
        except Exception as error:
            response.message = _describe(error)
            self.get_logger().error(f"~/save_snapshot: {response.message}")
            return response
        self._snapshots.append(folder)
        response.success, response.message = True, str(folder)
        self.get_logger().info(f"~/save_snapshot: {folder}")
        return response

    async def _take_over(self, loaded: _LoadedModel) -> None:
        """Switch to another model; the labels change between the old model's last mask and the new one's first."""
        self._replace_model(loaded)
        if self._session is None:
            self._publish_labels()
            return
        in_use: Future[None] = Future(executor=self.executor)

        def take_over() -> None:
            self._publish_labels()
            in_use.set_result(None)

        self._session.use(loaded.segmenter, take_over)
        await in_use

    def _replace_model(self, model: _LoadedModel) -> None:
        self._model = model
        release_gpu_memory()

    def _publish_labels(self) -> None:
        model, labels, outputs = self._model, self._labels, self._outputs
        if model is not None and labels is not None and outputs is not None:
            segmenter = model.segmenter
            outputs.use_classes(segmenter.classes)
            labels.publish(segmenter.classes, segmenter.info.threshold.value, segmenter.model_hash)

    def _check(self, parameters: SegmentationParameters) -> None:
        if self._model is not None:
            _check_classes(self._model.segmenter, parameters)

    def _adapt(self, parameters: SegmentationParameters) -> None:
        self._diagnostics_timer.timer_period_ns = round(parameters.diagnostics_period_s * 1e9)
        if self._session is not None:
            self._session.adapt(parameters)

    def _snapshot(self) -> NodeSnapshot:
        wanted, session = self.parameters, self._session
        return NodeSnapshot(
            time_s=time.monotonic(),
            lifecycle=LifecycleSnapshot(
                state=self.state,
                failure=_describe(self._failure) if self._failure else "",
                reload=self._reload.sentence,
                reload_failed=self._reload.has_failed,
                rivals=self._rivals(),
                is_enabled=session is None or session.pipeline.is_enabled,
                clock_jumps=self._clock_watch.jumps,
                last_clock_jump=self._clock_watch.last_jump,
                rmw=get_rmw_implementation_identifier(),
            ),
            model=self._model_snapshot(self._model) if self._model else None,
            active=session.snapshot(self._mask_publisher.get_subscription_count()) if session else None,
            limits=Limits(**{each.name: getattr(wanted, each.name) for each in fields(Limits)}),
        )

    def _rivals(self) -> tuple[str, ...]:
        """Return the names of other nodes that publish on the mask topic."""
        topic = self._mask_publisher.topic_name
        if self.count_publishers(topic) < 2:
            return ()
        names = [
            f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in self.get_publishers_info_by_topic(topic)
        ]
        if self.get_fully_qualified_name() in names:
            names.remove(self.get_fully_qualified_name())
        return tuple(sorted(names))

    def _model_snapshot(self, model: _LoadedModel) -> ModelSnapshot:
        segmenter, wanted, session = model.segmenter, self.parameters, self._session
        is_unused = wanted.depth_mode == "optional" and not (session and len(session.inputs) > 1)
        stamps = "equal stamps" if wanted.sync_policy == "exact" else f"stamps within {wanted.sync_slop_ms:g} ms"
        pairing = f"with {optional_libraries.message_filters().in_use}, {stamps}"
        return ModelSnapshot(
            model=model.path,
            model_sha256=segmenter.model_hash,
            backend=segmenter.backend,
            backend_reason=segmenter.backend_reason,
            device=segmenter.device,
            precision=segmenter.precision,
            classes=len(segmenter.classes),
            depth_mode=f"{wanted.depth_mode}{' (not in use)' if is_unused else ''}",
            pairing="none" if wanted.depth_mode == "off" else pairing,
            gpu_memory=str(gpu_memory(segmenter.device) or "no GPU"),
        )


@dataclass(frozen=True, eq=False)
class _LoadedModel:
    """A model and its file; the parameter `model` may already name another file."""

    segmenter: Segmenter
    path: str

    @property
    def version(self) -> str:
        """What tells two files apart: an int8 model has the hash of the model that it was made from."""
        found = self.segmenter
        return f"{self.path} ({found.model_hash[:12]}, {found.precision} with {found.backend})"


@dataclass(frozen=True)
class _Reload:
    """Outcome of the last `~/reload_model`."""

    sentence: str = NEVER_RELOADED
    has_failed: bool = False


def _check_classes(segmenter: Segmenter, parameters: SegmentationParameters) -> None:
    """Check that a model has the classes that the parameters name.

    Raises:
        UsageError: a class is missing.
    """
    checks: dict[str, Callable[[ClassList, Sequence[str]], object]]
    checks = {"classes": kept_ids, "points_classes": label_ids, "object_classes": kept_ids}
    for name, check in checks.items():
        try:
            check(segmenter.classes, getattr(parameters, name))
        except UsageError as error:
            raise UsageError(f"parameter '{name}': {error}") from None


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, DealError) else f"{type(error).__name__}: {error}"


def _as_deal_error(error: Exception | None) -> DealError:
    if isinstance(error, DealError):
        return error
    return DealError(_describe(error) if error else "the node cannot change its state")
