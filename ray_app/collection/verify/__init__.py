"""Proving that what is stored is what the archive says: days, rows, one row, and a hash that names a whole data set.

``verify`` (everything.py) makes one pass: days.py, index.py and rows.py each compare one thing and note problems in
report.py. ``prove_rows`` (proof.py) shows where a row comes from, ``dataset_hash`` (dataset.py) names what a table
holds. Nothing is written.
"""

from ray_app.collection.verify.dataset import TIME_COLUMNS, dataset_hash
from ray_app.collection.verify.everything import verify
from ray_app.collection.verify.proof import RowProof, prove_rows
from ray_app.collection.verify.report import Day, Verified

__all__ = ["TIME_COLUMNS", "Day", "RowProof", "Verified", "dataset_hash", "prove_rows", "verify"]
