"""Per method: settings of each preset, and search ranges that differ between data sets.

A file here is optional. It defines ``settings(preset, dataset, ratio)``, what a preset changes in
the method's defaults, and ``SPACES``, search ranges by data set that override those on the fields.
"""
