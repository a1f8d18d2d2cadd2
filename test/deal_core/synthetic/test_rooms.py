"""The world of rooms: chance, difficulties one by one, poses, and what the recording says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("embreex", reason="embreex (extra 'train') renders the scenes")
pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

from deal_core.errors import ConfigError
from deal_core.structures import TagMarker
from deal_core.synthetic.bodies import CATALOGUE
from deal_core.synthetic.furniture import FLAT_FURNITURE, UNEVEN_FURNITURE, Furniture
from deal_core.synthetic.recording import SyntheticFrame, render_scenes
from deal_core.synthetic.render import Renderer
from deal_core.synthetic.room import Difficulty, Room
from deal_core.synthetic.room_style import Split
from deal_core.synthetic.rooms import RoomsConfig, parse_difficulties
from deal_core.synthetic.scene import CameraPose
from deal_core.synthetic.tag_faults import TagFaults
from deal_core.synthetic.things import Role

SMALL = RoomsConfig(seed=5, scenes=6, frames_per_scene=3, width=160, height=120)


def rooms(count: int = 16, **changes: object) -> list[tuple[Room, list[CameraPose]]]:
    config = replace(SMALL, **changes)
    return [config.make_scene(np.random.default_rng(seed)) for seed in range(count)]


def alone(difficulty: Difficulty | None, count: int = 16) -> list[Room]:
    return [room for room, _ in rooms(count, difficulties=(difficulty,) if difficulty else ())]


@pytest.fixture(scope="module")
def hard_rooms() -> list[Room]:
    return [room for room, _ in rooms(30)]


@pytest.fixture(scope="module")
def frames() -> list[SyntheticFrame]:
    return list(render_scenes(SMALL))


# --- chance ---------------------------------------------------------------------------------------------------------


def same(a: SyntheticFrame, b: SyntheticFrame) -> bool:
    arrays = ((a.pair.color, b.pair.color), (a.pair.depth_mm, b.pair.depth_mm), (a.mask, b.mask))
    return all(np.array_equal(x, y) for x, y in arrays) and a.tags == b.tags and a.pair.stamp_ns == b.pair.stamp_ns


def test_a_room_depends_on_its_seed_and_number_only(frames):
    again = list(render_scenes(replace(SMALL, scenes=1)))
    assert all(same(a, b) for a, b in zip(again, frames, strict=False))
    other = next(render_scenes(replace(SMALL, seed=6, scenes=1)))
    assert not np.array_equal(other.mask, frames[0].mask)


def test_the_splits_have_rooms_of_their_own(frames):
    final = next(render_scenes(replace(SMALL, split=Split.FINAL, scenes=1)))
    assert not np.array_equal(final.mask, frames[0].mask)
    dev, other = ([room for room, _ in rooms(4, split=split)] for split in Split)
    colors = [{m.first for room in each for m in room.materials} for each in (dev, other)]
    assert not colors[0] & colors[1]
    layouts = [[tuple(s.furniture for s in room.stations) for room in each] for each in (dev, other)]
    assert layouts[0] != layouts[1]


# --- geometry -------------------------------------------------------------------------------------------------------


def test_poses_are_right_since_one_view_predicts_the_next(frames):
    """Points of one frame, projected into the next, have the depth seen there, unless something hides them."""
    camera = SMALL.camera
    rows, columns = np.indices((camera.height, camera.width))
    shares = []
    for one, two in pairwise(frames):
        if one.scene != two.scene:
            continue
        z = one.true_depth.astype(np.float64)
        points = np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z, z], axis=-1)
        world = points[z > 0] @ one.rotation.T.astype(np.float64) + one.position
        x, y, depth = ((world - two.position) @ two.rotation.astype(np.float64)).T
        ahead = depth > 0.1
        column = np.rint(x[ahead] / depth[ahead] * camera.fx + camera.cx).astype(int)
        row = np.rint(y[ahead] / depth[ahead] * camera.fy + camera.cy).astype(int)
        inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        seen, expected = two.true_depth[row[inside], column[inside]], depth[ahead][inside]
        hidden = seen < 0.97 * expected
        if (~hidden).sum() > 500:
            shares.append((np.abs(seen - expected)[~hidden] < 0.03 * expected[~hidden]).mean())
    assert len(shares) >= 6
    assert min(shares) > 0.9


def test_nothing_is_below_the_ground(hard_rooms):
    for room in hard_rooms:
        assert room.vertices[:, 2].min() > -1e-4
        for placed in room.objects:
            assert 0.0 <= placed.z + 1e-4 < 2.0


def test_the_camera_stays_in_front_of_the_furniture_and_looks_at_it():
    for room, poses in rooms(8):
        for pose in poses:
            assert 0.2 < pose.position[2] < 2.6
            assert pose.position[1] < room.stations[0].focus[1]
            assert pose.rotation[1, 2] > 0  # towards the wall


@pytest.mark.parametrize("seed", range(3))
def test_stereo_shadows_lie_left_of_near_things_with_the_width_of_the_disparity(seed):
    """Left of a thing the second imager sees no background over f b (1 / near - 1 / far) pixels."""
    config = RoomsConfig(seed=seed, scenes=6, frames_per_scene=1, difficulties=(), width=320, height=240)
    config = replace(config, stereo=replace(config.stereo, edge_jitter_px=0.0, hole_fraction=0.0))
    errors, right = [], []
    for frame in render_scenes(config):
        hole, solid = frame.pair.depth_mm == 0, frame.instances > 0
        for row in range(0, 240, 4):
            for column in np.flatnonzero(solid[row, 1:] & ~solid[row, :-1]) + 1:
                near, far = frame.true_depth[row, column], frame.true_depth[row, column - 1]
                width = config.camera.fx * config.stereo.baseline_m * (1 / near - 1 / far)
                first = column - 1
                while first >= 0 and hole[row, first] and not solid[row, first]:
                    first -= 1
                if width > 2 and column - width > 3 and not solid[row, first]:
                    errors.append(column - 1 - first - width)
            edges = np.flatnonzero(solid[row, :-1] & ~solid[row, 1:])
            right += [bool(hole[row, edge + 1]) for edge in edges if edge < 318]
    # The far side is not at one depth, so single bands differ.
    assert len(errors) > 20
    assert abs(np.median(errors)) <= 1.0
    assert np.mean(right) < 0.2


# --- difficulties ---------------------------------------------------------------------------------------------------


def test_a_plain_room_is_one_table_with_separate_things():
    for room in alone(None):
        assert [station.furniture for station in room.stations] == [Furniture.TABLE]
        assert {placed.role for placed in room.objects} == {Role.THING}
        assert not any(p.touches or p.carrier or p.is_flat or p.on_curved for p in room.objects)
        assert not any(material.match_loss for material in room.materials)


@pytest.mark.parametrize("difficulty", list(Difficulty))
def test_a_difficulty_alone_is_in_the_rooms_and_no_other_is(difficulty):
    found = alone(difficulty)
    objects = [placed for room in found for placed in room.objects]
    furniture = {station.furniture for room in found for station in room.stations}
    share = {
        Difficulty.TOUCHING: np.mean([p.touches > 0 for p in objects]),
        Difficulty.STACKED: np.mean([p.carrier > 0 for p in objects]),
        Difficulty.FLAT: np.mean([p.is_flat for p in objects]),
        Difficulty.CLUTTER: np.mean([p.role is Role.CLUTTER for p in objects]),
        Difficulty.LOOK_ALIKES: np.mean([p.role is Role.LOOK_ALIKE for p in objects]),
        Difficulty.HOLES: np.mean([m.match_loss > 0 for room in found for m in room.materials]),
        Difficulty.NO_PLANE: np.mean([s.furniture in UNEVEN_FURNITURE for room in found for s in room.stations]),
    }
    for other, value in share.items():
        # Things cannot touch or be stacked in every room: there is not always one of another class.
        assert value > 0.15 if other is difficulty else value == 0.0, other
    if difficulty is not Difficulty.NO_PLANE:
        assert furniture == {Furniture.TABLE}


def test_touching_and_stacked_things_are_of_different_classes():
    for difficulty in (Difficulty.TOUCHING, Difficulty.STACKED):
        for room in alone(difficulty):
            for placed in room.objects:
                other = placed.touches or placed.carrier
                assert not other or room.objects[other - 1].class_id != placed.class_id


def test_small_things_are_far_away_and_small():
    sizes = {}
    for difficulties in ((), (Difficulty.SMALL,)):
        config = replace(SMALL, difficulties=difficulties)
        shares = [
            float((frame.instances == index).mean())
            for frame in render_scenes(config)
            for index in np.unique(frame.instances)[1:]
        ]
        sizes[difficulties] = np.median(shares)
    assert sizes[(Difficulty.SMALL,)] < 0.6 * sizes[()]
    assert 0.002 < sizes[(Difficulty.SMALL,)] < 0.01
    assert 0.007 < sizes[()] < 0.04


def plane_share(frame: SyntheticFrame, seed: int = 0) -> float:
    """Return the share of the image within 8 mm + 6 mm z^2 of the largest of 60 random planes."""
    camera, rng = SMALL.camera, np.random.default_rng(seed)
    rows, columns = np.indices(frame.true_depth.shape)
    z = frame.true_depth.astype(np.float64)
    points = np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z, z], axis=-1)
    points = points[::4, ::4].reshape(-1, 3)
    points = points[points[:, 2] > 0]
    best = 0.0
    for _ in range(60):
        a, b, c = points[rng.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        if np.linalg.norm(normal) > 1e-9:
            off = np.abs((points - a) @ normal) / np.linalg.norm(normal)
            best = max(best, float((off < 0.008 + 0.006 * points[:, 2] ** 2).mean()))
    return best


def test_without_a_plane_no_plane_dominates():
    share = {
        difficulties: np.mean([plane_share(f) for f in render_scenes(replace(SMALL, difficulties=difficulties))])
        for difficulties in ((), (Difficulty.NO_PLANE,))
    }
    assert share[()] > 0.35
    assert share[(Difficulty.NO_PLANE,)] < 0.22


def test_holes_ring_near_things_as_on_a_real_camera():
    """RealSense frames lack depth at 4 to 28 % of their pixels, and at 35 to 85 % of the rings around near things."""
    shares = {}
    for difficulties in ((), (Difficulty.HOLES,)):
        config = replace(SMALL, scenes=8, frames_per_scene=2, difficulties=difficulties)
        holes, rings = [], []
        for frame in render_scenes(config):
            holes.append(float((frame.pair.depth_mm == 0).mean()))
            solid = (frame.instances > 0) & (frame.true_depth < 1.2)
            ring = np.zeros_like(solid)
            ring[:, :-1] |= solid[:, 1:]
            ring[:, 1:] |= solid[:, :-1]
            ring &= frame.instances == 0
            rings.append(float((frame.pair.depth_mm[ring] == 0).mean()))
        shares[difficulties] = np.mean(holes), np.mean(rings)
    assert shares[()][0] < 0.06
    assert 0.08 < shares[(Difficulty.HOLES,)][0] < 0.28
    assert shares[(Difficulty.HOLES,)][1] > max(0.35, 1.2 * shares[()][1])


def test_dark_and_shiny_surfaces_are_seen_where_they_are():
    config = replace(SMALL, difficulties=(Difficulty.HOLES,))
    room, poses = config.make_scene(np.random.default_rng(1))
    view = Renderer(room, config.camera).view(poses[0], config.stereo.baseline_m)
    losses = {0: set(), **{n: set() for n in range(1, len(room.objects) + 1)}}
    for material, owner in zip(room.face_material, room.face_object, strict=True):
        losses[int(owner)].add(round(room.materials[material].match_loss, 5))
    for index in np.unique(view.instance):
        seen = {round(float(loss), 5) for loss in np.unique(view.match_loss[view.instance == index])}
        assert seen <= losses[int(index)]
    assert view.match_loss.max() > 0


def test_all_difficulties_give_rooms_with_and_without_planes(hard_rooms):
    uneven = np.mean([all(s.furniture in UNEVEN_FURNITURE for s in room.stations) for room in hard_rooms])
    assert 0.3 < uneven < 0.7
    assert all(len(room.stations) == 2 for room in hard_rooms)
    kinds = {station.furniture for room in hard_rooms for station in room.stations}
    assert kinds == {*FLAT_FURNITURE, *UNEVEN_FURNITURE}
    assert {placed.role for room in hard_rooms for placed in room.objects} == set(Role)


# --- classes and tags -----------------------------------------------------------------------------------------------


def test_tags_follow_from_the_mask_and_clutter_has_none(frames):
    names = SMALL.classes.names
    for frame in frames:
        share = {name: float((frame.mask == i + 1).mean()) for i, name in enumerate(names)}
        assert set(frame.tags.present) == {name for name, s in share.items() if s >= SMALL.min_visible}
        assert frame.tags.marker is TagMarker.COMPLETE
        assert not (frame.part & (frame.mask == 0)).any()
    assert any(((frame.mask == 0) & (frame.instances > 0)).any() for frame in frames)


def test_every_class_is_present_in_some_rooms_and_absent_in_others(hard_rooms):
    present = np.array([[k in {p.class_id for p in room.objects} for k in range(1, 7)] for room in hard_rooms])
    assert (present.mean(axis=0) > 0.2).all()
    assert (present.mean(axis=0) < 0.9).all()


def test_colours_of_a_class_vary_and_are_shared_with_other_classes():
    """The colour of a part does not tell its class: every class has parts of several hues that others have, too."""
    config = replace(SMALL, difficulties=())
    firsts: dict[int, list[np.ndarray]] = {}
    for seed in range(80):
        room, _ = config.make_scene(np.random.default_rng(seed))
        for index, placed in enumerate(room.objects, 1):
            face = np.flatnonzero((room.face_object == index) & room.face_is_part)[0]
            firsts.setdefault(placed.class_id, []).append(np.array(room.materials[room.face_material[face]].first))
    for class_id, colors in firsts.items():
        others = np.array([color for k, found in firsts.items() if k != class_id for color in found])
        nearest = [float(np.abs(others - color).max(axis=1).min()) for color in colors]
        assert np.ptp(np.array(colors), axis=0).max() > 0.5
        assert np.mean(np.array(nearest) < 0.12) > 0.25


def test_classes_of_flat_things_come_with_the_difficulty():
    names = replace(SMALL, num_classes=12).classes.names
    assert names[:6] == ("mug", "jar", "book", "kettle", "thermos", "plate")
    assert {"ruler", "knife"} < set(names)
    without = replace(SMALL, num_classes=12, difficulties=())
    assert without.classes.names == tuple(kind.name for kind in CATALOGUE)


def test_co_occurring_classes_are_nearly_always_together():
    found = [room for room, _ in rooms(60, tag_faults=TagFaults(co_occurring=True), difficulties=())]
    either = [{1, 2} & {p.class_id for p in room.objects} for room in found]
    both = np.mean([len(pair) == 2 for pair in either if pair])
    apart = [{1, 2} & {p.class_id for p in room.objects} for room in alone(None, 60)]
    assert both > 0.8
    assert np.mean([len(pair) == 2 for pair in apart if pair]) < 0.6


def test_faulty_tags_leave_images_and_masks_as_they_are(frames):
    faulty = list(render_scenes(replace(SMALL, scenes=2, tag_faults=TagFaults(wrong=0.5, partial=0.3))))
    for one, two in zip(faulty, frames, strict=False):
        assert np.array_equal(one.pair.color, two.pair.color)
        assert np.array_equal(one.mask, two.mask)
    assert any(one.tags != two.tags for one, two in zip(faulty, frames, strict=False))


# --- settings -------------------------------------------------------------------------------------------------------


def test_texts_give_difficulties():
    assert parse_difficulties("all") == tuple(Difficulty)
    assert parse_difficulties("none") == ()
    assert parse_difficulties("touching, no-plane") == (Difficulty.TOUCHING, Difficulty.NO_PLANE)


@pytest.mark.parametrize("text", ["hard", "touching,,clutter", "", "all,touching"])
def test_unknown_difficulties_are_named(text):
    with pytest.raises(ConfigError, match="does not exist: expected all, none, or some of touching, clutter"):
        parse_difficulties(text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 8}, "width: expected 32 to 1920, found 8"),
        ({"scenes": 0}, "scenes"),
        ({"num_classes": 13}, "num_classes: expected 1 to 12, found 13"),
        ({"difficulties": (Difficulty.HOLES, Difficulty.HOLES)}, "expected each at most once"),
        ({"horizontal_fov_deg": float("nan")}, "horizontal_fov_deg"),
        ({"min_visible": 0.0}, "min_visible"),
    ],
)
def test_impossible_settings_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        RoomsConfig(**change)


def test_extreme_settings_render():
    tiny = {"scenes": 1, "frames_per_scene": 1, "width": 64, "height": 48}
    for change in (
        {"num_classes": 1},
        {"num_classes": 12, "split": Split.FINAL},
        {"horizontal_fov_deg": 90.0},
        {"horizontal_fov_deg": 20.0, "difficulties": (Difficulty.NO_PLANE, Difficulty.SMALL)},
    ):
        frame = next(render_scenes(RoomsConfig(**tiny, **change)))
        assert (frame.pair.depth_mm > 0).mean() > 0.3
        assert 25 < frame.pair.color.mean() < 225
