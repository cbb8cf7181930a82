"""camflow in Python: the exporter that turns PyTorch models into archives, and what reads archives and runs the program.

    from camflow.archive import Model, NoModelError     what an archive says of itself
    from camflow.events import Event                    the lines of `--format json`
    from camflow.export import export, load_model       from an `nn.Module` to an archive (needs torch)
    from camflow.process import Run, find               a `camflow` that runs beside this process

Importing a module imports none of torch, torchvision, timm and FiftyOne: the exporter does so when it needs them.
"""
