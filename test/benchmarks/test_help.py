"""Each script in `benchmarks/` can be imported and tells its options."""

import pytest
from helpers.scripts import FOLDER, load_script

SCRIPTS = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))
NEEDS = {"collect": "pyrealsense2", "node": "rclpy", "recorder": "rclpy", "strangers": "rclpy"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        load_script(name).main()
    assert ended.value.code == 0 and f"python benchmarks/{name}.py" in capsys.readouterr().out


def test_scripts_are_found() -> None:
    assert "node" in SCRIPTS
