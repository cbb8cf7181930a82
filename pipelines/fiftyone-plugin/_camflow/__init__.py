"""Modules of the Python package `camflow`, copied: FiftyOne installs a plugin as a folder, and the package may not be there.

`cp python/camflow/{archive,events,names,process}.py pipelines/fiftyone-plugin/_camflow/` makes them anew; a test compares.
"""
