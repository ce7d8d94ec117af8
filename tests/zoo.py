"""Small networks of well-known kinds, written from their papers, for tests of the capture and of what follows it."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_norm(inputs: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the map (at stride 1), and batch norm with statistics of its own."""
    norm = nn.BatchNorm2d(filters)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_(0, 0.1)
    norm.running_var.uniform_(0.5, 2)
    conv = nn.Conv2d(inputs, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm)


class Bottleneck(nn.Module):
    """He et al., "Deep Residual Learning", CVPR 2016, figure 5: 1x1, 3x3, 1x1, and a shortcut."""

    def __init__(self, inputs: int, width: int, filters: int, stride: int) -> None:
        super().__init__()
        self.reduce = conv_norm(inputs, width, 1)
        self.middle = conv_norm(width, width, 3, stride)
        self.expand = conv_norm(width, filters, 1)
        self.shortcut = conv_norm(inputs, filters, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.middle(self.relu(self.reduce(x))))
        y = self.expand(y)
        y += self.shortcut(x)
        return self.relu(y)


def resnet() -> nn.Module:
    stem = nn.Sequential(*conv_norm(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    blocks = Bottleneck(8, 4, 16, 2), Bottleneck(16, 4, 16, 1)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


class InvertedResidual(nn.Module):
    """Sandler et al., "MobileNetV2", CVPR 2018, figure 3: widened, depthwise, narrowed without an activation."""

    def __init__(self, inputs: int, filters: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inputs * widen
        self.skip = stride == 1 and inputs == filters
        self.widen = nn.Sequential(*conv_norm(inputs, wide, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(*conv_norm(wide, wide, 3, stride, groups=wide), nn.ReLU6())
        self.narrow = conv_norm(wide, filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.skip else y


def mobilenet() -> nn.Module:
    stem = nn.Sequential(*conv_norm(3, 8, 3, 2), nn.ReLU6())
    blocks = InvertedResidual(8, 8, 1, 2), InvertedResidual(8, 12, 2, 3)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5))


class SqueezeExcite(nn.Module):
    """Tan and Le, "EfficientNet", ICML 2019: MBConv with the channels weighted by what the whole map says of them."""

    def __init__(self, channels: int, kernel: int, squeezed: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(*conv_norm(channels, channels, kernel, groups=channels), nn.SiLU())
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.project = conv_norm(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x)
        weight = functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))
        y = y * torch.sigmoid(self.excite(weight))
        out: Tensor = self.project(y) + x
        return out


def efficientnet() -> nn.Module:
    stem = nn.Sequential(*conv_norm(3, 8, 3, 2), nn.SiLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(stem, SqueezeExcite(8, 3, 2), SqueezeExcite(8, 5, 2), head)


class ConvNextBlock(nn.Module):
    """Liu et al., "A ConvNet for the 2020s", CVPR 2022, figure 4; norm and products with the channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 4 * channels)
        self.down = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(ConvNextBlock(8), ConvNextBlock(8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        out: Tensor = self.head(self.norm(x.mean([-2, -1])))
        return out


class VitBlock(nn.Module):
    """Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, equations 2 and 3, in plain products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weight = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weight @ value).transpose(1, 2).reshape(n, tokens, width))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Vit(nn.Module):
    """16x16 images in 4x4 patches: 16 of them, and the token that is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.Sequential(VitBlock(16, 2), VitBlock(16, 2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        out: Tensor = self.head(self.blocks(x)[:, 0])
        return out


class UNet(nn.Module):
    """Ronneberger et al., MICCAI 2015, figure 1, with one step down and up again; an output and the map before it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.merge = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU())
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.down(x)
        y = self.merge(torch.cat([self.up(self.bottom(skip)), skip], dim=1))
        return self.out(y), y


class Pyramid(nn.Module):
    """Lin et al., "Feature Pyramid Networks", CVPR 2017: one head on the maps of two levels, each of its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
        self.lateral_low, self.lateral_high = nn.Conv2d(4, 6, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.low(x)
        top = self.lateral_high(self.high(low))
        bottom = self.lateral_low(low) + functional.interpolate(top, scale_factor=2.0, mode="nearest")
        return {"top": self.head(top), "bottom": self.head(bottom)}


class Attention(nn.Module):
    """``nn.MultiheadAttention`` of one sequence to another, whose tokens may be of another width."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, kdim=width, vdim=width)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        out: Tensor = self.attention(query, memory, memory, need_weights=False)[0]
        return out


def encoder() -> nn.Module:
    """Vaswani et al., 2017, as torch has it."""
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class TwoTowers(nn.Module):
    """Tokens and an image; one projection for both, of which a pair and their product come out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.text = nn.Conv1d(8, 12, 3, padding=1)
        self.image = nn.Conv2d(3, 12, 3, 2)
        self.project = nn.Linear(12, 6, bias=False)

    def forward(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        text = self.project(self.text(self.words(tokens).transpose(1, 2)).amax(2))
        seen = self.project(self.image(image).mean((2, 3)))
        return torch.einsum("nd,nd->n", text, seen), (text, seen)


def network(name: str, seed: int = 0) -> nn.Module:
    """One of them, its weights and statistics drawn anew."""
    kinds = {
        "resnet": resnet,
        "mobilenet": mobilenet,
        "efficientnet": efficientnet,
        "convnext": ConvNext,
        "vit": Vit,
        "unet": UNet,
        "pyramid": Pyramid,
        "encoder": encoder,
        "cross attention": Attention,
        "attention to other widths": lambda: Attention(10),
        "two towers": TwoTowers,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kinds[name]().eval()
