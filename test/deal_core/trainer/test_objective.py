"""What is minimised: its parts add up, each network's maps are reached, and unknown things give no gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError
from deal_core.losses.activation import activate
from deal_core.losses.feature_similarity import feature_similarity_loss
from deal_core.losses.tags import tag_loss
from deal_core.models.factory import create_model
from deal_core.settings_file import load_settings
from deal_core.trainer.objective import LossWeights, Objective
from deal_core.trainer.settings import TrainSettings

NAN = float("nan")
NETWORKS: dict[str, dict[str, Any]] = {
    "cam_net": {"backbone": "test_resnet", "width": 8},
    "weaktr": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_arguments": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": [32, 48]},
    },
    "seam": {"backbone": "resnet10t", "backbone_arguments": {"channels": [8, 16, 24, 32], "stem_width": 8}},
}


def make_settings(*overrides: str) -> TrainSettings:
    return load_settings(TrainSettings, None, ["data.path=x", "output=y", "data.image_size=[32, 48]", *overrides])


def make_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = create_model(name, 3, **NETWORKS[name]).eval()
    with torch.no_grad():  # CAMs as strong as those of a trained network: the losses take faint ones for flat
        network.classifier.weight *= 30
    return network


@pytest.fixture
def batch() -> TensorSample:
    torch.manual_seed(1)
    depth = torch.rand(4, 1, 32, 48) + 0.5
    depth[:, :, 8:20, 10:30] -= 0.3
    tags = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
    return TensorSample(torch.rand(4, 3, 32, 48), depth, depth > 0.3, tags)


def gradients(objective: Objective, batch: TensorSample, **weights: float) -> dict[str, Tensor]:
    objective.zero_grad()
    objective(batch, LossWeights(**weights))["loss"].backward()
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_with_negative_logits_everywhere_keeps_its_map_and_its_gradient(name: str, batch: TensorSample) -> None:
    """As those of a class in a tenth of the images are."""
    torch.manual_seed(0)
    given = {"seam": {"preset": "fixed"}, "weaktr": {"activation": "above_mean"}}.get(name, {})
    network = create_model(name, 3, **NETWORKS[name], **given).eval()
    with torch.no_grad():
        network.classifier.weight *= 30
        features = network(batch.image).cams
        if network.classifier.bias is None:  # SEAM: its features are not negative
            network.classifier.weight.copy_(-network.classifier.weight.abs() - 0.05)
        else:
            network.classifier.bias -= features.amax() + 1
    output = network(batch.image)
    assert output.cams.amax() < 0
    assert (activate(output.cams, output.activated).amax(dim=(-2, -1)) > 0).all()
    assert (output.activation.amax(dim=(1, 2, 3)) > 0).all()
    published = Objective(network, make_settings("deal.cam_value=relu_max"))(batch, LossWeights(deal=1.0))
    assert published["loss_deal"] == published["deal_flat"], "ReLU leaves nothing to align"
    ours = Objective(network, make_settings())
    tags = gradients(ours, batch)
    both = gradients(ours, batch, deal=1.0)
    moved = {n for n in both if not torch.equal(both[n], tags.get(n, torch.zeros_like(both[n])))}
    assert any(n.startswith("network.classifier") for n in moved)
    assert any(n.startswith("network.backbone") for n in moved)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_total_is_made_of_its_parts(name: str, batch: TensorSample) -> None:
    objective = Objective(make_network(name), make_settings())
    losses = objective(batch, LossWeights(deal=0.5, isl=0.2, fsl=2.0))
    assert next(iter(losses)) == "loss" and all(v.ndim == 0 for v in losses.values())
    assert not losses["deal_flat"].requires_grad
    values = {name: float(value.detach()) for name, value in losses.items()}
    own = sum(values.get(f"loss_{part}", 0.0) for part in ("tags", "er", "ecr", "rvmin"))
    assert values["loss"] == pytest.approx(own + 0.5 * values["loss_deal"] + 2 * values["loss_fsl"], rel=1e-5)
    assert -1 <= values["loss_deal"] <= 1 and -1 <= values["deal_flat"] <= 1
    assert ("loss_ecr" in values) is (name == "seam")


def test_the_tag_loss_is_the_mean_over_the_views_of_the_sum_over_the_heads(batch: TensorSample) -> None:
    for name in NETWORKS:
        network = make_network(name)
        losses = Objective(network, make_settings())(batch, LossWeights())
        views = [network(batch.image)]
        if name == "seam":
            views.append(network.consistency(batch.image, batch.tags, views[0]).second)
        by_view = [
            sum(float(tag_loss(head, batch.tags).detach()) for head in view.tag_logits.values()) for view in views
        ]
        assert float(losses["loss_tags"].detach()) == pytest.approx(sum(by_view) / len(by_view), rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_isl_takes_over_its_share_of_the_raw_cams_head(name: str, batch: TensorSample) -> None:
    network = make_network(name)
    objective = Objective(network, make_settings("isl.samples=4000"))
    plain, all_isl = (float(objective(batch, LossWeights(isl=w))["loss_tags"].detach()) for w in (0.0, 1.0))
    # With very many samples it is the expectation over cells, which a sum over the grid gives.
    first = network(batch.image)
    with torch.no_grad():
        chance = first.cams.sigmoid().flatten(2) + 1e-5
        target = batch.tags[..., None]
        cells = -(
            target * first.cams.flatten(2).sigmoid().log() + (1 - target) * (-first.cams.flatten(2)).sigmoid().log()
        )
        expected = float((chance / chance.sum(-1, keepdim=True) * cells).sum(-1).mean())
        pooled = float(tag_loss(first.tag_logits[first.cam_head], batch.tags))
    views = 2 if name == "seam" else 1
    assert all_isl - plain == pytest.approx((expected - pooled) / views, abs=0.03)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("through_backbone", [True, False])
def test_losses_act_on_the_map_they_are_told(name: str, through_backbone: bool, batch: TensorSample) -> None:
    network = make_network(name)
    for place, map_name in enumerate(network(batch.image).maps):
        group = f"map={map_name}", f"through_backbone={str(through_backbone).lower()}"
        settings = make_settings(*(f"{loss}.{option}" for loss in ("deal", "fsl") for option in group))
        objective = Objective(network, settings)
        output = network(batch.image)
        cams = output.map(map_name, through_backbone)
        assert torch.allclose(cams, output.map(map_name, not through_backbone), atol=1e-6)
        assert place or torch.allclose(cams, output.cams, atol=1e-6)
        losses = objective(batch, LossWeights(deal=1.0, fsl=1.0))
        terms = objective.alignment.terms(cams, batch.depth, batch.tags, batch.valid, corners=output.corners)
        assert losses["loss_deal"].item() == pytest.approx(terms.loss.item(), abs=1e-5)
        similar = feature_similarity_loss(cams, batch.image, batch.tags, sigma=40 / output.stride)
        assert float(losses["loss_fsl"]) == pytest.approx(float(similar), abs=1e-5)
        plain = gradients(objective, batch)
        for weights in ({"deal": 1.0}, {"fsl": 30.0}):
            found = gradients(objective, batch, **weights)
            moved = {n for n in found if not torch.allclose(found[n], plain.get(n, torch.zeros(())), atol=1e-9)}
            assert moved, "the loss trains something"
            assert any(n.startswith("network.backbone.") for n in moved) is through_backbone


def test_a_map_that_the_network_does_not_have_is_named() -> None:
    output = make_network("weaktr")(torch.zeros(1, 3, 32, 48))
    with pytest.raises(ConfigError, match=r"no map 'fien'.*coarse, fused, fine.*Did you mean 'fine'"):
        output.map("fien")


def test_depth_matters_when_and_only_when_the_edge_loss_has_weight(batch: TensorSample) -> None:
    objective = Objective(make_network("cam_net"), make_settings())
    other_depth = TensorSample(batch.image, batch.depth.flip(-1) ** 2 + 0.1, torch.ones_like(batch.valid), batch.tags)
    without, with_loss = (gradients(objective, batch, deal=w) for w in (0.0, 1.0))
    assert all(torch.equal(g, without[n]) for n, g in gradients(objective, other_depth).items())
    assert any(not torch.allclose(g, without[n]) for n, g in with_loss.items())
    assert any(not torch.allclose(g, with_loss[n]) for n, g in gradients(objective, other_depth, deal=1.0).items())


def test_a_batch_without_any_valid_depth_trains_on_tags_alone(batch: TensorSample) -> None:
    objective = Objective(make_network("cam_net"), make_settings())
    blind = TensorSample(batch.image, torch.zeros_like(batch.depth), torch.zeros_like(batch.valid), batch.tags)
    losses = objective(blind, LossWeights(deal=1.0))
    assert float(losses["loss_deal"].detach()) == 0 and math.isfinite(float(losses["loss"].detach()))
    blind_gradients, plain = gradients(objective, blind, deal=1.0), gradients(objective, batch)
    for name, gradient in blind_gradients.items():
        assert torch.isfinite(gradient).all() and torch.allclose(gradient, plain[name], atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_unknown_tags_give_finite_gradients_and_none_to_their_class(name: str, batch: TensorSample) -> None:
    tags = torch.tensor([[NAN, 1.0, NAN], [NAN, NAN, 0.0], [NAN, 0.0, 1.0], [NAN, NAN, NAN]])
    partial = TensorSample(batch.image, batch.depth, batch.valid, tags)
    objective = Objective(make_network(name), make_settings())
    result = gradients(objective, partial, deal=1.0, isl=0.2, fsl=1.0)
    assert all(torch.isfinite(g).all() for g in result.values())
    if name == "cam_net":
        assert not result["network.classifier.weight"][0].any() and result["network.classifier.weight"][1:].any()
    unknown = TensorSample(batch.image, batch.depth, batch.valid, torch.full((4, 3), NAN))
    losses = objective(unknown, LossWeights(deal=1.0, isl=0.2, fsl=1.0))
    assert float(losses["loss_tags"].detach()) == 0 and float(losses["loss_deal"].detach()) == 0
    assert math.isfinite(float(losses["loss"].detach()))


def test_depth_kind_reaches_the_edge_loss(batch: TensorSample) -> None:
    network = make_network("cam_net")
    inverse = TensorSample(batch.image, 3.0 / batch.depth, batch.valid, batch.tags)
    metric = Objective(network, make_settings(), "metric")(batch, LossWeights(deal=1.0))
    relative = Objective(network, make_settings(), "inverse")(inverse, LossWeights(deal=1.0))
    assert float(metric["loss_deal"].detach()) == pytest.approx(float(relative["loss_deal"].detach()), abs=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_on_the_gpu_losses_and_gradients_are_those_of_the_cpu(name: str, batch: TensorSample) -> None:
    weights = {"deal": 0.5, "fsl": 2.0}  # isl draws random cells, others on each device

    def found_on(device: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        objective = Objective(make_network(name), make_settings()).to(device)
        there = batch.map(lambda part: part.to(device))
        losses = objective(there, LossWeights(**weights))
        return {n: float(v) for n, v in losses.items()}, gradients(objective, there, **weights)

    ours, ours_slopes = found_on("cpu")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        theirs, theirs_slopes = found_on("cuda")
    assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-4)
    assert ours_slopes.keys() == theirs_slopes.keys()
    one, two = (torch.cat([s.flatten().cpu() for s in slopes.values()]) for slopes in (ours_slopes, theirs_slopes))
    assert float((one - two).norm() / one.norm()) < 0.01
