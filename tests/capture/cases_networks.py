"""Whole small networks, as they are written in practice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from capture.case import Batch, Case, Net, integers, normal, param, wave
from capture.cases_parameters import used, w


def linear(*widths: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(*widths, bias=bias)


# What these functions save is as good a second time.
RUN = {"custom_functions": "run"}


class Swish(torch.autograd.Function):
    """x · sigmoid(βx) with a derivative written by hand."""

    @staticmethod
    def forward(ctx, x: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, beta)
        return x * torch.sigmoid(beta * x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * x)
        slope = s * (1 - s)
        return gradient * (s + beta * x * slope), (gradient * x * x * slope).sum()


class TimesWeight(torch.autograd.Function):
    """x @ W as a function that autograd does not see into."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight.t(), x.flatten(0, -2).t() @ gradient.flatten(0, -2)


def residual(m: Net, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = x + block(x)
    return m.head(x)


def mixer(m: Net, x: Tensor) -> Tensor:
    x = x + m.tokens(m.norm1(x).transpose(1, 2)).transpose(1, 2)
    x = x + m.channels(m.norm2(x))
    return x.mean(1)


def unet(m: Net, x: Tensor) -> Tensor:
    skip = m.down(x).relu()
    deep = m.middle(functional.max_pool2d(skip, 2)).relu()
    return m.out(torch.cat((m.up(deep), skip), 1))


def squeeze_excite(m: Net, x: Tensor) -> Tensor:
    x = m.conv(x)
    gate = m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    return x * gate


def attention(m: Net, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return m.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def rotary(m: Net, x: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
    turn = lambda y: torch.cat((  # noqa: E731
        y[..., :2] * angle.cos() - y[..., 2:] * angle.sin(),
        y[..., :2] * angle.sin() + y[..., 2:] * angle.cos()), -1)  # fmt: skip
    return functional.scaled_dot_product_attention(turn(q), turn(k), m.v(x), is_causal=True)


def soft_experts(m: Net, x: Tensor) -> Tensor:
    gates = m.gate(x).softmax(-1)
    experts = torch.stack([expert(x) for expert in m.experts], -1)
    return (experts * gates[..., None, :]).sum(-1)


def top_one_experts(m: Net, x: Tensor) -> Tensor:
    rows = x.flatten(0, 1)
    gates = m.gate(rows).softmax(-1)
    weight, chosen = gates.max(-1)
    output = torch.zeros_like(rows)
    for e, expert in enumerate(m.experts):
        (index,) = torch.where(chosen == e)
        output = output.index_add(0, index, expert(rows[index]) * weight[index, None])
    return output.view_as(x)


def capacity_experts(m: Net, x: Tensor) -> Tensor:
    """Experts as one batched product over rows sorted by expert."""
    rows = x.flatten(0, 1)
    weight, chosen = m.gate(rows).softmax(-1).max(-1)
    products = torch.einsum("rd,edo->ero", rows, m.W)
    return (products[chosen, torch.arange(len(rows))] * weight[:, None]).view(*x.shape[:2], -1)


def kan(m: Net, x: Tensor) -> Tensor:
    basis = torch.exp(-(x[..., None] - torch.linspace(-2, 2, 4, dtype=x.dtype)).square())
    return torch.einsum("bik,iok->bo", basis, m.coefficients) + functional.silu(x) @ m.base


def state_space(m: Net, x: Tensor) -> Tensor:
    """h_t = a h_{t-1} + b x_t, as a loop; y = c h + d x."""
    state = x.new_zeros(len(x), x.shape[2], 3)
    outputs = []
    for step in x.unbind(1):
        state = torch.sigmoid(m.a) * state + m.b * step[..., None]
        outputs.append((state * m.c).sum(-1) + m.d * step)
    return torch.stack(outputs, 1)


def scan_by_cumsum(m: Net, x: Tensor) -> Tensor:
    """A decayed sum written with cumsum over time."""
    t = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
    decay = -functional.softplus(m.decay)
    return (m.inp(x) * torch.exp(-decay * t)).cumsum(1) * torch.exp(decay * t)


def euler(m: Net, x: Tensor) -> Tensor:
    for _ in range(4):
        x = x + m.step * m.field(x)
    return x


def windows(m: Net, x: Tensor) -> Tensor:
    """Attention in shifted windows of 2 × 2; windows move into the batch dimension."""
    n, height, width, c = x.shape
    x = x.roll((-1, -1), (1, 2))
    rows = x.view(n, height // 2, 2, width // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
    rows = m.block(rows)
    x = rows.view(n, height // 2, width // 2, 2, 2, c).transpose(2, 3).reshape(n, height, width, c)
    return m.head(x.roll((1, 1), (1, 2)))


def conditional_convolution(m: Net, x: Tensor) -> Tensor:
    """A kernel per sample, run as one grouped convolution with the batch in the channels."""
    n, c, height, width = x.shape
    mixture = m.gate(x.mean((2, 3))).softmax(-1)
    kernels = torch.einsum("ne,eoikl->noikl", mixture, m.kernels)
    y = functional.conv2d(x.reshape(1, n * c, height, width), kernels.flatten(0, 1), groups=n)
    return y.view(n, -1, *y.shape[2:])


def spatial_transformer(m: Net, x: Tensor) -> Tensor:
    theta = m.locate(x.flatten(1)).view(-1, 2, 3)
    grid = functional.affine_grid(theta, x.shape, align_corners=False)
    return m.conv(functional.grid_sample(x, grid, align_corners=False))


def densenet(m: Net, x: Tensor) -> Tensor:
    for conv in m.convs:
        x = torch.cat((x, conv(x.relu())), 1)
    return x.mean((2, 3))


def several_losses(model: nn.Module, batch: Batch) -> Tensor:
    x, label, value = batch
    h = model.body(x).relu()
    return functional.cross_entropy(model.classify(h), label) + 0.5 * functional.mse_loss(
        model.regress(h).squeeze(1), value
    )


def gradient_penalty(model: nn.Module, batch: Batch) -> Tensor:
    x = batch[0].detach().requires_grad_()
    y = model(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return wave(y) + 0.3 * slope.square().sum(1).mean()


def variational(model: nn.Module, batch: Batch) -> Tensor:
    x, noise = batch
    mean, log_variance = model.encoder(x).chunk(2, 1)
    z = mean + noise * (0.5 * log_variance).exp()
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean()
    return functional.mse_loss(model.decoder(z.tanh()), x) + 0.1 * divergence


DENSE = (
    used("MLP", lambda m, x: m.net(x), 5, n=5, net=lambda: nn.Sequential(
        linear(5, 6), nn.ReLU(), linear(6, 5), nn.GELU(), linear(5, 3))),
    used("residual MLP with norms", residual, 4, n=4, head=lambda: linear(4, 2),
         blocks=lambda: nn.ModuleList(nn.Sequential(
             nn.LayerNorm(4), linear(4, 8), nn.GELU(), linear(8, 4)) for _ in range(3))),
    used("MLP-Mixer", mixer, 5, 4, n=3, norm1=lambda: nn.LayerNorm(4),
         norm2=lambda: nn.LayerNorm(4), channels=lambda: nn.Sequential(
             linear(4, 6), nn.GELU(), linear(6, 4)),
         tokens=lambda: nn.Sequential(linear(5, 7), nn.GELU(), linear(7, 5))),
    used("MLP-Mixer, N equals tokens and channels", mixer, 4, 4, n=4,
         norm1=lambda: nn.LayerNorm(4), norm2=lambda: nn.LayerNorm(4),
         channels=lambda: linear(4, 4), tokens=lambda: linear(4, 4)),
    used("GLU", lambda m, x: functional.glu(m.layer(x)), 4, n=4, layer=lambda: linear(4, 6)),
    used("SwiGLU", lambda m, x: m.down(functional.silu(m.gate(x)) * m.up(x)), 5, 4, n=3,
         gate=lambda: linear(4, 6), up=lambda: linear(4, 6), down=lambda: linear(6, 4)),
    used("Highway", lambda m, x: m.gate(x).sigmoid() * m.layer(x).relu()
         + (1 - m.gate(x).sigmoid()) * x, 4, n=4, gate=lambda: linear(4, 4),
         layer=lambda: linear(4, 4)),
    used("Fourier features with learned frequencies", lambda m, x: m.head(torch.cat(
        ((x @ m.B).sin(), (x @ m.B).cos()), -1)), 3, n=4, B=w(3, 5),
        head=lambda: linear(10, 2)),
    used("spline basis (KAN)", kan, 4, n=4, coefficients=w(4, 3, 4), base=w(4, 3)),
    used("autograd function with a learned scalar",
         lambda m, x: m.layer(Swish.apply(m.layer(x), m.beta)), 4, n=4, layer=lambda: linear(4, 4),
         beta=w(), options=RUN),
    used("autograd function around a product",
         lambda m, x: TimesWeight.apply(TimesWeight.apply(x, m.W).tanh(), m.V), 5, 4, n=3,
         W=w(4, 3), V=w(3, 2), options=RUN),
    used("factorisation machine", lambda m, x: 0.5 * ((x @ m.V).square()
         - x.square() @ m.V.square()).sum(1) + x @ m.w + m.b, 5, n=4, V=w(5, 3), w=w(5), b=w()),
    used("deep sets", lambda m, x: m.rho(m.phi(x).relu().sum(1)), 5, 3, n=5,
         phi=lambda: linear(3, 6), rho=lambda: linear(6, 2)),
    used("ordinary differential equation by Euler steps", euler, 4, n=4, step=w(),
         field=lambda: nn.Sequential(linear(4, 5), nn.Tanh(), linear(5, 4))),
    used("checkpointed block", lambda m, x: m.head(
        checkpoint(m.body, m.first(x), use_reentrant=False)), 5, n=4,
        first=lambda: linear(5, 5), body=lambda: nn.Sequential(linear(5, 6), nn.Tanh()),
        head=lambda: linear(6, 2),
        xfail="activation checkpointing hands out what it saved only once"),
    used("frozen layer in the middle", lambda m, x: m.c(m.b(m.a(x)).tanh()), 5, n=4,
         a=lambda: linear(5, 4), b=lambda: linear(4, 4).requires_grad_(False),
         c=lambda: linear(4, 2)),
    Case("two heads with summed losses",
         lambda: Net(lambda m, x: x, body=linear(5, 4), classify=linear(4, 3),
                     regress=linear(4, 1)),
         lambda n: (normal(n, 5), integers(3, n), normal(n)), n=4, loss=several_losses),
    Case("variational autoencoder with given noise",
         lambda: Net(lambda m, x: x, encoder=linear(5, 6), decoder=linear(3, 5)),
         lambda n: (normal(n, 5), normal(n, 3)), n=4, loss=variational),
    Case("penalty on the gradient by the input",
         lambda: nn.Sequential(linear(4, 5), nn.Tanh(), linear(5, 1)), lambda n: (normal(n, 4),),
         n=4, loss=gradient_penalty),
)  # fmt: skip

IMAGES = (
    used("ConvNet with pooling and ReLU in place", lambda m, x: m.net(x), 1, 8, 8, n=3,
         net=lambda: nn.Sequential(
             nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
             nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
             linear(4, 3))),
    used("ConvNet, flattened maps, batch norm in evaluation", lambda m, x: m.net(x), 2, 4, 4, n=4,
         training=False, net=lambda: nn.Sequential(
             nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
             nn.AvgPool2d(2), nn.Flatten(), linear(16, 3))),
    used("U-Net", unet, 2, 8, 8, n=3, down=lambda: nn.Conv2d(2, 3, 3, padding=1),
         middle=lambda: nn.Conv2d(3, 4, 3, padding=1),
         up=lambda: nn.ConvTranspose2d(4, 3, 2, stride=2), out=lambda: nn.Conv2d(6, 2, 1)),
    used("depthwise separable convolution", lambda m, x: m.point(m.depth(x).relu()), 4, 5, 5, n=4,
         depth=lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
         point=lambda: nn.Conv2d(4, 3, 1)),
    used("squeeze and excitation", squeeze_excite, 2, 5, 5, n=3, conv=lambda: nn.Conv2d(2, 4, 3),
         down=lambda: nn.Conv2d(4, 2, 1), up=lambda: nn.Conv2d(2, 4, 1)),
    used("DenseNet", densenet, 2, 5, 5, n=3, convs=lambda: nn.ModuleList(
        nn.Conv2d(2 + 2 * i, 2, 3, padding=1) for i in range(3))),
    used("pixel shuffle", lambda m, x: functional.pixel_shuffle(m.conv(x), 2), 3, 4, 4, n=3,
         conv=lambda: nn.Conv2d(3, 8, 3, padding=1)),
    used("windows with roll", windows, 4, 4, 4, n=3, head=lambda: linear(4, 2),
         block=lambda: nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)),
    used("windows with roll, N equals windows and tokens", windows, 4, 4, 4, n=4,
         head=lambda: linear(4, 2),
         block=lambda: nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)),
    used("a kernel per sample by groups", conditional_convolution, 2, 4, 4, n=3,
         gate=lambda: linear(2, 2), kernels=w(2, 3, 2, 3, 3)),
    used("spatial transformer", spatial_transformer, 2, 4, 4, n=3, locate=lambda: linear(32, 6),
         conv=lambda: nn.Conv2d(2, 3, 3)),
    used("patches by unfold", lambda m, x: m.layer(
        functional.unfold(x, 2, stride=2).transpose(1, 2)).mean(1), 2, 4, 4, n=4,
        layer=lambda: linear(8, 3)),
)  # fmt: skip

SEQUENCES = (
    used("attention by hand with packed projections", attention, 5, 4, n=3,
         qkv=lambda: linear(4, 12), out=lambda: linear(4, 4)),
    used("attention by hand, N equals T and width", attention, 4, 4, n=4,
         qkv=lambda: linear(4, 12), out=lambda: linear(4, 4)),
    used("causal attention with rotary positions", rotary, 5, 4, n=3,
         q=lambda: linear(4, 4, bias=False), k=lambda: linear(4, 4, bias=False),
         v=lambda: linear(4, 4, bias=False)),
    used("mixture of experts, soft", soft_experts, 5, n=4, gate=lambda: linear(5, 3),
         experts=lambda: nn.ModuleList(linear(5, 4) for _ in range(3))),
    used("mixture of experts, one per token by index_add", top_one_experts, 6, 4, n=3,
         gate=lambda: linear(4, 3),
         experts=lambda: nn.ModuleList(
             nn.Sequential(linear(4, 5), nn.GELU(), linear(5, 4)) for _ in range(3))),
    used("mixture of experts, one per token by one stacked weight", capacity_experts, 5, 4, n=3,
         gate=lambda: linear(4, 3), W=w(3, 4, 2)),
    used("state space model by a loop", state_space, 5, 3, n=3, a=w(3, 3), b=w(3, 3), c=w(3, 3),
         d=w(3)),
    used("state space model, N equals T and width", state_space, 4, 4, n=4, a=w(4, 3), b=w(4, 3),
         c=w(4, 3), d=w(4)),
    used("decayed sum by cumsum", scan_by_cumsum, 5, 4, n=3, inp=lambda: linear(4, 3), decay=w(3)),
    used("causal convolution over time",
         lambda m, x: m.conv(functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2), 5, 4, n=3,
         conv=lambda: nn.Conv1d(4, 4, 3, groups=4)),
    used("long convolution by products with a Toeplitz matrix",
         lambda m, x: torch.einsum("ts,bsd->btd", m.k[(
             torch.arange(5)[:, None] - torch.arange(5)).clamp(0)].tril(), x), 5, 4, n=3,
         k=lambda: param(5)),
)  # fmt: skip

CASES = (*DENSE, *IMAGES, *SEQUENCES)
