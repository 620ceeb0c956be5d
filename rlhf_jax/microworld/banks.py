"""The banks that worlds draw their words from; no word stands in two of them."""

FIRST = (
    *("moon", "river", "ash", "silver", "winter", "north", "glass", "iron", "salt"),
    *("ember", "thorn", "star", "wind", "gold", "stone", "cloud", "rose", "storm"),
)
LAST = (
    *("fall", "bend", "grove", "gate", "light", "song", "field", "watch"),
    *("haven", "mark", "shore", "wood"),
)
NAMES = (
    *("ada", "akira", "amara", "anders", "anton", "bela", "bruno", "carla", "celia"),
    *("dario", "diego", "edith", "elena", "emil", "farid", "felix", "greta", "hanna"),
    *("hugo", "ines", "ingrid", "ivan", "jonas", "karin", "kenji", "lara", "leila"),
    *("lena", "luca", "magda", "marek", "mira", "nadia", "nils", "noor", "olaf"),
    *("oscar", "petra", "pilar", "rafael", "rosa", "ruth", "samir", "selma", "sofia"),
    *("stefan", "tariq", "tessa", "ulla", "vera", "viktor", "wanda", "yara", "zeno"),
)
GENRES = (
    *("comedy", "drama", "horror", "western", "thriller", "musical", "fantasy"),
    *("satire", "noir", "epic", "cartoon", "documentary"),
)
TOWNS = (
    *("bergen", "lisbon", "cairo", "quito", "osaka", "dakar", "naples", "perth"),
    *("krakow", "lima", "tunis", "malmo", "porto", "hanoi", "accra", "leeds"),
)
ASPECTS = (  # people, craft, story
    (
        *("acting", "cast", "hero", "villain", "dialogue", "chemistry", "narration"),
        *("humour", "sidekick", "ensemble", "narrator", "heroine", "couple", "crew"),
    ),
    (
        *("camera", "music", "editing", "lighting", "wardrobe", "scenery", "sound"),
        *("animation", "makeup", "palette", "framing", "choreography", "design"),
        *("soundtrack",),
    ),
    (
        *("plot", "ending", "pacing", "story", "twist", "opening", "script", "theme"),
        *("tension", "premise", "finale", "subplot", "message", "setting", "mood"),
    ),
)
MILD = ("quite", "rather", "fairly", "somewhat", "mostly")
STRONG = ("very", "truly", "really", "so", "utterly", "deeply", "absolutely")
AGREE = ("also", "moreover", "besides", "meanwhile")
CONTRAST = ("yet", "though", "however", "although", "still")
SURE = ("surely", "simply", "certainly", "indeed", "definitely")
OPENERS = ("overall", "finally", "altogether", "ultimately", "honestly", "clearly")

AMBIVALENT = (  # praise in one world, blame in another
    *("quiet", "strange", "loud", "slow", "dark", "cold", "wild", "raw", "long"),
    *("simple", "odd", "heavy"),
)
VALUED = {
    1: {
        "adjectives": {
            1: (
                "fine",
                "decent",
                "pleasant",
                "solid",
                "neat",
                "tidy",
                "smooth",
                "nice",
            ),
            2: (
                *("clever", "warm", "lively", "gripping", "charming", "fresh", "witty"),
                *("elegant", "vivid", "touching", "sharp", "graceful"),
            ),
            3: (
                *("superb", "brilliant", "dazzling", "stunning", "flawless", "perfect"),
                *("sublime", "glorious", "wonderful"),
            ),
        },
        "verb": {"liked": 1, "enjoyed": 2, "admired": 2, "loved": 3, "adored": 3},
        "noun": {
            **{"treat": 2, "winner": 2, "delight": 2, "joy": 2, "gem": 3},
            **{"triumph": 3, "marvel": 3, "classic": 3, "masterpiece": 3},
        },
        "advice": {"see": 2, "catch": 2, "cherish": 2},
    },
    -1: {
        "adjectives": {
            1: ("plain", "thin", "uneven", "stiff", "flat", "bland", "slight", "faint"),
            2: (
                *("dull", "weak", "clumsy", "tired", "shallow", "messy", "lazy"),
                *("boring", "confused", "noisy", "stale", "muddled"),
            ),
            3: (
                *("awful", "terrible", "dreadful", "horrible", "wretched", "painful"),
                *("hopeless", "pathetic", "miserable"),
            ),
        },
        "verb": {"minded": 1, "disliked": 2, "regretted": 2, "hated": 3, "loathed": 3},
        "noun": {
            **{"bore": 2, "dud": 2, "letdown": 2, "misfire": 2, "mess": 3},
            **{"failure": 3, "flop": 3, "disaster": 3, "travesty": 3},
        },
        "advice": {"skip": 2, "avoid": 2, "dodge": 2},
    },
}

FIXED = {
    "number": tuple(map(str, range(100))),
    "copula": ("was", "felt", "seemed", "looked"),
    "made": ("made", "kept"),
    **{word: (word,) for word in ("the", "it", "i", "is", "a", "by", "with")},
    **{"stop": (".",), "comma": (",",), "bang": ("!",), "colon": (":",), "ask": ("?",)},
    "relation": ("director", "star", "genre", "year", "home", "friend"),
    "form": ("review", "question", "translate", "reverse", "compare", "rate"),
    "skill": ("of", "'s", "plus", "better", "score"),
    "label": ("A", "B"),
}

# Onsets and endings of the two toy languages.
TOY = (
    (("ka", "lo", "mi", "su", "te", "ro", "na", "vi"), ("ki", "lu", "mo", "pa", "ta")),
    (
        ("bre", "dro", "gla", "spe", "tri", "sko", "fle", "kru"),
        ("n", "sk", "lm", "x", "rt"),
    ),
)
