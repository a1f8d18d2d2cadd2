# The names that users may rely on; each is imported when it is first used.
from .depth_noise import StereoCamera, measure_depth
from .recording import SyntheticConfig, SyntheticFrame, render_scenes, write_recording
from .render import Renderer, View
from .tabletop import Tabletop, make_tabletop

__all__ = [
    "Renderer",
    "StereoCamera",
    "SyntheticConfig",
    "SyntheticFrame",
    "Tabletop",
    "View",
    "make_tabletop",
    "measure_depth",
    "render_scenes",
    "write_recording",
]
