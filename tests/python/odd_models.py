"""Small models that do what exported graphs rarely do; each a function for `scripts/export_model.py`, each with its reason.

Layers are called `first` and `last` where the model has nothing to add: the convolution before what is odd, and the one after.
"""

import math
import re

import torch
from torch import nn

PLAIN = [{"op": "normalize", "mean": 0, "std": 1}]


class Between(nn.Module):
    """`odd(first(x))`, then `last`; subclasses say what is odd. Keeps the number of channels and the size, unless they say so."""

    channels = 6

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Conv2d(self.channels, 4, 3, padding=1)

    def forward(self, x):
        return self.last(self.odd(self.first(x)))

    def odd(self, x):
        raise NotImplementedError


class WritesToSlices(Between):
    """Activations are written into a fresh tensor part by part: the gradient has to flow through the writes."""

    def odd(self, x):
        t = torch.zeros_like(x)
        t[:, 0] = x[:, 1] * 2
        t[:, 1:, 1:9:2] = x[:, 1:, 2:10:2] ** 2
        t[..., 1] += x[..., 0]
        return t + x.mean()


class OverwritesTheLayer(Between):
    """Parts of a layer's own output are overwritten: a hook saw it before."""

    def odd(self, x):
        x[:, 0] = 0.5
        x[:, 1].mul_(3)
        x[:, 2:4] = x[:, 3:5].sigmoid()
        return x


class InPlaceChunks(Between):
    """Views of one tensor are written in turn while the tensor itself is still used."""

    def odd(self, x):
        y = x * 1.5
        a, b = y[:, :3], y[:, 3:]
        a.add_(b)
        b.mul_(a.tanh())
        left, right = y.split([2, 4], 1)
        return torch.cat([right, left], 1).relu_() + y


class InPlaceViews(Between):
    """Writes through reshaped, transposed and expanded views, and a masked one."""

    def odd(self, x):
        y = x.clone()
        flat = y.flatten(2)
        flat.transpose(1, 2).mul_(2)
        y.view(x.shape[0], 2, 3, -1)[:, 1].add_(flat.mean())
        y.masked_fill_(y > 1, 1.0)
        return y.clamp_(-1, 1)


class OverwritesTheInput(Between):
    """The image itself is changed, and a buffer counts calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        x[:, 0].mul_(0.5)
        self.calls.add_(0)
        return super().forward(x + self.calls)

    def odd(self, x):
        return x.neg_()


class IntegersAndBooleans(Between):
    """Comparisons, argmax, one-hot, gather, integer division, boolean logic."""

    def odd(self, x):
        positive = x > 0
        best = x.argmax(1)
        hot = nn.functional.one_hot(best, 6).permute(0, 3, 1, 2)
        order = (torch.arange(6) * 5 + 1) % 6
        shifted = x[:, order] * (best // 2).unsqueeze(1)
        picked = torch.gather(x, 1, best.unsqueeze(1))
        return torch.where(positive & ~hot.bool(), shifted, x * 2) + picked + positive.sum() * 0.01


class ShapeArithmetic(Between):
    """Sizes that are computed: halves, products, roots, and numbers made of them."""

    def odd(self, x):
        n, c, h, w = x.shape
        blocks = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).amax((3, 5))
        up = nn.functional.interpolate(blocks, size=(h, w), mode="bilinear", align_corners=False)
        rows = torch.linspace(-1, 1, h).view(1, 1, h, 1)
        columns = torch.arange(w, dtype=x.dtype).view(1, 1, 1, -1) / (w - 1)
        scale = 1 / math.sqrt(c) + (h * w) ** -0.5 + max(h, w) / (h + w) + (h % 7)
        padded = nn.functional.pad(up, (0, (4 - w % 4) % 4, 0, -h % 4))
        return padded[:, :, :h, :w] * scale + rows * columns + x.sum((2, 3), keepdim=True) / (h * w)


class Constants(Between):
    """Tensors made in forward, plain attributes, buffers that are not saved, f64 and integers among them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.linspace(0.5, 1.5, 6).view(1, 6, 1, 1), persistent=False)
        self.register_buffer("saved", torch.arange(6).view(1, 6, 1, 1))
        self.exact = torch.linspace(-1, 1, 6, dtype=torch.float64).view(1, 6, 1, 1)
        self.empty = torch.zeros(0, 6)

    def odd(self, x):
        mixed = (x.double() @ torch.eye(x.shape[-1], dtype=torch.float64) + self.exact).float()
        inside = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]).expand(6, 1, 3, 3)
        spread = nn.functional.conv2d(mixed, inside, padding=1, groups=6)
        rows = torch.cat([self.empty, torch.full((1, 6), 2.0)]).sum(0)
        return spread * self.hidden + self.saved * rows.view(1, 6, 1, 1)


class NoGradBlocks(Between):
    """A part in which no gradient is recorded, and in it one in which one is."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Conv2d(6, 6, 1)

    def odd(self, x):
        with torch.no_grad():
            gate = self.frozen(x).sigmoid()
            with torch.enable_grad():
                inner = gate * x
            gate = gate + inner
        return x * gate + inner


class Tied(Between):
    """One weight under two names, as it is and transposed, and a slice of a larger one."""

    channels = 6

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 6, bias=False)
        self.unmix = nn.Linear(6, 6, bias=False)
        self.unmix.weight = self.mix.weight
        self.slice = nn.Parameter(self.mix.weight.detach()[2:5])

    def odd(self, x):
        y = self.unmix(self.mix(x.movedim(1, -1)).tanh())
        return (y @ self.mix.weight.T + (y @ self.slice.T).sum(-1, keepdim=True)).movedim(-1, 1)


class Nested(Between):
    """Outputs in a dict of a tuple and a list, with None and a number among them; the one to explain is not the first."""

    def forward(self, x):
        low = self.first(x)
        out = self.last(low)
        return {"pyramid": (low.mean((2, 3)), [out[:, :2], None]), "size": x.shape[2], "scores": out}


class Repeated(nn.Module):
    """One module is called three times, and modules that return their input or several tensors lie between."""

    class Both(nn.Module):
        def forward(self, x):
            return x.relu(), x.neg()

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.same = nn.Identity()
        self.both = self.Both()
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.again(self.first(x))
        x = self.same(self.again(x * 2))
        positive, negative = self.both(x)
        return self.last(self.again(positive - 0.5 * negative))


class TokensFirst(nn.Module):
    """Attention whose tokens come first, `[T, N, C]`; `second` is what `first` is, with the images first."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first, self.second = nn.Identity(), nn.Identity()
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(self.patches(x).flatten(2).permute(2, 0, 1).contiguous() * 1)
        x = self.second(x.transpose(0, 1).contiguous()).transpose(0, 1)
        return self.head(torch.relu(self.attention(x, x, x, need_weights=False)[0]).mean(0))


class Numbers(Between):
    """A module is called with numbers, which torch.export records no signature for; its sizes are used after it."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv2d(6, 6, 1)

        def forward(self, x, factor, height):
            rows = torch.arange(x.shape[2]).view(1, 1, -1, 1) / height
            return self.mix(x) * factor + rows

    def __init__(self):
        super().__init__()
        self.scaled = self.Scaled()

    def odd(self, x):
        return self.scaled(x, 0.3, x.shape[2]).reshape(x.shape[0], 6, x.shape[3], x.shape[2]).transpose(2, 3)


class Spectrum(Between):
    """Complex numbers between real ones."""

    def odd(self, x):
        spectrum = torch.fft.rfft2(x, norm="ortho")
        return torch.fft.irfft2(spectrum * torch.complex(spectrum.real.cos(), spectrum.imag.sin()), s=x.shape[2:], norm="ortho")


class ManyOperators(Between):
    """Operators that no image classifier has in common, found by name all the same."""

    def odd(self, x):
        n, c, h, w = x.shape
        theta = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.1]]).expand(n, 2, 3)
        grid = nn.functional.affine_grid(theta, [n, c, h, w], align_corners=False)
        y = nn.functional.grid_sample(x, grid, align_corners=False)
        y = torch.einsum("nchw,ndhw->ncd", y, x).softmax(-1) @ x.flatten(2)
        y = nn.functional.group_norm(y.view(n, c, h, w), 3) + x.cumsum(3) * 0.01 + x.sort(1).values
        y = nn.functional.unfold(y, 3, padding=1).view(n, c, 9, h, w).logsumexp(2)
        return y + torch.linalg.vector_norm(x, dim=1, keepdim=True) + x.topk(2, 1).values.prod(1, keepdim=True)


class DeviationOfOne(Between):
    """The standard deviation of a single number, which is none, and which libtorch warns of."""

    def odd(self, x):
        return x + x.detach()[:, :1].std(1, keepdim=True).nan_to_num()


def _builder(kind):
    def build():
        torch.manual_seed(11)
        model = kind()
        model.camflow_metadata = {"task": "segmentation", "example": [18, 22], "preprocess": PLAIN}
        if kind is Nested:
            model.camflow_metadata["primary_output"] = "scores"
        return model

    build.__doc__ = kind.__doc__
    return build


KINDS = [
    *(WritesToSlices, OverwritesTheLayer, InPlaceChunks, InPlaceViews, OverwritesTheInput, IntegersAndBooleans),
    *(ShapeArithmetic, Constants, NoGradBlocks, Tied, Nested, Repeated, Numbers, Spectrum, ManyOperators, DeviationOfOne),
]
NAMES = [re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in KINDS]
globals().update(zip(NAMES, map(_builder, KINDS), strict=True))
