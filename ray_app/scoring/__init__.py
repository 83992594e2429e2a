"""Stored texts to stored scores and aggregates.

``plans`` says which models there are and how an actor opens one, ``pages`` what is to be scored, in pieces that may be
done in any order by anybody, ``run`` does a whole run, ``pool`` does its pages on Ray Data, ``hours`` aggregates.
Apart from these, ``online`` scores texts that somebody waits for; ``serve_app`` deploys it.
"""
