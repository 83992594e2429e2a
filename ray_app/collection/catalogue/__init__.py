"""What the source collectors poll: feeds as data, one module per group of datasets."""
