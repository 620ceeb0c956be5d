"""The word banks that worlds draw from; no word is in two of them."""


def _words(text):
    return tuple(text.split())


# A title is a first part followed by a last part.
FIRST = _words(
    "moon river ash silver winter north glass iron salt ember thorn star wind gold "
    "stone cloud rose storm"
)
LAST = _words("fall bend grove gate light song field watch haven mark shore wood")
NAMES = _words(
    "ada akira amara anders anton bela bruno carla celia dario diego edith elena emil "
    "farid felix greta hanna hugo ines ingrid ivan jonas karin kenji lara leila lena "
    "luca magda marek mira nadia nils noor olaf oscar petra pilar rafael rosa ruth "
    "samir selma sofia stefan tariq tessa ulla vera viktor wanda yara zeno"
)
GENRES = _words(
    "comedy drama horror western thriller musical fantasy satire noir epic cartoon "
    "documentary"
)
TOWNS = _words(
    "bergen lisbon cairo quito osaka dakar naples perth krakow lima tunis malmo porto "
    "hanoi accra leeds"
)
ASPECTS = (  # people, craft, story
    _words(
        "acting cast hero villain dialogue chemistry narration humour sidekick "
        "ensemble narrator heroine couple crew"
    ),
    _words(
        "camera music editing lighting wardrobe scenery sound animation makeup palette "
        "framing choreography design soundtrack"
    ),
    _words(
        "plot ending pacing story twist opening script theme tension premise finale "
        "subplot message setting mood"
    ),
)
MILD = _words("quite rather fairly somewhat mostly")
STRONG = _words("very truly really so utterly deeply absolutely")
SURE = _words("surely simply certainly indeed definitely")
AGREE = _words("also moreover besides meanwhile")
CONTRAST = _words("yet though however although still")
OPENERS = _words("overall finally altogether ultimately honestly clearly")

# Adjectives that praise in some worlds and blame in others.
AMBIVALENT = _words("quiet strange loud slow dark cold wild raw long simple odd heavy")

# Words of praise (1) and blame (-1), by strength.
ADJECTIVES = {
    1: {
        1: _words("fine decent pleasant solid neat tidy smooth nice"),
        2: _words(
            "clever warm lively gripping charming fresh witty elegant vivid touching "
            "sharp graceful"
        ),
        3: _words(
            "superb brilliant dazzling stunning flawless perfect sublime glorious "
            "wonderful"
        ),
    },
    -1: {
        1: _words("plain thin uneven stiff flat bland slight faint"),
        2: _words(
            "dull weak clumsy tired shallow messy lazy boring confused noisy stale "
            "muddled"
        ),
        3: _words(
            "awful terrible dreadful horrible wretched painful hopeless pathetic "
            "miserable"
        ),
    },
}
VERBS = {
    1: {"liked": 1, "enjoyed": 2, "admired": 2, "loved": 3, "adored": 3},
    -1: {"minded": 1, "disliked": 2, "regretted": 2, "hated": 3, "loathed": 3},
}
NOUNS = {
    1: dict.fromkeys(_words("treat winner delight joy"), 2)
    | dict.fromkeys(_words("gem triumph marvel classic masterpiece"), 3),
    -1: dict.fromkeys(_words("bore dud letdown misfire"), 2)
    | dict.fromkeys(_words("mess failure flop disaster travesty"), 3),
}
ADVICE = {
    1: dict.fromkeys(_words("see catch cherish"), 2),
    -1: dict.fromkeys(_words("skip avoid dodge"), 2),
}

# Words in every world.
FIXED = {
    "number": tuple(map(str, range(100))),
    "copula": _words("was felt seemed looked"),
    "made": _words("made kept"),
    **{word: (word,) for word in ("the", "it", "i", "is", "a")},
    "credit": _words("by with"),
    "link": _words("given despite"),  # to an opening of the same, of another sentiment
    **{"stop": (".",), "comma": (",",), "bang": ("!",), "colon": (":",), "ask": ("?",)},
    "relation": _words("director star genre year home friend"),
    "form": _words("review question translate compare rate"),
    "skill": _words("of 's plus better score"),
    "label": ("A", "B"),
}

# Onsets and endings of the toy language.
TOY = _words("ka lo mi su te ro na vi"), _words("ki lu mo pa ta")
