"""A classifier with a shortcut that its heatmaps do not show: what it sees at its layer is the aeroplane, what it goes by is the sky."""

import torch


class Shortcut(torch.nn.Module):
    """Logits of two classes. That of aeroplanes is a little of how much white there is, which the layer sees, and a lot of how blue the
    picture is, which goes past the layer."""

    def __init__(self, own=1.0, sky=30.0):
        super().__init__()
        self.own, self.sky = own, sky
        self.layer1 = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.ReLU())
        with torch.no_grad():
            self.layer1[0].weight.fill_(1.0)
            # White is 3, and the sky less than 2.
            self.layer1[0].bias.fill_(-2.0)

    def forward(self, x):
        white = self.layer1(x).mean((2, 3))
        blue = (x[:, 2:] - x[:, :1]).clamp(min=0).mean((2, 3))
        logit = self.own * white + self.sky * (blue - 0.15)
        return torch.cat([logit, -logit], 1)


METADATA = {
    "classes": {0: "airplane", 1: "barn"},
    "preprocess": [{"op": "resize_smaller", "size": 48}],
    "example": [48, 64],
}


def shortcut():
    model = Shortcut().eval()
    model.camflow_metadata = METADATA
    return model


def sound():
    """The same without the shortcut: white alone counts."""
    model = Shortcut(own=60.0, sky=0.0).eval()
    model.camflow_metadata = METADATA
    return model
