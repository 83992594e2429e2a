"""Whom a sentence is about: each asset gets its own words, a text of one asset stays whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.sentiment.stance import Window, parts, read, windows, words, written

NAMES = {"Bitcoin": 1, "BTC": 1, "Ethereum": 2, "Ether": 2, "XRP": 3, "Solana": 4}


def said(text: str) -> dict[int, str]:
    places = [(NAMES[m[0]], m.start(), m.end()) for m in re.finditer(r"\b(?:" + "|".join(NAMES) + r")\b", text)]
    return {window.asset_id: window.text for window in windows(text, places)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bitcoin surges. XRP plunges.", {1: "Bitcoin surges.", 3: "XRP plunges."}),
        ("Bitcoin surges while XRP plunges", {1: "Bitcoin surges", 3: "XRP plunges"}),
        ("While Bitcoin surges, XRP plunges badly", {1: "While Bitcoin surges", 3: "XRP plunges badly"}),
        ("Bitcoin surges, but XRP plunges", {1: "Bitcoin surges", 3: "XRP plunges"}),
        ("Bitcoin rose 5% and XRP fell 3%", {1: "Bitcoin rose 5%", 3: "XRP fell 3%"}),
        (
            "Bitcoin rose 5%, Solana gained 7%, and XRP fell 3%",
            {1: "Bitcoin rose 5%", 4: "Solana gained 7%", 3: "XRP fell 3%"},
        ),
        # a list of names is no list of clauses
        ("Bitcoin and XRP fell 3%", {1: "Bitcoin and XRP fell 3%", 3: "Bitcoin and XRP fell 3%"}),
        (
            "Bitcoin, Solana and XRP fell; Ether was strong",
            dict.fromkeys((1, 4, 3), "Bitcoin, Solana and XRP fell") | {2: "Ether was strong"},
        ),
        # a sentence that names nobody
        (
            "XRP was listed. It fell 5%. Bitcoin rose. Traders shrugged.",
            {3: "XRP was listed.\nIt fell 5%.", 1: "Bitcoin rose."},
        ),
        ("Bitcoin and XRP met. It fell 5%.", dict.fromkeys((1, 3), "Bitcoin and XRP met.")),  # which of them?
        ("It fell. XRP rose. Bitcoin, too.", {3: "XRP rose.", 1: "Bitcoin, too."}),
        # what says nobody stays with its clause
        ("Bitcoin rose, and fees fell, while XRP sank", {1: "Bitcoin rose, and fees fell", 3: "XRP sank"}),
        ("But XRP sank while Bitcoin rose", {3: "But XRP sank", 1: "Bitcoin rose"}),
        # full stops that end nothing
        (
            "The U.S. SEC sued XRP. Bitcoin Inc. of St. Louis rose",
            {3: "The U.S. SEC sued XRP.", 1: "Bitcoin Inc. of St. Louis rose"},
        ),
        ("XRP at 1.5 dollars. Bitcoin at 30.1k", {3: "XRP at 1.5 dollars.", 1: "Bitcoin at 30.1k"}),
        # title and body
        (
            "XRP plunges\nEther and BTC hold. XRP is down.",
            {3: "XRP plunges\nXRP is down.", **dict.fromkeys((2, 1), "Ether and BTC hold.")},
        ),
    ],
)
def test_each_asset_gets_what_is_said_of_it(text: str, expected: dict[int, str]) -> None:
    assert said(text) == expected


def test_a_text_that_names_one_asset_is_scored_whole() -> None:
    text = " Bitcoin surges, traders cheer.\nNobody knows why. BTC again "
    assert said(text) == {1: text.strip()}
    assert said("Nobody is named") == {}


def test_the_parts_of_a_text_are_itself_and_what_is_said_of_each_asset() -> None:
    text = "Bitcoin rose. XRP fell."
    places = [(1, 0, 7), (3, 14, 17)]
    found = parts(text, places)
    assert found == [Window(0, text), Window(1, "Bitcoin rose.", ((0, 13),)), Window(3, "XRP fell.", ((14, 23),))]
    assert [words(text, read(written(part.spans))) for part in found] == [part.text for part in found]
    assert parts(" Nothing ", []) == [Window(0, "Nothing")]


def test_two_mentions_of_the_same_assets_share_a_window_so_that_it_is_scored_once() -> None:
    found = said("Bitcoin, XRP fell")
    assert found[1] == found[3]


WORDS = st.sampled_from(
    [*NAMES, "fell", "rose", "and", "while", "but", "it", ",", ".", ";", "\n", "It", "5%", "—", "U.S."]
)


@given(st.lists(WORDS, max_size=30))
def test_every_asset_named_has_a_window_of_the_text_that_names_it(words: list[str]) -> None:
    text = " ".join(words)
    found = said(text)
    assert set(found) == {NAMES[word] for word in words if word in NAMES}
    for asset_id, window in found.items():
        assert any(re.search(rf"\b{name}\b", window) for name, of in NAMES.items() if of == asset_id)
        for line in window.split("\n"):
            assert line.strip() in text


def test_a_long_text_takes_time_in_proportion() -> None:
    text = "Bitcoin rose, XRP fell while Solana gained and Ether was flat. " * 2_000
    found = said(text)
    assert found[3].count("\n") == 1_999


@pytest.mark.parametrize("mark", [" ", "!", "\n", ";", ",", "."])
def test_a_long_run_of_anything_is_read_in_one_pass(mark: str) -> None:
    found = said("Bitcoin rose. XRP fell" + mark * 200_000 + "x")
    assert found[1] == "Bitcoin rose."
