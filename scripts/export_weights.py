"""Weights from files, and statistics for random ones."""

import importlib

from export_messages import ExportError, first_line


def load_state(module, path):
    import torch

    try:
        if path.endswith(".safetensors"):
            state = importlib.import_module("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ExportError(f"could not read weights from `{path}`: {first_line(error)}", "a state dict is needed (torch.save or safetensors)") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if not any(k.startswith("aux_classifier.") for k in module.state_dict()):
        # published segmentation checkpoints carry the auxiliary head, which plays no part in the answer
        state = {k: v for k, v in state.items() if not k.startswith("aux_classifier.")}
    missing, extra = module.load_state_dict(state, strict=False)
    if missing or extra:
        raise ExportError(f"`{path}` does not fit the model: missing {missing[:3]} ({len(missing)}), left over {extra[:3]} ({len(extra)})")


def warm_batchnorm(module, passes, size, seed=0):
    """Give batch norms the statistics of `passes` batches of noise, so that a random network's activations stay sane.

    Freshly made running statistics (mean 0, variance 1) let activations grow or die with depth.
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average: with the usual 0.1 a few passes would leave most of the initial values
        norm.train()  # the norms alone: dropout and auxiliary heads stay as they are when the model is used
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(passes):
            module(torch.randn(4, 3, *size, generator=noise))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    module.eval()
