"""Rendered tabletops against slow geometry, and against what they promise about classes, tags and depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("embreex", reason="embreex (extra 'train') renders the scenes")
pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

import trimesh

from deal_core.errors import ConfigError
from deal_core.structures import CameraIntrinsics, TagMarker
from deal_core.synthetic.bodies import CATALOGUE
from deal_core.synthetic.recording import SyntheticConfig, SyntheticFrame, render_scenes
from deal_core.synthetic.render import Renderer
from deal_core.synthetic.scene import CameraPose, Material, Pattern
from deal_core.synthetic.tabletop import Tabletop, TabletopSize, camera_path, make_tabletop

CONFIG = SyntheticConfig(seed=5, scenes=10, frames_per_scene=2, width=160, height=120, num_classes=12)


@pytest.fixture(scope="module")
def frames() -> list[SyntheticFrame]:
    return list(render_scenes(CONFIG))


def draw_table(seed: int) -> tuple[Tabletop, CameraPose]:
    rng = np.random.default_rng(seed)
    table = make_tabletop(12, TabletopSize((3, 4), (2, 3), (2, 3)), rng)
    return table, camera_path(3, (0.6, 0.8), (0.65, 1.0), rng)[1]


# --- geometry -------------------------------------------------------------------------------------------------------


def unproject(depth: np.ndarray, camera: CameraIntrinsics, frame: SyntheticFrame) -> np.ndarray:
    """Return (H, W, 3) points in the world."""
    rows, columns = np.indices(depth.shape)
    x, y = (columns - camera.cx) / camera.fx * depth, (rows - camera.cy) / camera.fy * depth
    points = np.stack([x, y, depth], axis=-1).astype(np.float64)
    return points @ frame.rotation.T.astype(np.float64) + frame.position


def test_the_table_is_a_plane_and_objects_stand_on_it(frames):
    for frame in frames:
        height = unproject(frame.true_depth, CONFIG.camera, frame)[..., 2]
        table = frame.instances == 0
        assert np.abs(height[table]).max() < 1e-4
        assert height[~table].min() > -1e-4
        assert 0.04 < height[~table].max() < 0.22
        assert np.linalg.det(frame.rotation) == pytest.approx(1.0, abs=1e-5)


def test_measured_depth_fits_the_table_within_the_noise(frames):
    stereo = CONFIG.stereo
    for frame in frames[::4]:
        depth = frame.pair.depth_mm / 1000.0
        level = (frame.instances == 0) & (depth > 0) & (frame.true_depth < 1.0)
        points = unproject(depth, CONFIG.camera, frame)[level]
        center = points.mean(axis=0)
        normal = np.linalg.svd(points - center, full_matrices=False)[2][2]
        assert abs(normal[2]) > np.cos(np.radians(1.0))
        # Errors lie along the ray; across the plane they are no larger.
        off_plane = np.abs((points - center) @ normal)
        farthest = depth[level].max()
        sigma = farthest**2 / (stereo.focal_px * stereo.baseline_m) * (stereo.disparity_noise_px + 0.02) + 5e-4
        assert np.median(off_plane) < sigma


def cast_slowly(table: Tabletop, origin: np.ndarray, direction: np.ndarray) -> tuple[float, int]:
    """Return distance and face (-1: table) of the first hit, by Cramer's rule over all triangles."""
    a, b, c = np.moveaxis(table.vertices.astype(np.float64)[table.faces], 1, 0)
    edges = np.stack([a - b, a - c, np.broadcast_to(direction, a.shape)], axis=-1)
    volume = np.linalg.det(edges)
    usable = np.abs(volume) > 1e-14
    solution = np.linalg.solve(edges[usable], (a - origin)[usable][..., None])[..., 0]
    inside = (solution[:, 0] >= 0) & (solution[:, 1] >= 0) & (solution[:, :2].sum(axis=1) <= 1)
    inside &= solution[:, 2] > 1e-6
    distances = np.where(inside, solution[:, 2], np.inf)
    nearest = int(distances.argmin())
    level = -origin[2] / direction[2] if direction[2] < 0 else np.inf
    if distances[nearest] < level:
        return float(distances[nearest]), int(np.flatnonzero(usable)[nearest])
    return float(level), -1


def test_rays_hit_what_slow_geometry_says():
    table, pose = draw_table(3)
    camera = CameraIntrinsics(64, 48, 90.0, 90.0, 31.5, 23.5)
    view = Renderer(table, camera).view(pose, 0.06)
    rotation, position = pose.rotation.astype(np.float64), pose.position.astype(np.float64)
    second = position + 0.06 * rotation[:, 0]
    rng = np.random.default_rng(0)
    solid = np.argwhere(view.instance > 0)
    picks = np.concatenate([rng.choice(solid, 60, replace=False), np.argwhere(view.instance == 0)[::40]])
    differ = seen_differ = 0
    for row, column in picks:
        ray = rotation @ [(column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy, 1.0]
        distance, face = cast_slowly(table, position, ray)
        same = table.face_object[face] == view.instance[row, column]
        same &= bool(table.face_is_part[face]) == view.part[row, column]
        differ += not (same and abs(distance - view.depth[row, column]) < 1e-4)
        point = position + distance * ray
        blocked = cast_slowly(table, second, point - second)[0] < 1 - 2e-3
        seen_differ += blocked == view.seen_by_second[row, column]
    # A ray through an edge shared by two faces may go either way.
    assert differ <= 1
    assert seen_differ <= 2


def box_on_table(height: float, half: float) -> Tabletop:
    """A box in the middle of an empty table."""
    box = trimesh.creation.box((2 * half, 2 * half, height))
    box.apply_translation((0, 0, height / 2))
    grey = Material(Pattern.SOLID, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Tabletop(
        vertices=box.vertices.astype(np.float32),
        faces=box.faces.astype(np.int32),
        corner_normals=np.repeat(box.face_normals[:, None], 3, axis=1).astype(np.float32),
        face_material=np.zeros(len(box.faces) + 1, np.int16),
        face_object=np.array([1] * len(box.faces) + [0], np.int16),
        face_is_part=np.zeros(len(box.faces) + 1, bool),
        materials=(grey,),
        objects=(),
        prints=(),
        light_direction=np.array([0, 0, 1], np.float32),
        light_color=np.ones(3, np.float32),
        ambient=0.4,
        clouds=np.full((8, 8), 0.5, np.float32),
    )


@pytest.mark.parametrize("baseline", [0.05, 0.12, -0.05])
def test_stereo_shadow_lies_on_the_side_of_the_baseline_and_has_its_width(baseline):
    above, height = 0.7, 0.12
    camera = CameraIntrinsics(320, 240, 400.0, 400.0, 159.5, 119.5)
    down = CameraPose(np.diag([1.0, -1.0, -1.0]).astype(np.float32), np.array([0, 0, above], np.float32))
    view = Renderer(box_on_table(height, 0.05), camera).view(down, baseline)
    hidden = ~view.seen_by_second[120] & (view.instance[120] == 0)
    object_columns = np.flatnonzero(view.instance[120] > 0)
    expected = camera.fx * abs(baseline) * (1 / (above - height) - 1 / above)
    columns = np.flatnonzero(hidden)
    assert len(columns) == pytest.approx(expected, abs=1.01)
    if baseline > 0:
        assert columns.max() == object_columns.min() - 1
    else:
        assert columns.min() == object_columns.max() + 1


def test_frames_have_holes_left_of_objects_and_not_right_of_them(frames):
    left = right = 0
    for frame in frames:
        hole, solid = frame.pair.depth_mm == 0, frame.instances > 0
        enters, leaves = ~solid[:, 3:] & solid[:, :-3], solid[:, 3:] & ~solid[:, :-3]
        right += (hole[:, 3:] & enters).sum()
        left += (hole[:, :-3] & leaves).sum()
    assert left > 4 * right


def test_silhouettes_are_edges_of_depth_and_the_table_is_not(frames):
    silhouette, table = [], []
    for frame in frames:
        step = np.abs(np.diff(frame.true_depth, axis=0))
        above, below = frame.instances[:-1], frame.instances[1:]
        silhouette.append(step[(above == 0) & (below > 0)])
        table.append(step[(above == 0) & (below == 0)])
    assert np.median(np.concatenate(silhouette)) > 0.05
    assert np.median(np.concatenate(table)) < 0.008


def test_prints_change_colour_and_not_depth():
    changed = 0
    for seed in range(4):
        table, pose = draw_table(seed)
        camera = replace(CONFIG, width=96, height=72).camera
        printed, plain = (Renderer(t, camera).view(pose, 0.05) for t in (table, replace(table, prints=())))
        assert np.array_equal(printed.depth, plain.depth)
        assert np.array_equal(printed.seen_by_second, plain.seen_by_second)
        assert np.array_equal(printed.instance, plain.instance)
        differs = np.abs(printed.radiance - plain.radiance).max(axis=2) > 0.02
        edge_of_object = np.zeros_like(differs)
        edge_of_object[1:] |= printed.instance[1:] != printed.instance[:-1]
        edge_of_object[:, 1:] |= printed.instance[:, 1:] != printed.instance[:, :-1]
        assert not (differs & (printed.instance > 0) & ~edge_of_object)[:-1, :-1][1:, 1:].mean() > 0.01
        changed += int(differs.sum())
    assert changed > 500


# --- classes and tags -----------------------------------------------------------------------------------------------


def test_tags_follow_from_the_mask(frames):
    names = CONFIG.classes.names
    for frame in frames:
        share = {name: float((frame.mask == i + 1).mean()) for i, name in enumerate(names)}
        assert set(frame.tags.present) == {name for name, s in share.items() if s >= CONFIG.min_visible}
        assert set(frame.tags.absent) == set(names) - set(frame.tags.present)
        assert frame.tags.marker is TagMarker.COMPLETE
        assert np.array_equal(frame.mask > 0, frame.instances > 0)


def test_an_object_has_one_class_and_a_scene_few():
    seen: set[str] = set()
    for scene in range(30):
        rng = np.random.default_rng(scene)
        table = make_tabletop(6, TabletopSize((2, 4), (1, 3), (0, 0)), rng)
        kinds = {placed.class_id for placed in table.objects}
        assert 2 <= len(table.objects) <= 4
        assert 1 <= len(kinds) <= 3
        assert kinds <= set(range(1, 7))
        seen |= kinds
    assert seen == set(range(1, 7))


def test_the_part_is_a_fraction_of_its_object(frames):
    """Over all classes; a CNN must be able to see it, and it must not be the object."""
    shares, areas = [], []
    for frame in frames:
        assert not frame.part[frame.instances == 0].any()
        for instance in np.unique(frame.instances)[1:]:
            pixels = frame.instances == instance
            if pixels.mean() > 0.02:
                shares.append(frame.part[pixels].mean())
                areas.append(pixels.mean())
    assert 0.12 < np.median(shares) < 0.35
    assert np.quantile(shares, 0.95) < 0.6
    assert 0.03 < np.median(areas) < 0.15


def test_bodies_say_nothing_about_the_class():
    """The materials of bodies come from one stock: over many tables no class prefers a pattern or a brightness."""
    tone: dict[int, list[float]] = {1: [], 2: []}
    for scene in range(80):
        table = make_tabletop(2, TabletopSize((2, 3), (1, 2), (0, 0)), np.random.default_rng(scene))
        for index, placed in enumerate(table.objects):
            faces = (table.face_object == index + 1) & ~table.face_is_part
            material = table.materials[table.face_material[np.flatnonzero(faces)[0]]]
            tone[placed.class_id].append(float(np.mean(material.first)))
    means = {k: np.mean(v) for k, v in tone.items()}
    error = np.hypot(*(np.std(v) / np.sqrt(len(v)) for v in tone.values()))
    assert abs(means[1] - means[2]) < 3.5 * error


def test_catalogue_names_and_looks_are_distinct():
    looks = {(kind.material.pattern, kind.material.first, kind.material.second) for kind in CATALOGUE}
    assert len(looks) == len({kind.name for kind in CATALOGUE}) == len({kind.part for kind in CATALOGUE}) == 12


# --- chance ---------------------------------------------------------------------------------------------------------


def same(a: SyntheticFrame, b: SyntheticFrame) -> bool:
    arrays = (
        (a.pair.color, b.pair.color),
        (a.pair.depth_mm, b.pair.depth_mm),
        (a.mask, b.mask),
        (a.true_depth, b.true_depth),
    )
    return all(np.array_equal(x, y) for x, y in arrays) and a.tags == b.tags and a.pair.stamp_ns == b.pair.stamp_ns


def test_a_scene_depends_on_its_seed_and_number_only(frames):
    again = list(render_scenes(replace(CONFIG, scenes=2)))
    assert all(same(a, b) for a, b in zip(again, frames, strict=False))
    other = next(render_scenes(replace(CONFIG, seed=6)))
    assert not np.array_equal(other.mask, frames[0].mask)
    assert not np.array_equal(other.pair.color, frames[0].pair.color)


def test_scenes_and_views_differ_and_stamps_rise(frames):
    stamps = [frame.pair.stamp_ns for frame in frames]
    assert stamps == sorted(set(stamps))
    assert len({frame.pair.color.tobytes() for frame in frames}) == len(frames)
    assert [frame.scene for frame in frames] == [i // 2 for i in range(len(frames))]


@pytest.mark.parametrize("size", [(640, 480), (64, 96)])
def test_frames_have_the_size_and_types_of_a_camera(size):
    frame = next(render_scenes(replace(CONFIG, width=size[0], height=size[1])))
    shape = (size[1], size[0])
    assert frame.pair.color.shape == (*shape, 3)
    assert frame.pair.color.dtype == frame.mask.dtype == np.uint8
    assert frame.pair.depth_mm.dtype == np.uint16
    assert {a.shape for a in (frame.pair.depth_mm, frame.mask, frame.part, frame.true_depth)} == {shape}
    assert 40 < frame.pair.color.mean() < 215


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 8}, "width: expected 32 to 1920, found 8"),
        ({"height": 5000}, "height"),
        ({"scenes": 0}, "scenes"),
        ({"frames_per_scene": 0}, "frames_per_scene"),
        ({"frames_per_scene": 1.5}, "frames_per_scene: expected whole numbers"),
        ({"num_classes": 13}, "num_classes: expected 1 to 12, found 13"),
        ({"seed": -1}, "seed"),
        ({"objects_per_scene": (4, 2)}, "objects_per_scene"),
        ({"objects_per_scene": (1, 9)}, "objects_per_scene"),
        ({"classes_per_scene": (3, 3)}, "classes_per_scene"),
        ({"distance_m": (0.1, 0.8)}, "distance_m"),
        ({"elevation_deg": (float("nan"), 60.0)}, "elevation_deg"),
        ({"min_visible": 0.0}, "min_visible"),
        ({"image_noise": -1.0}, "image_noise"),
    ],
)
def test_impossible_configurations_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        SyntheticConfig(**change)


def test_extreme_configurations_render():
    small = {"scenes": 2, "frames_per_scene": 1, "width": 64, "height": 48}
    for change in (
        {"objects_per_scene": (8, 8), "classes_per_scene": (8, 8), "num_classes": 12, "prints_per_scene": (0, 0)},
        {"objects_per_scene": (1, 1), "num_classes": 1, "prints_per_scene": (12, 12), "image_noise": 0.0},
        {"horizontal_fov_deg": 90.0, "elevation_deg": (30.0, 30.0), "distance_m": (2.0, 2.0)},
        {"elevation_deg": (85.0, 85.0), "distance_m": (0.4, 0.4)},
    ):
        for frame in render_scenes(SyntheticConfig(**small, **change)):
            assert (frame.pair.depth_mm > 0).mean() > 0.3
