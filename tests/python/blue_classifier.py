"""A classifier that takes the blue of the sky for an aeroplane: where it looks is known."""

import torch


class Blue(torch.nn.Module):
    """Logits of two classes; that of aeroplanes is how blue the picture is."""

    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU())
        convolution = self.layer1[0]
        with torch.no_grad():
            # Blue without red, and red without blue.
            convolution.weight.copy_(torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])[..., None, None])
            convolution.bias.zero_()

    def forward(self, x):
        return self.layer1(x).mean((2, 3))


def classifier():
    model = Blue().eval()
    model.camflow_metadata = {
        "classes": {0: "airplane", 1: "barn"},
        "preprocess": [{"op": "resize_smaller", "size": 48}],
        "example": [48, 64],
    }
    return model
