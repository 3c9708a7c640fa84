"""Golden values come from the authors' modules; see each test for its inputs."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.gates import (
    GateKind,
    add_gates,
    apply_mask,
    density,
    gates,
    layer_density,
    logistic_noise,
    read_mask,
    sample_mask,
    strip,
)
from harness.losses import sparsity
from harness.nets import Backbone, Net, build_net


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return build_net(Backbone(), 10, (3, 28, 28))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def set_gates(net: nn.Module) -> None:
    """Spread theta over -0.5, 0 and 1.5, by position."""
    for theta in gates(net).values():
        values = torch.tensor([-0.5, 0.0, 1.5]).repeat(theta.numel() // 3 + 1)[: theta.numel()]
        theta.data.copy_(values.view(theta.shape))


class TestSampling:
    def test_mask_and_gradient_match_the_authors(self) -> None:
        theta = torch.tensor([1.5, 0.0, -3.0, 2.0, -1.0], requires_grad=True)
        u0 = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
        u1 = torch.tensor([0.2, 0.2, 0.6, 0.5, 0.05])
        noise = -torch.log(torch.log(u1 + 1e-10) / torch.log(u0 + 1e-10) + 1e-10)
        mask = sample_mask(theta, noise, "double_sigmoid", temperature=1.0)
        assert mask.tolist() == [1, 1, 1, 1, 0]
        (grad,) = torch.autograd.grad(mask.sum(), theta)
        expected = torch.tensor([0.0268777, 0.0618176, 0.0109502, 0.0259435, 0.0082699])
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize(
        ("kind", "theta", "rate"),
        [
            ("double_sigmoid", -5.0, 0.5017),
            ("double_sigmoid", 0.0, 0.6225),
            ("double_sigmoid", 1.5, 0.6937),
            ("double_sigmoid", 5.0, 0.7297),
            ("logit", 0.0, 0.5),
            ("logit", 1.5, 0.8176),
        ],
    )
    def test_keep_rate_does_not_depend_on_the_temperature(
        self, kind: GateKind, theta: float, rate: float
    ) -> None:
        torch.manual_seed(0)
        for temperature in (1.0, 0.3):
            layer = nn.Linear(1000, 400, bias=False)
            nn.init.ones_(layer.weight)
            add_gates(layer, kind, temperature, init=theta)
            assert layer.weight.mean().item() == pytest.approx(rate, abs=0.003)

    def test_noise_is_logistic_and_finite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        noise = logistic_noise(torch.empty(400_000)).double()
        assert noise.mean().item() == pytest.approx(0, abs=0.02)
        assert noise.var().item() == pytest.approx(torch.pi**2 / 3, rel=0.01)
        assert (noise < 1).double().mean().item() == pytest.approx(0.7311, abs=0.003)
        monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
        assert logistic_noise(torch.empty(3)).isfinite().all()

    @pytest.mark.parametrize("kind", ["double_sigmoid", "logit"])
    @pytest.mark.parametrize("temperature", [1.0, 0.4])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_fused_gate_equals_autograd_on_the_definition(
        self, kind: GateKind, temperature: float, frozen: bool
    ) -> None:
        layer = nn.Linear(40, 30, bias=False, dtype=torch.float64)
        layer.weight.requires_grad_(not frozen)
        weight = layer.weight.detach().clone().requires_grad_()
        theta = torch.randn(30, 40, dtype=torch.float64, requires_grad=True)
        direction = torch.randn(30, 40, dtype=torch.float64)

        torch.manual_seed(1)
        expected = weight * sample_mask(theta, logistic_noise(theta), kind, temperature)
        expected.backward(direction)

        add_gates(layer, kind, temperature)
        gate = gates(layer)[""]
        gate.data.copy_(theta.detach())
        torch.manual_seed(1)
        masked = layer.weight
        masked.backward(direction)

        assert 0 < masked.count_nonzero() < masked.numel()
        torch.testing.assert_close(masked, expected)
        torch.testing.assert_close(gate.grad, theta.grad)
        original = layer.parametrizations.weight.original
        if frozen:
            assert original.grad is None
        else:
            torch.testing.assert_close(original.grad, weight.grad)

    def test_mask_is_shared_by_the_batch_and_fresh_in_each_forward(self) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(16, 8)
        add_gates(layer)
        same = layer(torch.ones(4, 16))
        torch.testing.assert_close(same, same[:1].expand(4, 8))
        assert not torch.equal(same, layer(torch.ones(4, 16)))

    def test_seed_determines_the_masks_and_adding_gates_draws_nothing(
        self, net: Net, images: Tensor
    ) -> None:
        before = torch.get_rng_state()
        add_gates(net)
        assert torch.equal(torch.get_rng_state(), before)
        first = net(images)
        torch.set_rng_state(before)
        assert torch.equal(net(images), first)

    def test_evaluation_draws_nothing(self, net: Net, images: Tensor) -> None:
        net.eval()
        add_gates(net)
        before = torch.get_rng_state()
        net(images)
        assert torch.equal(torch.get_rng_state(), before)

    def test_masking_at_init_scales_the_output_variance_by_the_keep_rate(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        x = torch.randn(4, 64, 16, 16)
        dense = conv(x).var()
        add_gates(conv)
        masked = torch.stack([conv(x).var() for _ in range(5)]).mean()
        assert (masked / dense).item() == pytest.approx(0.695, abs=0.02)


class TestGatedNetwork:
    @pytest.mark.parametrize(
        ("arch", "classes", "count", "initial_sum"),
        [
            ("cnn", 10, 660_992, 991_488),
            ("fcn", 10, 248_720, 373_080),
            ("resnet18", 10, 11_172_032, 16_758_048),
            ("resnet18", 2, 11_167_936, 16_751_904),
        ],
    )
    def test_counts(self, arch: str, classes: int, count: int, initial_sum: float) -> None:
        net = build_net(Backbone(arch=arch), classes, (3, 28, 28))
        names = set(net.state_dict())
        add_gates(net)
        thetas = gates(net)
        assert sum(theta.numel() for theta in thetas.values()) == count
        assert sparsity(thetas.values()).item() == pytest.approx(initial_sum, rel=1e-6)
        # Only weights of convolutions and linear layers changed their names.
        gone = {f"{layer}.weight" for layer in thetas}
        assert names - set(net.state_dict()) == gone
        assert set(net.state_dict()) - names == {
            f"{layer}.parametrizations.weight.{part}"
            for layer, part in itertools.product(thetas, ("original", "0.theta"))
        }

    def test_forward_matches_the_authors(self) -> None:
        net = build_net(Backbone(), 10, (3, 28, 28))
        for k, (name, p) in enumerate(net.named_parameters()):
            wave = torch.sin(0.37 * torch.arange(p.numel()) + k).view(p.shape)
            is_norm_scale = "bn" in name and name.endswith("weight")
            p.data = wave * (0.05 if p.ndim > 1 else 1) + is_norm_scale
        images = torch.sin(0.011 * torch.arange(4 * 3 * 28 * 28)).abs().view(4, 3, 28, 28)
        labels = torch.tensor([0, 3, 5, 9])

        def close(actual: Tensor, expected: float | list[float]) -> None:
            torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-4, atol=1e-6)

        with torch.no_grad():
            features = net.features(images)
            close(features.norm(), 24.566067)
            close(F.cross_entropy(net.head(features), labels), 6.029112)
            close(net.features.bn1.running_mean[:2], [0.0076216, 0.0111616])
            close(net.features.bn3.running_var[:2], [2.0814745, 1.8963035])
            net.eval()
            close(F.cross_entropy(net(images), labels), 11.937333)
            add_gates(net)
            set_gates(net)
            close(F.cross_entropy(net(images), labels), 4.926187)
            mask = read_mask(net)
            assert sum(int(layer.sum()) for layer in mask.values()) == 440_660
            close(sparsity(gates(net).values()), 220_327.5)
            strip(net)
            close(F.cross_entropy(net(images), labels), 11.937333)
            apply_mask(net, mask)
            close(F.cross_entropy(net(images), labels), 4.926187)

    def test_learning_gates_on_frozen_weights_moves_gates_and_running_statistics_only(
        self, net: Net, images: Tensor
    ) -> None:
        before = copy.deepcopy(net.state_dict())
        net.requires_grad_(False)
        add_gates(net)
        thetas = list(gates(net).values())
        optimizer = torch.optim.Adam(thetas, lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            (F.cross_entropy(net(images), torch.arange(8)) + 1e-8 * sparsity(thetas)).backward()
            optimizer.step()
        assert all(theta.ne(1.5).any() for theta in thetas)
        strip(net)
        changed = {name for name, x in net.state_dict().items() if not torch.equal(x, before[name])}
        assert changed == {
            f"features.bn{i}.{buffer}"
            for i, buffer in itertools.product(
                (1, 2, 3), ("running_mean", "running_var", "num_batches_tracked")
            )
        }

    def test_fine_tuning_leaves_pruned_weights_and_the_mask_alone(
        self, net: Net, images: Tensor
    ) -> None:
        mask = {name: torch.rand(p.shape) < 0.5 for name, p in weights(net).items()}
        before = {name: p.detach().clone() for name, p in weights(net).items()}
        apply_mask(net, mask)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(net(images), torch.arange(8)).backward()
            optimizer.step()
        masks = [buffer for name, buffer in net.named_buffers() if name.endswith("mask")]
        assert all(torch.equal(*pair) for pair in zip(masks, mask.values(), strict=True))
        strip(net)
        for name, weight in weights(net).items():
            moved = weight != before[name]
            assert not moved[~mask[name]].any()
            assert moved[mask[name]].float().mean() > 0.5

    def test_copies_and_state_dicts_carry_gates_and_masks(self, net: Net, images: Tensor) -> None:
        plain = copy.deepcopy(net)
        add_gates(net)
        set_gates(net)
        mask = read_mask(net)
        twin = copy.deepcopy(net)
        loaded = copy.deepcopy(plain)
        add_gates(loaded)
        loaded.load_state_dict(net.state_dict())
        pruned = copy.deepcopy(plain)
        apply_mask(pruned, mask)
        expected = net.eval()(images)
        for other in (twin, loaded, pruned):
            torch.testing.assert_close(other.eval()(images), expected)
        gates(twin)["head"].data.fill_(-1)
        torch.testing.assert_close(net(images), expected)


def weights(net: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name: layer.weight
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


class TestMasks:
    def test_density(self) -> None:
        mask = {"a": torch.tensor([True, False]), "b": torch.ones(6, dtype=torch.bool)}
        assert density(mask) == 7 / 8
        assert layer_density(mask) == {"a": 0.5, "b": 1.0}

    def test_temperature_must_be_positive(self, net: Net) -> None:
        with pytest.raises(ValueError, match="`temperature > 0` must hold, but got temperature=0"):
            add_gates(net, temperature=0)

    def test_a_mask_must_fit_the_network(self, net: Net) -> None:
        mask = {name: torch.ones(p.shape) for name, p in weights(net).items()}
        head = mask.pop("head")
        with pytest.raises(ValueError, match=r"same layers, but differing=\['head'\]"):
            apply_mask(net, mask)
        with pytest.raises(ValueError, match=r"layer 'head' .*\(10, 256\).*\(256, 10\)"):
            apply_mask(net, {**mask, "head": head.T})

    def test_gates_and_masks_do_not_stack(self, net: Net) -> None:
        add_gates(net)
        with pytest.raises(ValueError, match="has a gate or mask already"):
            apply_mask(net, read_mask(net))
        with pytest.raises(ValueError, match="has a gate or mask already"):
            add_gates(net)
