"""`deal tag` from the command line: files of tags, the server and its token, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.tagging.store import TagStore

pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra tag)")
WAIT_S = 60
Deal = Callable[..., Any]


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset, tmp_path / "kitchen"))


@pytest.fixture
def serve(dataset: Path) -> Iterator[Callable[..., str]]:
    """Start `deal tag` and return the address that it prints."""
    started = []

    def start(*options: str, folder: Path = dataset) -> str:
        command = [sys.executable, "-m", "training.cli", "tag", str(folder), "--port", "0", *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr
        said = process.stderr.readline()
        assert "open http" in said, said + process.stderr.read()
        return said.partition("open ")[2].split()[0]

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=WAIT_S)[1]
        assert process.returncode == 0 and "all tags are saved" in said, said


def ask(address: str, **headers: str) -> tuple[int, str, Any]:
    """Return the status, the text and the headers of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode("latin-1"), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


@pytest.mark.parametrize("form", ["csv", "coco", "voc", "labelstudio"])
def test_tags_go_out_and_come_back(deal: Deal, dataset: Path, tmp_path: Path, form: str) -> None:
    before = Dataset.open(dataset).tags
    assert deal("tag", dataset, "--export", tmp_path / "tags", "--format", form).returncode == 0
    for file in dataset.glob("recordings/*/frames.jsonl"):
        lines = [{**json.loads(line), "tags": {"present": []}} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = deal("tag", dataset, "--import", tmp_path / "tags", "--format", form)
    assert done.returncode == 0 and f"the tags of {len(before)} frames" in done.stderr
    assert (Dataset.open(dataset).tags == before).all()


def test_only_this_machine_is_answered_without_a_token(serve: Callable[..., str]) -> None:
    address = serve()
    status, text, _ = ask(address)
    assert status == 200 and "deal tag" in text
    assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), "the page asks nothing of other machines"
    assert ask(address, Host="evil.example")[0] == 400
    frames = json.loads(ask(f"{address}frames")[1])
    assert len(frames["frames"]) == len(frames["states"]) == 12
    status, picture, headers = ask(f"{address}thumbnails/11.jpg")
    assert (status, headers["Content-Type"], picture[:2]) == (200, "image/jpeg", "\xff\xd8")
    status, text, _ = ask(f"{address}thumbnails/12.jpg")
    assert status == 404 and "the dataset has 12" in text


def test_others_bring_the_token_that_was_printed(serve: Callable[..., str]) -> None:
    address = serve("--host", "0.0.0.0")
    plain, _, token = address.partition("?token=")
    assert len(token) >= 16 and "0.0.0.0" not in plain
    for wrong in (plain, f"{plain}frames", f"{plain}?token=x", f"{plain}frames?token="):
        assert ask(wrong)[0] == 401
    status, _, headers = ask(address)
    cookie = headers["Set-Cookie"]
    assert status == 200 and "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert ask(f"{plain}frames", Cookie=cookie.partition(";")[0])[0] == 200
    assert ask(f"{plain}frames", Cookie=f"{cookie.partition('=')[0]}=x")[0] == 401


def test_two_pages_on_one_machine_keep_their_cookies_apart(
    serve: Callable[..., str], dataset: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    addresses = [serve("--host", "0.0.0.0"), serve("--host", "0.0.0.0", folder=other)]
    kept: dict[str, str] = {}  # as a browser keeps them, whatever the port
    for address in addresses:
        name, _, value = ask(address)[2]["Set-Cookie"].partition(";")[0].partition("=")
        kept[name] = value
    brought = "; ".join(f"{name}={value}" for name, value in kept.items())
    assert [ask(f"{address.partition('?')[0]}frames", Cookie=brought)[0] for address in addresses] == [200, 200]


def test_a_damaged_image_is_told_and_the_others_are_shown(serve: Callable[..., str], dataset: Path) -> None:
    frame = Dataset.open(dataset).frames[0]
    frame.color.write_bytes(frame.color.read_bytes()[:50])
    address = serve()
    status, text, _ = ask(f"{address}thumbnails/0.jpg")
    assert status == 404 and f"{frame.color.name} is damaged" in text
    assert ask(f"{address}thumbnails/1.jpg")[0] == 200


def test_wrong_use_is_refused_by_name(deal: Deal, dataset: Path, tmp_path: Path) -> None:
    done = deal("tag", tmp_path / "nowhere")
    assert done.returncode == 1 and "is not a dataset" in done.stderr
    done = deal("tag", dataset, "--import", "a", "--export", "b")
    assert done.returncode == 2 and "use one of them" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = deal("tag", dataset, "--port", str(taken.getsockname()[1]))
        assert done.returncode == 2 and "cannot be used" in done.stderr and "--port 0" in done.stderr
    done = deal("tag", dataset, "--host", "no.such.host.invalid")
    assert done.returncode == 2 and "--host no.such.host.invalid" in done.stderr
    with TagStore(dataset):
        done = deal("tag", dataset)
        assert done.returncode == 1 and "is being tagged by process" in done.stderr
    (tmp_path / "tags.csv").write_text("frame,mugg\n")
    done = deal("tag", dataset, "--import", tmp_path / "tags.csv")
    assert done.returncode == 1 and "tags.csv line 1: unknown class 'mugg'" in done.stderr


def test_an_import_tells_what_it_did_and_erases_nothing(deal: Deal, dataset: Path, tmp_path: Path) -> None:
    before = [frame.tags for frame in Dataset.open(dataset).frames]
    first, second = Dataset.open(dataset).frames[:2]
    name = next(n for n in Dataset.open(dataset).classes.names if n not in before[0].present)
    box = {"from_name": "label", "type": "rectanglelabels", "value": {"rectanglelabels": [name]}}
    note = {"from_name": "note", "type": "textarea", "value": {"text": ["blurred"]}}
    tasks = [
        {"data": {"image": first.key}, "annotations": [{"result": [box, note]}]},
        {"data": {"image": second.key}, "annotations": [{"result": [box], "was_cancelled": True}]},
        {"data": {"image": "elsewhere.png"}, "annotations": [{"result": [box]}]},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(tasks))
    done = deal("tag", dataset, "--import", tmp_path / "boxes.json", "--format", "labelstudio")
    assert done.returncode == 0, done.stderr
    assert "read the tags of 2 frames, changed 1, kept 1 (1 of them not annotated)" in done.stderr
    assert "not understood: 1 textarea" in done.stderr and "1 frames are not in the dataset" in done.stderr
    assert "elsewhere.png" in done.stderr
    after = [frame.tags for frame in Dataset.open(dataset).frames]
    assert set(after[0].present) == {*before[0].present, name} and after[1:] == before[1:]


def test_an_export_never_replaces_the_dataset(deal: Deal, dataset: Path) -> None:
    lines = dataset / "recordings" / "tiny" / "frames.jsonl"
    before = lines.read_bytes()
    done = deal("tag", dataset, "--export", lines)
    assert done.returncode == 2 and "would replace what is read" in done.stderr and lines.read_bytes() == before
