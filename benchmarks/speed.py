"""How fast, and in how much memory: the package beside the same computed the straightforward way, on one thread.

    python benchmarks/speed.py --out bench_speed
    python benchmarks/speed.py --out bench_speed --cases fsl deal sweep
    python benchmarks/speed.py --out bench_speed --quick    # tiny sizes, to see that everything runs

Straightforward is what the formula says, operation by operation, with the same weights and the same results; networks
and optimisers as their authors' code runs them. Some rows have the package in bfloat16, too, with its relative error:
the norm of the difference of all results, gradients included, by the norm of these, with random weights.

Each measurement has a process of its own, so that its peak memory is its own, and is CPU seconds (median), so that it
means something on a machine that others use. Prints a table; speed.md and speed.json in the output folder hold it too.
About 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from _processes import peak_mib
from torch import Tensor, nn

from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.losses.depth_edge import DepthEdgeAlignmentLoss
from deal_core.losses.equivariance import (
    equivariant_cross_regularization_loss,
    equivariant_regularization_loss,
)
from deal_core.losses.feature_similarity import feature_similarity_loss
from deal_core.losses.importance_sampling import importance_sampling_loss
from deal_core.losses.tags import tag_loss
from deal_core.masks.class_scores import multi_scale_scores

if TYPE_CHECKING:
    from deal_core.models.seam import Seam
    from deal_core.models.weaktr import WeakTr

VARIANTS = ("package", "plain")
BF16 = "bf16"
RATE = 0.0  # all steps are made, and each has the weights of the first
ROUNDS = 2  # package, plain, package, plain: what the machine does meanwhile falls on both

Step = Callable[[], Sequence[Tensor]]
"""Does the work once; returns what both variants must agree on."""


@dataclass(frozen=True)
class Work:
    """The same work twice, and the package's in bfloat16 where it is an option."""

    package: Step
    plain: Step
    bf16: Step | None = None


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the values are those of the published trainings on VOC, at a crop of 224."""

    classes: int = 20
    image: int = 224
    photo: tuple[int, int] = (375, 500)
    cells: int = 56
    pixels: int = 448
    second_view: int = 134
    photos: int = 4
    vit: dict[str, Any] = field(default_factory=lambda: {"backbone": "deit_small_patch16_224"})
    convolutional: str = "resnet38"


QUICK = Sizes(
    classes=4,
    image=48,
    photo=(45, 60),
    cells=9,
    pixels=48,
    second_view=14,
    photos=2,
    vit={
        "backbone": "vit_tiny_patch16_224",
        "backbone_arguments": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    },
    convolutional="test_resnet",
)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    title: str
    build: Callable[[Sizes], Work]
    repeats: int
    has_bf16: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        """The ways to compute it."""
        return (*VARIANTS, BF16) if self.has_bf16 else VARIANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_speed"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="rows to measure; all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once")
    parser.add_argument(
        "--run", choices=(*VARIANTS, BF16), help="measure one variant of one case here, and print it as JSON"
    )
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measure(CASES[arguments.cases[0]], arguments.run, arguments.quick)))
        return
    rows = [measure_apart(name, arguments.quick) for name in arguments.cases]
    capability = torch.backends.cpu.get_cpu_capability()
    record = {
        "machine": f"{platform.machine()} ({capability}), {os.cpu_count()} cores, torch {torch.__version__}, 1 thread",
        "load": os.getloadavg()[0],
        "quick": arguments.quick,
        "cases": rows,
    }
    text = table(rows, str(record["machine"]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "speed.md").write_text(text, encoding="utf-8")
    (arguments.out / "speed.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    print(text)


def measure(case: Case, variant: str, quick: bool) -> dict[str, Any]:
    """Return CPU seconds of each repetition, after one that is not counted, and memory in MiB."""
    torch.set_num_threads(1)
    work = case.build(QUICK if quick else Sizes())
    step: Step = getattr(work, variant)
    before = peak_mib()
    step()
    seconds = []
    for _ in range(1 if quick else case.repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    peak = peak_mib()
    error = relative_error(step(), work.package()) if variant == BF16 else 0.0
    return {"cpu_s": seconds, "peak_mib": peak, "start_mib": before, "error": error}


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all differences by that of all exact values."""
    ours, theirs = (torch.cat([value.flatten().double() for value in values]) for values in (found, exact))
    return float((ours - theirs).norm() / theirs.norm())


def measure_apart(name: str, quick: bool) -> dict[str, Any]:
    """Measure both variants of a case in turn, in processes of their own."""
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in CASES[name].variants}
    for _ in range(1 if quick else ROUNDS):
        for variant, measured in found.items():
            command = [sys.executable, __file__, "--cases", name, "--run", variant, *(["--quick"] if quick else [])]
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
            ).stdout
            measured.append(json.loads(output.splitlines()[-1]))
            print(f"{name}, {variant}: {statistics.median(measured[-1]['cpu_s']):.4f} s", file=sys.stderr)
    return {
        "name": name,
        "title": CASES[name].title,
        **{
            variant: {
                "cpu_s": [second for run in runs for second in run["cpu_s"]],
                "peak_mib": max(run["peak_mib"] for run in runs),
                "start_mib": min(run["start_mib"] for run in runs),
                "error": max(run["error"] for run in runs),
            }
            for variant, runs in found.items()
        },
    }


def table(rows: Sequence[dict[str, Any]], machine: str) -> str:
    """Return the table of all rows."""
    lines = [
        f"CPU seconds, median; peak memory of the process in MiB, in brackets what of it the work added. {machine}",
        "",
        "| what | package | straightforward | ratio | bfloat16, ratio, error | package, MiB | straightforward, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, plain = (statistics.median(row[variant]["cpu_s"]) for variant in VARIANTS)
        memory = [f"{row[v]['peak_mib']:.0f} (+{row[v]['peak_mib'] - row[v]['start_mib']:.0f})" for v in VARIANTS]
        half = ""
        if BF16 in row:
            seconds = statistics.median(row[BF16]["cpu_s"])
            half = f"{seconds:.3g}, {seconds / plain:.2f}, {row[BF16]['error']:.1e}"
        lines.append(
            f"| {row['title']} | {ours:.3g} | {plain:.3g} | {ours / plain:.2f} | {half} | {memory[0]} | {memory[1]} |"
        )
    return "\n".join(lines) + "\n"


# WeakTr ----------------------------------------------------------------------------------------------------------


def make_weaktr(sizes: Sizes) -> WeakTr:
    from deal_core.models.weaktr import WeakTr  # here, since timm would add its memory to the other rows

    torch.manual_seed(0)
    return WeakTr(sizes.classes, **sizes.vit)


def weaktr_training(sizes: Sizes) -> Work:
    network = make_weaktr(sizes).train()
    plain_optimizer, optimizer = (
        torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.03, fused=fused) for fused in (None, True)
    )
    image, tags = torch.rand(2, 3, sizes.image, sizes.image), some_tags(sizes)

    def package() -> Tensor:
        return torch.stack([tag_loss(logits, tags) for logits in network(image).tag_logits.values()]).sum()

    def plain() -> Tensor:
        tokens, coarse, fine = plain_weaktr(network, image)
        heads = (tokens, coarse.mean(dim=(2, 3)), fine.mean(dim=(2, 3)))
        return torch.stack([F.multilabel_soft_margin_loss(logits, tags) for logits in heads]).sum()

    return Work(
        training_step(network, optimizer, package),
        training_step(network, plain_optimizer, plain),
        in_bfloat16(training_step(network, optimizer, package)),
    )


def in_bfloat16(step: Step) -> Step:
    """Return the step under autocast, as `precision=bf16-mixed` and `--precision bf16` run it."""
    return torch.autocast("cpu", torch.bfloat16)(step)


def weaktr_cams(sizes: Sizes) -> Work:
    network, photo = make_weaktr(sizes).eval(), torch.rand(1, 3, *sizes.photo)
    whole = _whole_patches(network, photo)
    package = torch.no_grad()(lambda: [network(photo).refined])
    return Work(package, torch.no_grad()(lambda: [plain_weaktr(network, whole)[2]]), in_bfloat16(package))


def _whole_patches(network: WeakTr, image: Tensor) -> Tensor:
    """Return the image at the nearest size of whole patches, as the network sees it."""
    size = [max(round(side / network.patch_size), 1) * network.patch_size for side in image.shape[2:]]
    return image if size == list(image.shape[2:]) else F.interpolate(image, size, mode="bilinear")


def weaktr_recipe(sizes: Sizes) -> Work:
    network, photo = make_weaktr(sizes).eval(), torch.rand(1, 3, *sizes.photo)
    tags, scales = some_tags(sizes)[:1], (1.0, 1.2)

    @torch.no_grad()
    def package() -> list[Tensor]:
        return [multi_scale_scores(network, photo, tags=tags, scales=scales, flip=True)]

    @torch.no_grad()
    def plain() -> list[Tensor]:
        maps = []
        for scale in scales:
            size = [round(side * scale) for side in sizes.photo]
            scaled = F.interpolate(photo, size, mode="bicubic", antialias=True).clamp(0, 1) if scale != 1 else photo
            scaled = _whole_patches(network, scaled)
            for mirrored in (False, True):
                fine = plain_weaktr(network, scaled.flip(3) if mirrored else scaled)[2]
                fine = F.interpolate(fine, sizes.photo, mode="bilinear") * tags[:, :, None, None]
                maps.append(fine.flip(3) if mirrored else fine)
        total = torch.stack(maps).sum(0)
        return [total / total.amax(dim=(2, 3), keepdim=True).clamp_min(1e-30)]

    return Work(package, plain, in_bfloat16(package))


def plain_weaktr(network: WeakTr, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return class logits, S and F: the attention of all layers and heads in one stack, weighted, averaged."""
    classes, body = network.num_classes, network.backbone
    patches = body.patch_embed.proj(network.normalise_colours(image))
    h, w = patches.shape[2:]
    tokens = patches.flatten(2).transpose(1, 2) + body.positions_at((h, w))
    tokens = torch.cat([(network.class_tokens + network.class_positions).expand(len(image), -1, -1), tokens], dim=1)
    all_attention, all_branches = [], []
    for block in body.blocks:
        branch, probabilities = plain_attention(block.attn, block.norm1(tokens))
        tokens = tokens + block.drop_path1(branch)
        tokens = tokens + block.drop_path2(block.mlp(block.norm2(tokens)))
        all_attention.append(probabilities)
        all_branches.append(branch)
    coarse = network.classifier(tokens[:, classes:].transpose(1, 2).unflatten(2, (h, w)))
    branches = torch.stack(all_branches).detach()  # (L, B, T, D)
    attention = torch.stack(all_attention).detach()  # (L, B, heads, T, T)
    fusion = network.fusion
    features = branches.unflatten(-1, (-1, fusion.heads)).permute(1, 4, 0, 2, 3).amax(dim=3)  # (B, heads, L, D / heads)
    weights = fusion.excite(fusion.squeeze(features).flatten(1))
    weighted = attention.permute(1, 2, 0, 3, 4).flatten(1, 2) * weights[:, :, None, None]  # (B, heads * L, T, T)
    cross = weighted.mean(dim=1)[:, :classes, classes:]
    affinity = weighted.mean(dim=1)[:, classes:, classes:]
    fused = cross * coarse.detach().relu().flatten(2)
    fine = (affinity @ fused.transpose(1, 2)).transpose(1, 2)
    return tokens[:, :classes].mean(dim=2), coarse, fine.unflatten(2, (h, w))


def plain_attention(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output of self-attention and its probabilities, as a ViT that keeps them computes both."""
    batch, count, dim = tokens.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(tokens).reshape(batch, count, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    probabilities = (q @ k.transpose(-2, -1) * (dim // heads) ** -0.5).softmax(dim=-1)
    return attention.proj((probabilities @ v).transpose(1, 2).reshape(batch, count, dim)), probabilities


# SEAM ------------------------------------------------------------------------------------------------------------


def make_seam(sizes: Sizes) -> Seam:
    from deal_core.models.seam import Seam

    torch.manual_seed(0)
    network = Seam(sizes.classes, sizes.convolutional)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # in bfloat16 other channels would be drawn
    return network


def seam_training(sizes: Sizes) -> Work:
    network = make_seam(sizes).train()
    trained = [p for p in network.parameters() if p.requires_grad]
    plain_optimizer, optimizer = (torch.optim.SGD(trained, lr=RATE, momentum=0.9, fused=f) for f in (None, True))
    image, tags = torch.rand(2, 3, sizes.image, sizes.image), some_tags(sizes)

    def package() -> Tensor:
        first = network(image)
        agreement = network.consistency(image, tags, first)
        logits = (first.tag_logits["cam"], agreement.second.tag_logits["cam"])
        return sum((tag_loss(x, tags) / 2 for x in logits), start=sum(agreement.losses.values(), start=torch.zeros(())))

    last = torch.channels_last
    ours = training_step(network, optimizer, package)
    return Work(
        ours,
        training_step(network, plain_optimizer, lambda: plain_seam_loss(network, image, tags)),
        stored(network, last, image, in_bfloat16(ours)),
    )


def stored(network: nn.Module, layout: torch.memory_format, image: Tensor, step: Step) -> Step:
    """Return the step with network and image in this order of memory."""

    def run() -> Sequence[Tensor]:
        network.to(memory_format=layout)  # type: ignore[call-overload]
        image.data = image.contiguous(memory_format=layout)
        return step()

    return run


def seam_cams(sizes: Sizes) -> Work:
    network, image = make_seam(sizes).eval(), torch.rand(1, 3, sizes.image, sizes.image)
    package = torch.no_grad()(lambda: [network(image).refined])
    return Work(
        package,
        torch.no_grad()(lambda: [plain_seam(network, image)[1][:, 1:]]),
        stored(network, torch.channels_last, image, in_bfloat16(package)),
    )


def plain_seam(network: Seam, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return CAMs and refined CAMs with their background channel: the n x n affinity is divided by its column sums."""
    normalised = network.normalise_colours(image)
    early, middle, last = network.backbone(normalised)
    cams = network.classifier(network.dropout(last))
    with torch.no_grad():
        scaled = (cams.relu() - 1e-5).relu() / (cams.relu().amax(dim=(2, 3), keepdim=True) + 1e-5)
        scaled[:, 0] = 1 - scaled[:, 1:].amax(dim=1)
        scaled[:, 1:][scaled[:, 1:] < scaled[:, 1:].amax(dim=1, keepdim=True)] = 0
    colours = F.interpolate(normalised, early.shape[2:], mode="bilinear", align_corners=True)
    pixels = network.embedding(colours, early.detach(), middle.detach()).flatten(2)
    pixels = pixels / (pixels.norm(dim=1, keepdim=True) + 1e-5)
    affinity = F.relu(pixels.transpose(1, 2) @ pixels)
    affinity = affinity / (affinity.sum(dim=1, keepdim=True) + 1e-5)
    return cams, (scaled.flatten(2) @ affinity).view_as(cams)


def plain_seam_loss(network: Seam, image: Tensor, tags: Tensor) -> Tensor:
    """Return the sum of all losses of SEAM, with maps of all classes at the size of the image."""
    small = [int(side * network.second_scale) for side in image.shape[2:]]
    labels = torch.cat([torch.ones(len(tags), 1), tags], dim=1)[:, :, None, None]
    classification, minimum, maps = [], [], []
    for view in (image, resize(image, small)):
        cams, refined = plain_seam(network, view)
        classification.append(F.multilabel_soft_margin_loss(cams[:, 1:].mean(dim=(2, 3)), tags))
        cams, refined = resize(cams, view.shape[2:]), resize(refined, view.shape[2:])
        strongest = (refined * labels)[:, 1:].amax(dim=1).flatten(1)
        lowest = strongest.topk(int(strongest.shape[1] * 0.25), largest=False).values
        minimum.append(lowest.relu().mean())
        maps.append([resize(plain_max_norm(m) * labels, small) for m in (cams, refined)])
    (cam, refined), (second_cam, second_refined) = maps
    er, ecr = plain_consistency(cam, second_cam, refined, second_refined)
    return sum(classification) / 2 + sum(minimum) / 2 + er + ecr


def plain_consistency(
    cam: Tensor, second_cam: Tensor, refined: Tensor, second_refined: Tensor
) -> tuple[Tensor, Tensor]:
    """Return L_ER and L_ECR of maps (B, K + 1, h, w) in [0, 1], absent classes 0."""
    er = (cam[:, 1:] - second_cam[:, 1:]).abs().mean()

    def mined(target: Tensor, other: Tensor) -> Tensor:
        one_hot = target.detach().clone()
        one_hot[:, 0] = 1 - one_hot[:, 1:].amax(dim=1)
        one_hot[:, 1:][one_hot[:, 1:] != one_hot[:, 1:].amax(dim=1, keepdim=True)] = 0
        gap = (one_hot - other).abs().flatten(1)
        return gap.topk(int(gap.shape[1] * 0.2)).values.mean()

    return er, mined(second_cam, refined) + mined(cam, second_refined)


def plain_max_norm(maps: Tensor) -> Tensor:
    positive = maps.relu()
    low, high = (extreme(positive, dim=(2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return F.relu(positive - low - 1e-5) / (high - low + 1e-5)


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


# Losses alone ------------------------------------------------------------------------------------------------------


def deal_loss(sizes: Sizes) -> Work:
    torch.manual_seed(0)
    cams = smooth(2, sizes.classes, sizes.cells).requires_grad_()
    depth, tags = torch.rand(2, 1, sizes.pixels, sizes.pixels) + 0.5, some_tags(sizes)
    side = sizes.pixels // 4
    criterion = DepthEdgeAlignmentLoss(size=(side, side))

    def plain() -> Tensor:
        small = F.interpolate(depth, (side, side), mode="bicubic", antialias=True)
        low, high = small.amin(dim=(2, 3), keepdim=True), small.amax(dim=(2, 3), keepdim=True)
        target = plain_g(plain_sobel((small - low) / (high - low)) / 20**0.5)
        maps = F.interpolate(cams, (side, side), mode="bilinear").relu()
        edges = plain_sobel(maps / maps.amax(dim=(2, 3), keepdim=True))
        agreement = plain_g(edges / edges.amax(dim=(2, 3), keepdim=True)) * target
        return -((agreement.mean(dim=(2, 3)) * tags).sum(dim=1) / tags.sum(dim=1)).mean()

    return Work(loss_step(cams, lambda: criterion(cams, depth, tags)), loss_step(cams, plain))


def isl_loss(sizes: Sizes) -> Work:
    torch.manual_seed(0)
    cams, tags = smooth(2, sizes.classes, sizes.cells).requires_grad_(), some_tags(sizes)

    def package() -> Tensor:
        return importance_sampling_loss(cams, tags, samples=10, generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        flat = cams.flatten(2)
        chances = (flat.detach().sigmoid() + 1e-5).flatten(0, 1)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.multinomial(chances, 10, replacement=True, generator=generator).view(2, -1, 10)
        losses = [F.multilabel_soft_margin_loss(flat.gather(2, drawn[:, :, s, None])[:, :, 0], tags) for s in range(10)]
        return torch.stack(losses).mean()

    return Work(loss_step(cams, package), loss_step(cams, plain))


def fsl_loss(sizes: Sizes) -> Work:
    torch.manual_seed(0)
    cams = smooth(2, sizes.classes, sizes.cells).requires_grad_()
    image, tags = torch.rand(2, 3, sizes.pixels, sizes.pixels), some_tags(sizes)

    def plain() -> Tensor:
        side = sizes.cells
        foreground = plain_max_norm(cams) * tags[:, :, None, None]
        shares = torch.cat([1 - foreground.amax(dim=1, keepdim=True), foreground], dim=1)
        colours = resize(image, (side, side)).flatten(2).transpose(1, 2)
        difference = (colours[:, :, None] - colours[:, None]).abs().mean(dim=3)
        place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), dim=2).view(-1, 2)
        distance = (place[:, None] - place).square().sum(dim=2)
        near = torch.exp(-distance / (2 * 5.0**2)) / (2 * np.pi * 5.0**2)
        vectors = shares.flatten(2).transpose(1, 2)
        pairs = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        return -(near * plain_g(difference) * pairs).sum() / (len(cams) * side * side)

    def package() -> Tensor:
        return feature_similarity_loss(cams, image, tags, sigma=5.0)

    return Work(loss_step(cams, package), loss_step(cams, plain))


def equivariance_losses(sizes: Sizes) -> Work:
    torch.manual_seed(0)
    tags = some_tags(sizes)
    labels = torch.cat([torch.ones(2, 1), tags], dim=1)[:, :, None, None]
    maps = torch.stack([smooth(2, sizes.classes + 1, sizes.second_view) for _ in range(4)])
    maps = (maps.sigmoid() * labels).requires_grad_()

    def package() -> Tensor:
        # As Seam does: classes that no image of the batch has are left out.
        used = (tags == 1).any(dim=0)
        known, channels = tags[:, used], torch.cat([torch.tensor([True]), used])
        first, second = (m[:, 1:][:, used] for m in maps[:2])
        refined, second_refined = (m[:, channels] for m in maps[2:])
        return equivariant_regularization_loss(
            first, second, known, classes=sizes.classes
        ) + equivariant_cross_regularization_loss(first, second, refined, second_refined, known, classes=sizes.classes)

    def plain() -> Tensor:
        return torch.stack(plain_consistency(*maps)).sum()

    return Work(loss_step(maps, package), loss_step(maps, plain))


def plain_sobel(maps: Tensor) -> Tensor:
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    channels = maps.shape[1]
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    dx, dy = (F.conv2d(padded, k.expand(channels, 1, 3, 3).contiguous(), groups=channels) for k in (kernel, kernel.T))
    return torch.sqrt(dx.square() + dy.square() + 1e-12)


def plain_g(strength: Tensor) -> Tensor:
    return torch.tanh(2.5 + torch.log((strength + 1e-7) / (1 - strength + 1e-7)))


# Evaluation --------------------------------------------------------------------------------------------------------


def sweep(sizes: Sizes) -> Work:
    rng = np.random.default_rng(0)
    tags = (some_tags(sizes)[0] == 1).numpy()
    height, width = sizes.photo
    frames = []
    for _ in range(sizes.photos):
        scores = rng.random((sizes.classes, height, width), dtype=np.float32) * tags[:, None, None]
        mask = rng.choice([0, *(np.flatnonzero(tags) + 1), 255], (height, width)).astype(np.uint8)
        frames.append((scores, mask))

    def package() -> list[Tensor]:
        counter = ThresholdSweep(sizes.classes)
        for scores, mask in frames:
            counter.update(scores, tags.astype(np.float32), mask)
        return [torch.from_numpy(counter.curve().miou)]

    def plain() -> list[Tensor]:
        curve, columns = [], sizes.classes + 1
        for threshold in np.arange(101) / 100:
            counts = np.zeros(columns * columns, np.int64)
            for scores, mask in frames:
                background = np.full((1, height, width), threshold, np.float32)
                found = np.concatenate([background, scores]).argmax(axis=0)
                known = mask != 255
                counts += np.bincount(mask[known] * columns + found[known], minlength=len(counts))
            matrix = counts.reshape(columns, columns)
            union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
            curve.append((np.diag(matrix)[union > 0] / union[union > 0]).mean())
        return [torch.tensor(curve)]

    return Work(package, plain)


# Shared ------------------------------------------------------------------------------------------------------------


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Step:
    """Return a step that gives the loss and all gradients."""

    def step() -> list[Tensor]:
        torch.manual_seed(0)
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return [value.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]

    return step


def loss_step(maps: Tensor, loss: Callable[[], Tensor]) -> Step:
    """Return a step that gives the loss and the gradient of the maps."""

    def step() -> list[Tensor]:
        value = loss()
        return [value.detach(), *torch.autograd.grad(value, maps)]

    return step


def some_tags(sizes: Sizes) -> Tensor:
    """Return (2, K) of which the first image has two classes, the second one."""
    tags = torch.zeros(2, sizes.classes)
    tags[0, :2] = tags[1, -1] = 1.0
    return tags


def smooth(batch: int, channels: int, side: int) -> Tensor:
    """Return maps (B, C, side, side) of soft blobs of both signs, as CAMs are."""
    return F.interpolate(3 * torch.randn(batch, channels, 5, 5), (side, side), mode="bicubic")


CASES = {
    "weaktr-train": Case("WeakTr, training step, batch 2, 224", weaktr_training, 5, has_bf16=True),
    "weaktr-cam": Case("WeakTr, fine CAM, 375x500", weaktr_cams, 5, has_bf16=True),
    "weaktr-recipe": Case(
        "WeakTr, CAM recipe of VOC (scales 1.0, 1.2, flips), 375x500", weaktr_recipe, 3, has_bf16=True
    ),
    "seam-train": Case("SEAM, training step, batch 2, 224", seam_training, 2, has_bf16=True),
    "seam-cam": Case("SEAM, refined CAM, 224", seam_cams, 5, has_bf16=True),
    "deal": Case("DEAL, 2x20 maps of 56x56, edges at 112x112, forward and backward", deal_loss, 15),
    "isl": Case("ISL, 2x20 maps of 56x56, 10 cells, forward and backward", isl_loss, 25),
    "fsl": Case("FSL, 2x20 maps of 56x56, forward and backward", fsl_loss, 9),
    "er-ecr": Case("ER and ECR, 2x20 maps of 134x134, forward and backward", equivariance_losses, 9),
    "sweep": Case("mIoU at 101 thresholds, 4 images of 375x500, 20 classes", sweep, 3),
}


if __name__ == "__main__":
    main()
