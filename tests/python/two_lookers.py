"""Two classifiers of aeroplanes: one looks at them, one at the sky around them. Which is which is known."""

import torch


class Colors(torch.nn.Module):
    """Logits of two classes from the mean of a feature each: how much of a colour there is."""

    def __init__(self, red, blue):
        super().__init__()
        self.layer1 = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.ReLU())
        convolution = self.layer1[0]
        with torch.no_grad():
            weights = torch.tensor([[red, 0.0, blue], [0.0, 1.0, 0.0]]) / 9
            convolution.weight.copy_(weights[..., None, None].expand(2, 3, 3, 3))
            convolution.bias.zero_()

    def forward(self, x):
        return self.layer1(x).mean((2, 3))


def named(model):
    model.eval().camflow_metadata = {
        "classes": {0: "airplane", 1: "barn"},
        "preprocess": [{"op": "resize", "height": 48, "width": 64}],
        "example": [48, 64],
    }
    return model


def on_planes():
    return named(Colors(1.0, -1.0))


def on_the_sky():
    return named(Colors(-1.0, 1.0))
