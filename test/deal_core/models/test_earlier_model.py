"""Starting from an earlier model: classes by name, new ones fresh, the rest unchanged; every kind of network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.models.backbone import InitialWeights
from deal_core.models.earlier_model import ClassRows, arguments_from, class_changes, class_rows, start_from
from deal_core.models.factory import create_model
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.models.output import SegmenterOutput
from deal_core.structures import ClassList

OLD, NEW = ClassList(("mug", "drill", "box")), ClassList(("box", "kettle", "mug", "bowl"))
VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "cam_net": ("cam_net", {"backbone": "test_resnet", "width": 8}),
    "cam_net on a transformer": (
        "cam_net",
        {"backbone": "vit_tiny_patch16_224", "levels": [-1], "width": 8, "backbone_arguments": VIT},
    ),
    "seam": ("seam", {"backbone": "test_resnet"}),
    "seam without its spare output": ("seam", {"backbone": "test_resnet", "preset": "fixed"}),
    "segmenter": ("segmenter", {"encoder": "test_resnet"}),
    "segmenter with depth": ("segmenter", {"encoder": "test_resnet", "inputs": "rgbd", "decoder": "unet"}),
    "region_mil": ("region_mil", {"backbone": "test_resnet", "members": 2}),
    "weaktr": ("weaktr", {"backbone": "vit_tiny_patch16_224", "backbone_arguments": VIT}),
}


def earlier(name: str, arguments: dict[str, Any], classes: ClassList = OLD, seed: int = 1) -> LoadedModel:
    torch.manual_seed(seed)
    network = create_model(name, len(classes), **arguments)
    with torch.no_grad():
        for tensor in network.state_dict().values():  # zeros and ones would hide what is not copied
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + 0.1)
    info = ModelInfo(name, arguments, classes, (64, 64), Threshold(0.5, "otsu"))
    return LoadedModel(network.eval(), info, sha256="1")


def started(model: LoadedModel, classes: ClassList = NEW) -> tuple[nn.Module, nn.Module]:
    """Return a network that starts from the model, and one with the weights that it had before."""
    networks = []
    for _ in range(2):
        torch.manual_seed(7)
        networks.append(create_model(model.info.architecture, len(classes), **model.info.arguments).eval())
    start_from(networks[0], classes, model, Path("old.safetensors"))
    return networks[0], networks[1]


def class_logits(network: nn.Module, classes: ClassList) -> dict[str, Tensor]:
    """Return the logits of each class, and of what is not a class under the name ""."""
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        if hasattr(network, "of_members"):
            features = (image.flatten(1)[:, : network.width] - network.feature_mean) / network.feature_std
            logits = torch.einsum("nd,ekd->enk", features, network.weight) + network.bias[:, None]
            return dict(zip(("", *classes.names), logits.unbind(-1), strict=True))
        output = network(image)
        if isinstance(output, SegmenterOutput):
            return dict(zip(("", *classes.names), output.logits.unbind(1), strict=True))
        return dict(zip(classes.names, output.cams.unbind(1), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "weaktr"])
def test_logits_of_known_classes_are_as_before(kind: str) -> None:
    model = earlier(*NETWORKS[kind])
    network, fresh = started(model)
    before, after = class_logits(model.network, OLD), class_logits(network, NEW)
    assert set(before) & set(after) >= {"mug", "box"}
    for name in set(before) & set(after):
        # Bit for bit, unless a library sums in another order for another number of outputs.
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-6)
    rows = class_rows(*NETWORKS[kind])
    assert rows
    for tensor, where in rows.items():
        for name in ("kettle", "bowl"):
            index = where.first + NEW.id_of(name) - 1
            ours, untouched = (n.state_dict()[tensor].select(where.axis, index) for n in (network, fresh))
            assert torch.equal(ours, untouched), "a new class starts as in a new network"


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_tensor_is_that_of_the_model_but_for_new_classes(kind: str) -> None:
    model = earlier(*NETWORKS[kind])
    network, _ = started(model)
    rows, theirs = class_rows(*NETWORKS[kind]), model.network.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in rows:
            assert torch.equal(tensor, theirs[name]), name
            continue
        where = rows[name]
        for shared in ("mug", "box"):
            ours = tensor.select(where.axis, where.first + NEW.id_of(shared) - 1)
            assert torch.equal(ours, theirs[name].select(where.axis, where.first + OLD.id_of(shared) - 1))
        for index in range(where.first):
            assert torch.equal(tensor.select(where.axis, index), theirs[name].select(where.axis, index))


def test_class_tokens_of_weaktr_see_each_other_so_its_logits_may_move_a_little() -> None:
    model = earlier(*NETWORKS["weaktr"])
    same = started(model, ClassList(("box", "mug", "drill")))[0]
    before, after = class_logits(model.network, OLD), class_logits(same, ClassList(("box", "mug", "drill")))
    for name in OLD.names:
        torch.testing.assert_close(before[name], after[name])


def test_where_the_classes_of_a_network_are() -> None:
    assert class_rows(*NETWORKS["cam_net"]) == {
        "classifier.weight": ClassRows(0, 0),
        "classifier.bias": ClassRows(0, 0),
    }
    assert class_rows(*NETWORKS["region_mil"]) == {"weight": ClassRows(1, 1), "bias": ClassRows(1, 1)}
    assert class_rows(*NETWORKS["seam"]) == {"classifier.weight": ClassRows(0, 1)}
    assert set(class_rows(*NETWORKS["weaktr"])) >= {"class_tokens", "class_positions", "classifier.weight"}


def test_what_becomes_of_the_classes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    changes = class_changes(OLD, NEW)
    assert (changes.kept, changes.new, changes.dropped) == (("box", "mug"), ("kettle", "bowl"), ("drill",))
    model = earlier(*NETWORKS["cam_net"])
    with caplog.at_level(logging.WARNING):
        network, _ = started(model)
    told = " ".join(caplog.messages)
    assert "dropped: drill" in told and "start fresh: kettle, bowl" in told
    weights = network.backbone.initial_weights
    assert weights == InitialWeights("old.safetensors", len(network.backbone.state_dict()))


# --- arguments


def test_the_network_is_that_of_the_file_and_its_batch_norm_is_frozen() -> None:
    info = earlier("cam_net", {"backbone": "test_resnet", "width": 8, "freeze_batch_norm": False}).info
    path = Path("old.safetensors")
    found = arguments_from(path, info, {})
    assert found == {
        **info.arguments,
        "freeze_batch_norm": True,
        "activation": "relu",
        "mean": found["mean"],
        "std": found["std"],
    }
    assert arguments_from(path, info, {"freeze_batch_norm": None, "weights": "auto"})["freeze_batch_norm"] is True
    assert arguments_from(path, info, {"freeze_batch_norm": False})["freeze_batch_norm"] is False
    assert arguments_from(path, info, {"dropout": 0.3, "width": None})["dropout"] == 0.3
    assert "freeze_batch_norm" not in arguments_from(path, earlier(*NETWORKS["weaktr"]).info, {})


def test_an_argument_that_needs_other_weights_is_refused() -> None:
    info = earlier(*NETWORKS["cam_net"]).info
    with pytest.raises(ConfigError, match=r"old: another network|width is 8 there and 16 here.*model=null"):
        arguments_from(Path("old"), info, {"width": 16})
    with pytest.raises(ConfigError, match=r"weights is hub and init_from is old: both give the first weights"):
        arguments_from(Path("old"), info, {"weights": "hub"})
