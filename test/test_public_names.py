"""The names that users may rely on: each room's own list, which this one holds."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
from helpers.paths import PROJECT

PUBLIC = {
    "deal_core.losses": (
        "DepthEdgeAlignmentLoss DepthEdgeOptions FeatureSimilarityLoss ImportanceSamplingLoss clipped_cross_entropy "
        "depth_edge_alignment_loss equivariant_cross_regularization_loss equivariant_regularization_loss "
        "feature_similarity_loss importance_sampling_loss seed_loss tag_loss"
    ),
    "deal_core.surfaces": ("FilledDepth Planes connected_parts fill_depth fill_depth_image find_planes"),
    "deal_core.models": (
        "CamNet CamOutput ClassChanges DomainChange FineTuneReport LoadedModel ModelInfo RegionMil Seam SegmenterNet "
        "SegmenterOutput Threshold WeakTr create_model load_model read_info save_model start_from"
    ),
    "deal_core.runtime": (
        "Exported PixelBox Quantised SceneObject Segmentation Segmenter export_onnx find_objects object_id object_mask "
        "quantise"
    ),
    "deal_core.features": "KeptMaps keep_maps",
    "deal_core.regions": (
        "ClassFigures Proposals RegionFigures RegionResult RegionTrainSettings propose_regions region_scores "
        "train_regions"
    ),
    "deal_core.audit": "Audit AuditSettings NextFrame PlaceShortcut WrongTag WrongTags audit_dataset",
    "deal_core.label_tools": ("ClassImport ImportSettings ImportSummary export_masks import_masks open_masks"),
    "deal_core.masks": (
        "CamSettings ScoredFrame ThresholdRule choose_threshold create_rule multi_scale_scores predict_mask "
        "pseudo_mask read_cam read_mask score_frames winning_class write_cams"
    ),
    "deal_core.masks.refine": (
        "AutoSettings CrfSettings ParSettings RegionSettings WalkSettings dense_crf name_regions "
        "pixel_adaptive_refinement random_walk refine_scores refinement_settings"
    ),
    "deal_core.dataset": (
        "DataSettings Dataset DatasetWriter DepthEstimator DepthMaps ExtractOptions FrameRecord "
        "SourceSettings TensorSample TrainTransform extract_recording open_dataset to_tensors "
        "write_depth_maps"
    ),
    "deal_core.recording": (
        "FrameReader ImageTopics MessageDecoder Pair PairingCounts RawMessage Recording RecordingReport "
        "RecordingWriter Repair Session StampPairer TagSpan TagTimeline TaggedFrame Topic decode_image "
        "find_topics open_recording read_session repair_recording"
    ),
    "deal_core.recorder": (
        "Collected PairRecorder RealSense RecorderControls RecorderSettings RecorderState RecordingSummary "
        "RgbdFrame StreamRequest collect_pairs"
    ),
    "deal_core.synthetic": (
        "Difficulty MatchFailures Renderer RoomsConfig Scene Split StereoCamera SyntheticConfig SyntheticFrame "
        "Tabletop TagFaults View World find_match_failures make_tabletop measure_depth render_scenes write_recording"
    ),
    "deal_core.evaluation": (
        "AgreementEvaluator BoundaryScore ClassScore ConfusionMatrix EvaluationResult Flicker FrameScore "
        "MaskEvaluator MaskScore Predictions SeedSummary Shard SweepCurve ThresholdChoice ThresholdSweep "
        "evaluate_masks evaluate_model evaluate_predictions evaluate_shard forget_decisions summarise_seeds"
    ),
    "deal_core.quality": (
        "ClassMaskFigures ClassTrainingFacts ClassVerdict Finding FrameQuality MaskFigures MaskMeter MaskSource "
        "TrainingFacts Verdict choose_source facts_of_training judge judge_source measure_masks score_masks"
    ),
    "deal_core.report": ("read_run render_report write_report"),
    "deal_core.trainer": (
        "ClassFigures DistillResult DistillSettings FineTuneRequest Progress Round TrainResult TrainSettings "
        "TrainingFigures distill fine_tune_settings fit train"
    ),
    "deal_core.experiments": ("ExperimentOptions collect_rows make_plan run_plan write_table"),
    "deal_core.tagging": ("TagStore create_app"),
    "deal_core.taps": ("TapMask TapMasks Thing View carry_mask grow_things"),
    "deal_core.views": "EstimatedPoses FusedScores PlaceMap agreement estimate_poses warp_scores",
}


@pytest.mark.parametrize("room", PUBLIC)
def test_a_room_names_what_users_may_rely_on(room: str) -> None:
    module = importlib.import_module(room)
    assert sorted(module.__all__) == sorted(PUBLIC[room].split())
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__name__", name) == name
        assert found.__module__.startswith(f"{room}."), f"{name} is defined in {found.__module__}"
        if inspect.isclass(found) or inspect.isfunction(found):
            assert inspect.getdoc(found), f"{name} has no docstring"


def test_every_room_of_deal_core_has_a_list() -> None:
    without = {"deal_core.web", "deal_core.runtime.backends"}  # for other rooms alone
    folders = (path.parent.relative_to(PROJECT) for path in (PROJECT / "deal_core").rglob("__init__.py"))
    rooms = {".".join(folder.parts) for folder in folders if len(folder.parts) > 1}
    assert rooms == {*PUBLIC, *without}


def test_importing_a_room_loads_nothing_heavy() -> None:
    heavy = ("torch", "cv2", "timm", "pydantic", "matplotlib", "rosbags")
    script = f"import sys, {', '.join(PUBLIC)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == "[]"
