"""Pipelines and nodes with a network of our own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helpers.node_stand import Stand
    from helpers.pipeline_rig import Rig

    from deal_ros.segmentation.one_frame import SegmentedFrame


@pytest.fixture
def new_stand(new_domain: Callable[[], int]) -> Iterator[Callable[..., Stand]]:
    """Create nodes with a network of our own; they are closed at the end."""
    from helpers.node_stand import Stand

    stands: list[Stand] = []

    def make(**parameters: Any) -> Stand:
        stands.append(Stand(new_domain(), **parameters))
        return stands[-1]

    yield make
    for stand in stands:
        stand.close()


@pytest.fixture
def vision(interface_packages: None, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`vision_msgs.msg`, which the modules of the node found when they were imported."""
    from vision_msgs import msg

    from deal_ros.segmentation import labels, object_messages, outputs

    monkeypatch.setattr(object_messages, "vision", msg)
    monkeypatch.setattr(outputs, "DETECTIONS", msg.Detection3DArray)
    monkeypatch.setattr(labels, "LabelInfo", msg.LabelInfo)
    monkeypatch.setattr(labels, "VisionClass", msg.VisionClass)
    return msg


@pytest.fixture
def new_rig(request: pytest.FixtureRequest) -> Callable[..., Rig]:
    """Create pipelines with a network of our own; they are stopped at the end."""
    from helpers.pipeline_rig import Red, Rig

    from deal_ros.input.synchronizer import DepthMode
    from deal_ros.segmentation.parameters import SegmentationParameters
    from deal_ros.segmentation.pipeline import SegmentationPipeline

    def make(
        depth_mode: str = "required",
        gate: threading.Semaphore | None = None,
        *,
        keeps_results: bool = True,
        publish_more: Callable[[SegmentedFrame], object] = lambda result: None,
        **parameters: object,
    ) -> Rig:
        results: list[SegmentedFrame] = []
        errors: list[str] = []
        clock = [0]
        segmenter = Red(gate=gate)
        pipeline = SegmentationPipeline(
            segmenter,
            SegmentationParameters(model="m", depth_mode=depth_mode, **parameters),
            DepthMode(depth_mode),
            publish=results.append if keeps_results else lambda result: None,
            publish_more=publish_more,  # type: ignore[arg-type]
            now_ns=lambda: clock[0],
            on_error=errors.append,
        )
        request.addfinalizer(pipeline.stop)
        pipeline.start()
        return Rig(pipeline, segmenter, results, errors, clock)

    return make
