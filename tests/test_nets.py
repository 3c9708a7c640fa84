import math
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from pydantic import ValidationError

from harness import nets
from harness.nets import Backbone, build_net

FEATURE_DIMS = {"cnn": 256, "mlp": 100, "mlp16": 16, "fcn": 32, "resnet18": 512, "resnet20": 64}


def resnet18_weights() -> dict[str, torch.Tensor]:
    """A torchvision state dict whose every entry, running statistics too, was drawn at random."""
    reference = torchvision.models.resnet18()
    for entry in reference.state_dict().values():
        if entry.is_floating_point():
            entry.add_(torch.rand_like(entry) * 0.1)
    return dict(reference.state_dict())


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(resnet18_weights(), path)
    return path


@pytest.mark.parametrize("arch", FEATURE_DIMS)
@pytest.mark.parametrize("side", [28, 32])
def test_features_and_head_make_the_logits(arch: str, side: int) -> None:
    net = build_net(Backbone(arch=arch), 7, (3, side, side))
    net.eval()
    images = torch.rand(2, 3, side, side)
    features = net.features(images)
    assert features.shape == (2, FEATURE_DIMS[arch])
    assert net.feature_dim == FEATURE_DIMS[arch]
    assert net.head.out_features == 7
    torch.testing.assert_close(net(images), net.head(features))


@pytest.mark.parametrize("arch", FEATURE_DIMS)
def test_parameter_names_do_not_depend_on_the_image_size(arch: str) -> None:
    names = [
        list(build_net(Backbone(arch=arch), 2, (3, side, side)).state_dict()) for side in (28, 64)
    ]
    assert names[0] == names[1]
    assert names[0][-2:] == ["head.weight", "head.bias"]


def test_cnn_takes_any_side_from_8_and_any_channels() -> None:
    for side in (8, 9, 33):
        net = build_net(Backbone(), 10, (1, side, side))
        assert net(torch.rand(2, 1, side, side)).isfinite().all()
    with pytest.raises(ValueError, match=r"'cnn' needs images of side 8 or more.*\(3, 7, 28\)"):
        build_net(Backbone(), 10, (3, 7, 28))


def test_perceptrons_divide_by_255() -> None:
    net = build_net(Backbone(arch="mlp16"), 10, (1, 8, 8))
    images = torch.rand(4, 1, 8, 8)
    x = images.flatten(1) / 255
    for layer in (net.features.fc1, net.features.fc2, net.features.fc3):
        x = F.linear(x, layer.weight, layer.bias).relu()
    torch.testing.assert_close(net.features(images), x)


def test_resnet20_has_the_published_size_and_parameter_free_shortcuts() -> None:
    net = build_net(Backbone(arch="resnet20"), 10, (3, 32, 32))
    # He et al., table 6: 0.27 million parameters.
    assert sum(p.numel() for p in net.parameters()) == 269_722
    # Blocks that add nothing leave the shortcuts: every 4th pixel, in the middle 16 of 64 channels.
    for module in net.features.modules():
        if isinstance(module, nets._BasicBlock):
            torch.nn.init.zeros_(module.bn2.weight)
    net.eval()
    images = torch.rand(2, 3, 32, 32)
    stem = F.relu(net.features.bn(net.features.stem(images)))
    expected = F.pad(stem[:, :, ::4, ::4].mean(dim=(2, 3)), (24, 24))
    torch.testing.assert_close(net.features(images), expected)


def test_resnet20_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    net = build_net(Backbone(arch="resnet20"), 1000, (3, 32, 32))
    last = net.features.blocks[-1].conv2.weight
    assert last.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert net.head.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.02)


def test_weights_file_reproduces_torchvision(weights_file: Path) -> None:
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(weights_file))
    reference.fc = torch.nn.Identity()
    net = build_net(Backbone(arch="resnet18", weights=str(weights_file)), 2, (3, 64, 64))
    images = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(
        net.eval().features(images), reference.eval()(images), rtol=1e-5, atol=1e-5
    )
    assert net.head.weight.shape == (2, 512)


def test_weights_file_may_lack_batch_counters(weights_file: Path) -> None:
    old = {k: v for k, v in torch.load(weights_file).items() if "num_batches" not in k}
    torch.save(old, weights_file)
    net = build_net(Backbone(arch="resnet18", weights=str(weights_file)), 2, (3, 64, 64))
    assert torch.equal(net.features.conv1.weight, old["conv1.weight"])


def test_weights_of_another_network_are_refused(weights_file: Path) -> None:
    def refusal(arch: str = "resnet18") -> str:
        backbone = Backbone(arch=arch, weights=str(weights_file))
        with pytest.raises(ValueError) as error:
            build_net(backbone, 2, (3, 32, 32))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "does not fit arch 'cnn': keys 1" in refusal("cnn")
    state = torch.load(weights_file)
    del state["layer4.1.conv2.weight"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["extra"] = state["bn1.bias"]
    torch.save(state, weights_file)
    message = refusal()
    assert "1 missing (such as 'layer4.1.conv2.weight')" in message
    assert "1 unexpected (such as 'extra')" in message
    assert "1 of another shape (such as 'conv1.weight')" in message
    torch.save({"model": state}, weights_file)
    assert "no state dict of tensors" in refusal()
    for content in (b"", b"not a checkpoint", weights_file.read_bytes()[:1000]):
        weights_file.write_bytes(content)
        assert "not a file that `torch.save(state_dict)` wrote" in refusal()
    weights_file.unlink()
    assert f"no weights file at {weights_file}" in refusal()


def test_images_and_weights_must_suit_the_architecture() -> None:
    with pytest.raises(ValueError, match=r"'resnet18' needs RGB images.*\(1, 32, 32\)"):
        build_net(Backbone(arch="resnet18"), 2, (1, 32, 32))
    with pytest.raises(ValueError, match="arch='cnn'.*--set backbone.weights=none"):
        build_net(Backbone(weights="imagenet"), 2, (3, 28, 28))
    with pytest.raises(ValidationError, match="resnet20"):
        Backbone(arch="resnet50")


class TestImagenet:
    """Weights from an official file, here one served from disk."""

    BACKBONE = Backbone(arch="resnet18", weights="imagenet")

    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        return tmp_path / "hub" / "checkpoints"

    def serve(self, file: Path, digest: str, monkeypatch: pytest.MonkeyPatch) -> Path:
        served = file.with_name(f"resnet18-{digest}.pth")
        shutil.copy(file, served)
        monkeypatch.setattr(nets, "IMAGENET_URL", served.as_uri())
        return served

    def test_they_are_downloaded_once(
        self, weights_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = sha256(weights_file.read_bytes()).hexdigest()[:8]
        served = self.serve(weights_file, digest, monkeypatch)
        first = build_net(self.BACKBONE, 2, (3, 32, 32))
        assert [file.name for file in cache.iterdir()] == [served.name]
        served.unlink()
        second = build_net(self.BACKBONE, 2, (3, 32, 32))
        expected = torch.load(weights_file)["conv1.weight"]
        for net in (first, second):
            assert torch.equal(net.features.conv1.weight, expected)

    def test_a_wrong_checksum_is_refused(
        self, weights_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.serve(weights_file, "00000000", monkeypatch)
        with pytest.raises(ValueError, match="cannot download .*hash"):
            build_net(self.BACKBONE, 2, (3, 32, 32))
        assert not any(cache.iterdir())

    def test_offline_the_error_says_where_to_put_which_file(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(url: str, timeout: float) -> None:
            assert timeout <= 5
            raise TimeoutError("timed out")

        monkeypatch.setattr(nets, "urlopen", unreachable)
        with pytest.raises(ValueError) as error:
            build_net(self.BACKBONE, 2, (3, 32, 32))
        message = str(error.value)
        assert "\n" not in message
        for part in (
            "timed out",
            f"Put resnet18-f37072fd.pth into {cache}",
            "--set backbone.weights=PATH",
            "--set backbone.weights=none",
        ):
            assert part in message


def test_a_seed_determines_the_weights() -> None:
    built = []
    for _ in range(2):
        torch.manual_seed(3)
        built.append(build_net(Backbone(arch="resnet20"), 10, (3, 32, 32)).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(built[0].values(), built[1].values(), strict=True))
