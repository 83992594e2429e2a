"""The routes, one module per noun: thin views over named queries. ``answers.py`` turns bytes into responses."""
