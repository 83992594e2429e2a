"""Texts to sentiment: models, lexicons, stance, ensemble and aggregation.

Pure: texts and tables in, numbers with their reasons out. Read ``vocabulary`` first (what a score is), then ``models``
and ``scorer`` (transformers; ``encoder``, ``int8``, ``loading`` and ``scorer`` import torch), ``lexicons``, ``stance``
(what a text says of each asset), ``ensemble`` and ``aggregate``; ``quality`` judges a model on labelled texts.
"""
