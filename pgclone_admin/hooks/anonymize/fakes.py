"""What made-up people are called, and what they write."""

from __future__ import annotations

FIRST_NAMES = (
    "Alex", "Andrea", "Ariel", "Ashley", "Bailey", "Billie", "Blair", "Brook", "Cameron", "Carol",
    "Charlie", "Chris", "Dana", "Darcy", "Devon", "Drew", "Eden", "Elliot", "Emery", "Finley",
    "Frances", "Gale", "Harper", "Hayden", "Hunter", "Jackie", "Jamie", "Jean", "Jesse", "Jordan",
    "Jules", "Kai", "Kelly", "Kerry", "Kim", "Lane", "Lee", "Leslie", "Logan", "Mika", "Morgan",
    "Nikita", "Noel", "Pat", "Quinn", "Reese", "Remy", "Riley", "Robin", "Rowan", "Sam", "Sasha",
    "Shannon", "Sidney", "Skyler", "Sky", "Taylor", "Terry", "Toni", "Tracy", "Val", "Vivian",
    "Wynn", "Yuri",
)  # fmt: skip

LAST_NAMES = (
    "Acre", "Alder", "Ash", "Bank", "Barn", "Bay", "Beech", "Birch", "Bridge", "Brook", "Bush",
    "Cliff", "Cove", "Dale", "Dell", "Down", "Elm", "Fen", "Fern", "Field", "Ford", "Forest",
    "Garden", "Gate", "Glen", "Grove", "Harbor", "Hazel", "Heath", "Hedge", "Hill", "Hollow",
    "Holt", "Island", "Lake", "Lane", "Larch", "Lea", "Linden", "Maple", "Marsh", "Meadow", "Mill",
    "Moor", "Moss", "Oak", "Orchard", "Park", "Pine", "Pond", "Reed", "Ridge", "River", "Rock",
    "Rose", "Sand", "Shore", "Spring", "Stone", "Thorn", "Vale", "Wells", "Willow", "Wood",
)  # fmt: skip

AREA_CODES = (
    "202", "206", "212", "213", "303", "305", "312", "404", "415", "503", "512", "602", "617",
    "702", "713", "808",
)  # fmt: skip
"""Of North America. Numbers 555-0100 to 555-0199 of each are reserved for fiction."""

DOMAIN = "example.invalid"
"""RFC 2606: nothing can ever be sent there."""

_LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. ",
    "Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip. ",
    "Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu. ",
    "Excepteur sint occaecat cupidatat non proident, sunt in culpa qui officia deserunt. ",
)

TEXTS = tuple("".join(_LOREM[start:] + _LOREM[:start]) for start in range(len(_LOREM)))
"""One text, begun at each of its sentences; all of the same length."""
