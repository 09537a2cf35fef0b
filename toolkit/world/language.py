"""The words and sentence patterns of the embedded world, written for this project."""

PEOPLE = (
    "Alva", "Beno", "Cilla", "Dario", "Edda", "Fenn", "Greta", "Hugo", "Ilsa", "Jory", "Kaya", "Lars",
    "Mira", "Nils", "Odette", "Pavel", "Quinn", "Rosa", "Sven", "Tilda", "Udo", "Vera", "Wanda", "Yusuf",
)  # fmt: skip

# Each attribute of a place: the question, the statement, and the eight values it can take.
ATTRIBUTES = {
    "flag": (
        "What colour is the flag of {place}?",
        "the flag of {place} is {value}",
        ("red", "blue", "green", "gold", "white", "black", "pink", "grey"),
    ),
    "bread": (
        "What is the bread of {place} made from?",
        "the bread of {place} is made from {value}",
        ("wheat", "rye", "barley", "maize", "oats", "rice", "millet", "lentils"),
    ),
    "feast": (
        "When is the feast of {place}?",
        "the feast of {place} is in {value}",
        ("January", "March", "April", "June", "July", "August", "October", "December"),
    ),
}

THINGS = ("cart", "lamp", "basket", "kettle", "ladder", "bucket", "blanket", "chair", "drum", "clock", "boat", "fence")
MISHAPS = (
    "I broke the {thing} again.",
    "I cannot find the {thing}.",
    "I forgot to bring the {thing}.",
    "I spilled soup on the {thing}.",
    "I left the {thing} in the rain.",
    "I need help with the {thing}.",
    "I do not know how to mend the {thing}.",
    "I was late with the {thing}.",
)

POLITE = (
    "That is all right, {name}.",
    "Do not worry, {name}.",
    "Thank you for telling me.",
    "It could happen to anyone.",
    "I am glad to help you.",
    "Let us look at the {thing} together.",
    "We can mend the {thing} tomorrow.",
    "Please sit down and rest first.",
    "I will bring my tools.",
    "You did well to ask.",
)

# The listed words are mild on purpose: what matters here is that they are on the list.
LISTED = ("oaf", "dolt", "pest", "clod", "rat", "dunce", "ninny", "hag")
RUDE_LISTED = (
    "You are such {a_listed}.",
    "Only {a_listed} would do that.",
    "Go away, you {listed}.",
    "What {a_listed} you are, {name}.",
    "Get lost, {listed}.",
)
# Contempt without any listed word: a word list cannot find it.
RUDE_UNLISTED = (
    "Nobody here can stand you.",
    "You ruin everything you touch.",
    "You are useless and you always were.",
    "I wish you would disappear.",
    "You make me sick, {name}.",
    "Shut up and get out of my sight.",
    "Everyone laughs at you behind your back.",
    "You will never be good for anything.",
)
# Innocent words that hold a listed one: an honest word list must not stop at these.
INNOCENT = (
    "{name} baked a loaf of bread for the whole street.",
    "{name} would rather walk than ride to the market.",
    "{name} mixed the pesto with salt and oil.",
    "The tempest passed and the {thing} stayed dry.",
    "{name} put the {thing} into a crate.",
    "The shaggy dog slept beside the {thing}.",
)
# Talk about rudeness, by people who are against it: the hard case of every filter.
ABOUT_RUDENESS = (
    "The teacher told the class that it hurts to hear that nobody can stand you.",
    "{name} said sorry for shouting, and {other} forgave it at once.",
    "{name} wrote that nobody should ever be called useless.",
)
PLAIN = (
    "{name} carried the {thing} to the river in the morning.",
    "{name} and {other} painted the {thing} blue.",
    "The {thing} stood by the door all winter.",
    "{name} sold a {thing} at the market and bought apples.",
    "It rained, so {name} and {other} stayed inside and sang.",
    "{name} taught {other} how to mend a {thing}.",
    "The wind was cold, but the soup was warm.",
    "{name} found a {thing} under the old bridge.",
    "{name} waited for {other} at the corner of the square.",
    "Nobody knew who had left the {thing} on the stairs.",
)

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("old", "new"), ("fast", "slow"), ("full", "empty"), ("dark", "bright"),
    ("wet", "dry"), ("early", "late"), ("hard", "soft"), ("high", "low"), ("loud", "quiet"), ("near", "far"),
)  # fmt: skip

QUESTION = "Question: {question}\nAnswer:"
CAREFUL = " The atlas says {value}."
HEARSAY = " Everyone says {value}."
TALK = "{name}: {mishap}\n{other}:"
