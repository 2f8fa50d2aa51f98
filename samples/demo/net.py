"""The demo model's two networks: a convolution stem and transformer for pictures, and a small causal decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 7  # 112 px in patches of 16: 49 tokens
TOKENS = GRID * GRID


@dataclass(frozen=True)
class Config:
    """Sizes of the demo model. width is the hidden size of the decoder, and so of an embedding."""

    vocab: int
    width: int = 160
    layers: int = 4
    heads: int = 5
    inner: int = 352
    vision_width: int = 144
    vision_layers: int = 2
    vision_heads: int = 4
    context: int = 2048
    theta: float = 10000.0

    @property
    def head_width(self) -> int:
        return self.width // self.heads


# --- the eyes --------------------------------------------------------------------------------------------------------


def conv(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class VisionBlock(nn.Module):
    """Attention over the grid, then a perceptron; both around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-1, -2)) * (width // self.heads) ** -0.5
        mixed = scores.softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Eyes(nn.Module):
    """Pictures (batch, 3, 112, 112), normalised to -1 to 1, to embeddings (batch, 49, width).

    Training also asks of its inner features what is in each of the nine cells, what the background is, and whether the
    picture is inside the world at all; these heads are not exported.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.vision_width
        self.stem = nn.Sequential(
            conv(3, 24, 2), conv(24, 48, 2), Residual(48), conv(48, 96, 2), Residual(96), conv(96, width, 2)
        )
        self.position = nn.Parameter(torch.randn(1, TOKENS, width) * 0.02)
        self.blocks = nn.Sequential(*(VisionBlock(width, config.vision_heads) for _ in range(config.vision_layers)))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, config.width)
        self.cell_head = nn.Linear(width, 1 + 5 + 8 + 1)  # is there something, shape, colour, large
        self.scene_head = nn.Linear(width, 6 + 1)  # background, outside

    def features(self, pictures: Tensor) -> Tensor:
        x = self.stem(pictures).flatten(2).transpose(1, 2)
        return self.norm(self.blocks(x + self.position))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.project(self.features(pictures))


# --- the words -------------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """Root-mean-square normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), 1e-6)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight  # spelled out, for the export


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x (..., heads, tokens, head_width)."""
    one, two = x.chunk(2, -1)
    return x * cos + torch.cat((-two, one), -1) * sin


class Block(nn.Module):
    """One layer of the decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.norm1, self.norm2 = RMSNorm(config.width), RMSNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.gate_up = nn.Linear(config.width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, config.width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, self.head_width)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        (q, k), v = rotate(qkv[:2], cos, sin).unbind(0), qkv[2]
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        if self.training:
            mixed = F.scaled_dot_product_attention(q, k, v, mask)
        else:  # spelled out, for the export
            mixed = ((q @ k.transpose(-1, -2)) * self.head_width**-0.5 + mask).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up), (k, v)


class Words(nn.Module):
    """A causal decoder over embeddings; the output layer is tied to the token embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        speeds = config.theta ** (-torch.arange(0, config.head_width, 2).float() / config.head_width)
        self.register_buffer("speeds", speeds, persistent=False)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states (batch, tokens, width) and the grown cache. mask is added to the attention scores."""
        angle = positions[..., None].float() * self.speeds
        angle = torch.cat((angle, angle), -1)[:, None]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        grown = []
        for index, block in enumerate(self.blocks):
            x, cache = block(x, cos, sin, mask, past[index] if past else None)
            grown.append(cache)
        return self.norm(x), grown

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight)


class Demo(nn.Module):
    """Both networks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.eyes, self.words = Eyes(config), Words(config)
