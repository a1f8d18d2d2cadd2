# The names that users may rely on; each is imported when it is first used.
from .depth_noise import MatchFailures, StereoCamera, find_match_failures, measure_depth
from .recording import SyntheticConfig, SyntheticFrame, render_scenes, write_recording
from .render import Renderer, View
from .room import Difficulty
from .room_style import Split
from .rooms import RoomsConfig
from .scene import Scene
from .tabletop import Tabletop, make_tabletop
from .tag_faults import TagFaults
from .world import World

__all__ = [
    "Difficulty",
    "MatchFailures",
    "Renderer",
    "RoomsConfig",
    "Scene",
    "Split",
    "StereoCamera",
    "SyntheticConfig",
    "SyntheticFrame",
    "Tabletop",
    "TagFaults",
    "View",
    "World",
    "find_match_failures",
    "make_tabletop",
    "measure_depth",
    "render_scenes",
    "write_recording",
]
