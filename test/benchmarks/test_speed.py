"""The speed benchmark compares like with like: both ways to compute a case agree, and the script makes its table."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.scripts import load_script

SPEED = load_script("speed")


@pytest.mark.parametrize("name", SPEED.CASES)
def test_package_and_straightforward_formulation_agree(name: str) -> None:
    ours, plain = (getattr(SPEED.CASES[name].build(SPEED.QUICK), variant)() for variant in SPEED.VARIANTS)
    assert len(ours) == len(plain) and any(value.any() for value in ours)
    for first, second in zip(ours, plain, strict=True):
        scale = float(second.abs().max())
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-3 * scale + 1e-12)


@pytest.mark.parametrize("name", [name for name, case in SPEED.CASES.items() if case.has_bf16])
def test_bfloat16_is_near(name: str) -> None:
    work = SPEED.CASES[name].build(SPEED.QUICK)
    half, exact = work.bf16(), work.package()
    assert SPEED.relative_error(half, exact) > 0
    # The first result is the map or the loss. Gradients of SEAM with random weights jump with the mined entries.
    assert SPEED.relative_error(half[:1], exact[:1]) < 0.1


@pytest.mark.slow
def test_the_script_measures_each_variant_apart_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--cases", "weaktr-cam", "--out", str(tmp_path)])
    SPEED.main()
    record = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    (row,) = record["cases"]
    for variant in (*SPEED.VARIANTS, SPEED.BF16):
        assert len(row[variant]["cpu_s"]) == 1 and row[variant]["peak_mib"] >= row[variant]["start_mib"] > 0
    printed = capsys.readouterr().out
    assert row["title"] in printed
    assert printed.strip() == (tmp_path / "speed.md").read_text(encoding="utf-8").strip()
