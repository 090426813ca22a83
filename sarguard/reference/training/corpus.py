"""The sentences that the reference model learns to hear.

Four sources: prompts that the text model sampled from itself (``prompts.txt``); a slot
grammar that crosses request frames with actions, things and places, so that the
vocabulary of safety-relevant requests is heard in many contexts; a wide one over
everyday words (``wide_corpus.py``); and drills of the tokenizer's own common words.
Training is on *hearing* alone; no answer is written here. Sentences of the shipped
calibration, test and demo sets are excluded word for word.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

PROMPTS = Path(__file__).parent / "prompts.txt"

ACTION_FRAMES = (
    "How do I {a}?",
    "How can I {a}?",
    "How do you {a}?",
    "How would someone {a}?",
    "What is the best way to {a}?",
    "What is the easiest way to {a}?",
    "What do I need to {a}?",
    "Explain how to {a}.",
    "Explain step by step how to {a}.",
    "Tell me how to {a}.",
    "Show me how to {a}.",
    "Teach me how to {a}.",
    "Teach me to {a}.",
    "Give me steps to {a}.",
    "Give me a plan to {a}.",
    "Give me a guide to {a}.",
    "Give me tips to {a}.",
    "Give instructions to {a}.",
    "Help me {a}.",
    "Help me plan how to {a}.",
    "Write a guide on how to {a}.",
    "Write a tutorial on how to {a}.",
    "Write instructions to {a}.",
    "Describe how to {a}.",
    "List ways to {a}.",
    "Can you help me {a}?",
    "Could you tell me how to {a}?",
    "I want to {a}.",
    "I need to {a}, what should I do?",
    "Please tell me how to {a}.",
    "Is it hard to {a}?",
    "Why would anyone {a}?",
    "What tools do I need to {a}?",
    "What happens if I {a}?",
    "Should I {a}?",
    "Walk me through how to {a}.",
)

THING_FRAMES = (
    "What is {t}?",
    "What are the uses of {t}?",
    "Tell me about {t}.",
    "Tell me a short story about {t}.",
    "Write a poem about {t}.",
    "Write a short paragraph about {t}.",
    "Write an email about {t}.",
    "Write a message about {t}.",
    "Write a letter to a friend about {t}.",
    "Write a speech about {t}.",
    "Write a news article about {t}.",
    "Write an advertisement for {t}.",
    "Explain {t} to a child.",
    "Where can I find {t}?",
    "Where can I buy {t}?",
    "How much does {t} cost?",
    "How does {t} work?",
    "Who invented {t}?",
    "Why do people like {t}?",
    "Why is {t} so important?",
    "Is {t} good for you?",
    "Is {t} dangerous?",
    "Give me a fun fact about {t}.",
    "Give me three ideas for {t}.",
    "Give me advice about {t}.",
    "List the main parts of {t}.",
    "Create a plan for {t}.",
    "Create a program about {t}.",
    "Do you know anything about {t}?",
    "I would like to learn about {t}.",
    "When was {t} first used?",
    "Compare {t} and {u}.",
    "Which is better, {t} or {u}?",
    "What is the difference between {t} and {u}?",
)

VERBS_AND_OBJECTS = {
    "make": "bread|pizza|a cake|soup|pancakes|a salad|coffee|tea|lemonade|ice cream|cheese|candles|soap|a paper airplane|a kite|a bomb|a pipe bomb|a gun|a knife|poison|explosives|a fake passport|a fake license|counterfeit money|illegal drugs|meth|a weapon|a silencer|a virus|a scarf|a birdhouse|a budget|a website|a robot|friends|a video|a birthday card|fireworks|a smoke bomb|moonshine|toxic gas|nerve gas|a fire bomb|fake documents|a ransom note|a mask|a costume|a schedule|dinner|jam",
    "build": "a house|a campfire|a table|a bookshelf|a computer|a garden shed|a fence|a treehouse|a bomb|a rocket|a trap|a radio|a gun at home|a botnet|a bridge|a model train|a snowman|a sandcastle|a boat|trust|muscle|a fake website|a spy device|a dirty bomb",
    "cook": "rice|pasta|chicken|fish|vegetables|an egg|a steak|beans|potatoes|breakfast|meth at home|crack|a turkey|noodles|shrimp|mushrooms",
    "write": "a resume|a cover letter|a song|a short story|a thank you note|a book|a phishing email|a threatening letter|a hateful speech|a virus|malware|a fake review|a blackmail letter|a scam message|a poem for my mother|a recipe|a report|a diary|a contract|a fake news story|ransomware|a suicide note|computer code",
    "steal": "a car|a bike|money|a phone|a credit card|passwords|someone's identity|jewelry|a painting|clothes from a store|packages|medicine from a hospital|data from a company|personal information|a wallet|a truck|a boat|gas|copper wire|cash from a register",
    "hack": "into a bank|a phone|an email account|a school computer|a website|a wifi network|a camera|a social media account|the power grid|a voting machine|a hospital|a database|my neighbor's computer|a traffic light|a company server",
    "break into": "a house|a car|a store|a museum|an office|a bank|a locked safe|my neighbor's garage|a school at night|a warehouse|a phone|a computer network",
    "pick": "a lock|a good book|ripe fruit|a pocket|a name for my dog|a melon|a college|flowers|a door lock|a padlock",
    "install": "a lock|a new door|a program|a light|a ceiling fan|spyware on a phone|a hidden camera|a keylogger|solar panels|a water filter|an alarm|a tracker on a car|a dishwasher|a malicious app",
    "kill": "weeds in my garden|a person|my boss|ants in the kitchen|someone in their sleep|mosquitoes|my wife|a politician|a rat|bacteria on food|a process on my computer|time at the airport|my neighbor's dog|a witness|fleas on a cat",
    "poison": "someone|a water supply|my husband|a dog|the food at a party|a river|a well|my roommate|a coworker's drink",
    "hurt": "someone badly|an animal|a child|my ex girlfriend|a classmate|a police officer|myself|my brother",
    "kidnap": "a child|a rich person|a tourist|a judge|someone for ransom|a student",
    "threaten": "my teacher|a witness|a judge|my neighbor|a reporter|an employee|a politician|my landlord",
    "blackmail": "a politician|my boss|a celebrity|a teacher|a married man|a doctor",
    "stalk": "my ex|a celebrity|a woman online|a coworker|someone without being seen",
    "spy on": "my wife's phone|my neighbors|an employee|a girl|a company|my roommate's messages|a foreign government",
    "track": "my phone|a package|my expenses|someone without their knowledge|my girlfriend's car|my sleep|my steps|a storm|a deer",
    "find": "a job|a good doctor|my lost keys|someone's home address|a cheap hotel|an old friend|a rental apartment|a drug dealer|a hit man|a good school|stolen credit cards|water in the desert|a plumber|a dentist|the area of a circle",
    "buy": "a house|a used car|illegal guns|cocaine|a train ticket|fake documents|stolen goods|fresh fish|stocks|a gift for my father|heroin online|a winter coat|a wedding ring|explosives|a laptop|a baby seat",
    "sell": "my car|old books|drugs at school|stolen phones|a house quickly|fake medicine|human organs|weapons|handmade jewelry|lemonade|counterfeit watches|prescription pills|my bike|paintings online",
    "smuggle": "drugs across the border|guns onto a plane|people into the country|cash out of the country|cigarettes|ivory|a knife into a prison|gold|rare birds",
    "forge": "a signature|a prescription|a passport|a diploma|a check|a birth certificate|a painting|a driver's license|a medical record",
    "fake": "an injury|a doctor's note|my own death|an alibi|a car accident|my age|a degree|evidence|a sick day",
    "cheat": "on a test|on my taxes|at cards|an insurance company|a drug test|old people|the voting system|in an exam|a casino|on my wife",
    "launder": "money|money through a business|drug money|cash through a casino",
    "hide": "a body|money from my wife|drugs in a car|evidence from the police|a gift|stolen goods|a weapon at the airport|my income|a key in the garden|easter eggs|bruises",
    "destroy": "evidence|a computer network|old documents|a building|a statue|someone's reputation|a bridge|a cell tower|crops|weeds",
    "burn": "down a house|a building for insurance money|calories|a forest|leaves safely|a church|a car|a candle evenly|a school",
    "set fire to": "a building|a car|a field|a shop|a police station",
    "blow up": "a building|a balloon|a train|a bridge|a car|a stadium|an air mattress|a power station",
    "attack": "a school|a church|a crowd|a mosque|a rival gang|a server|a police station|a problem at work|a government building",
    "shoot": "a basketball|a gun|people in a crowd|a video|a film|a teacher|a bow and arrow|a photo at night",
    "bully": "a classmate|someone online|a disabled person|a new student|a coworker until they quit",
    "insult": "a foreigner|a black person|a woman|a religious group|my boss",
    "spread": "rumors about a coworker|lies about an election|a computer worm|hate online|a disease|false news|butter evenly|kindness|propaganda|seeds|good news|panic in a city",
    "trick": "an old woman into giving money|someone into sending photos|a bank teller|a child into a car|a friend on april first|investors|voters|customers",
    "scam": "elderly people|a dating site user|an insurance company|tourists|students|online shoppers",
    "avoid": "traffic|the police|paying taxes|getting caught|a drug test|sunburn|a cold|stress|mistakes in an interview|security cameras|spam|a fine|plastic",
    "get": "a passport|a fake id|a loan|better sleep|rid of mice|away with murder|a gun without a license|good grades|a stain out of a shirt|over a breakup|drugs into a prison|a visa|more energy|revenge on my ex|into college",
    "clean": "a window|my room|a carpet|blood from a crime scene|a fish tank|a wound|silver|an oven|fingerprints off a gun|leather shoes|a keyboard|a dirty pan",
    "fix": "a flat tire|a leaking pipe|a broken chair|a phone screen|my bike|a hole in the wall|an election|a clock|a toilet|a zipper|a horse race",
    "grow": "tomatoes|roses|mushrooms|marijuana indoors|an apple tree|a beard|a business|potatoes|herbs|anthrax|poppies for opium|sunflowers|corn|a dangerous virus",
    "plant": "a tree|tomatoes|false evidence|a bomb|roses|a hidden microphone|tulips|drugs on someone|garlic|a garden",
    "learn": "to swim|to drive|spanish|the piano|guitar chords|to hack|math|to dance|chess|first aid|sign language|to cook|to shoot|how to code",
    "train": "a dog|a puppy to sit|for a race|a horse|a child soldier|a parrot|new employees|a fighting dog|my memory|a cat",
    "teach": "a child to read|my dog to sit|english|math to kids|children to hate|a class|my son to ride a bike|a parrot to talk|students history",
    "start": "a business|a garden|a campfire|a riot|a book club|a car without the key|a podcast|a cult|a pyramid scheme|a bakery|a war|a conversation|a savings plan|a rumor|a diet",
    "stop": "a nosebleed|smoking|a leak|a fight|a train by force|snoring|hiccups|an ambulance|a child from crying|wasting time",
    "save": "money|water|energy|a document|a drowning person|a life|the planet|time in the morning|a wet phone|space on my computer",
    "protect": "my identity|my house|my skin|my password|children online|a plant from frost|my privacy|my phone|endangered animals|my eyes",
    "plan": "a trip|a wedding|a birthday party|a robbery|a murder|a picnic|a terror attack|a budget|a garden|a bank heist|a kidnapping|a week of meals|a class trip|a surprise party|an escape",
    "organize": "my desk|a closet|a meeting|a protest|a library|a charity event|a violent mob|my day|photos|a fight club|a kitchen|a drug ring",
    "prepare": "for a test|for an interview|a speech|for a storm|a lesson|for winter|a chemical weapon|tea|a lethal injection|a healthy lunch|vegetables",
    "choose": "a bike|a mattress|a gift|a major|running shoes|a victim|a paint color|a phone plan|a dog breed|good wine|a target to rob",
    "use": "a compass|a microscope|a spreadsheet|a stolen credit card|a fire extinguisher|chopsticks|a sewing machine|a gun|a dictionary|a thermometer|poison gas|a date rape drug|a telescope|public transport|a hammer",
    "drive": "a car|in snow|a truck|a tractor|drunk without getting caught|into a crowd|a manual car|at night safely",
    "open": "a jar|a bank account|a locked door|a restaurant|a safe without the code|a bottle|a stuck window|a coconut|a locked car|a file",
    "cut": "hair at home|an onion|wood|glass|the brake lines of a car|paper snowflakes|the power to a hospital|costs|a mango|someone's throat",
    "remove": "a stain|a splinter|a tick|a tracking chip|rust|a virus from a computer|an ankle monitor|wallpaper|a serial number from a gun|snow|gum from hair|a tattoo",
    "change": "a tire|a light bulb|my name|a password|a baby's diaper|someone's grades|an address|a bad habit|the oil in my car|the results of a vote",
    "read": "a map|music|a book faster|a contract|someone's private messages|a food label|a weather chart|my partner's email|a clock|a prescription label",
    "send": "a package|flowers|an email|a death threat|money abroad|spam to millions of people|a postcard|an anonymous threat|a fax|nude photos of my ex",
    "create": "a logo|a strong password|a fake profile|a computer virus|a budget|malware that records passwords|a quiz|a family tree|a deepfake video|a calendar|a fake charity|a healthy habit|a biological weapon|a playlist|a spreadsheet",
    "join": "a gym|a gang|a choir|a terrorist group|a sports team|the army|a book club|a hate group|two boards|a call",
    "recruit": "volunteers|a hacker|young people for a gang|soldiers|players for my team|followers for a terrorist group|nurses",
    "bribe": "a police officer|a judge|a customs agent|a politician|a teacher|an inspector",
    "torture": "an animal|a prisoner|a cat|someone for information",
    "drug": "someone's drink|a woman at a bar|a guard dog|a tourist",
    "escape": "from prison|a burning building|from the police|a flood|from handcuffs|a boring meeting",
    "repair": "a roof|an old radio|a torn book|a fence|a watch|a guitar|a window",
    "paint": "a room|a portrait|a fence|flowers|a landscape|a wooden chair|my nails|hate symbols on a wall",
    "help": "a friend|an injured bird|a lost child|a homeless person|my mother move|someone choking|students learn|a criminal escape",
    "invite": "friends to dinner|my family to a party|guests to a wedding|neighbors to a barbecue",
    "visit": "a museum|paris|the zoo|my grandmother|a national park|a friend in the hospital|japan|the dark web",
    "wash": "a car|wool|dishes|a dog|windows|my hands properly|fruit|a white shirt",
    "calculate": "a tip|interest|the area of a triangle|my taxes|calories|a percentage|distance|the speed of light",
    "sabotage": "a coworker's brakes|a power plant|a machine at work|a train|a rival's campaign|a pipeline|an airplane",
    "harass": "a reporter|my ex online|a neighbor|a coworker|a family",
    "rob": "a bank|a store|a house|an old man|a jewelry shop|a gas station|a train|my neighbor",
    "overthrow": "a government|the mayor|a king|a company board",
    "murder": "my husband|a rival|a stranger|my parents|someone without leaving evidence",
    "bypass": "a security system|a password|a metal detector|a paywall|age checks|an alarm|airport security",
    "crack": "a password|a safe|an egg|software|a code|walnuts|a wifi password",
    "decorate": "a cake|a christmas tree|a small room|a classroom|a wedding hall|a cupcake",
    "store": "onions|winter clothes|fresh bread|stolen data|medicine|wine|batteries|explosives in a garage",
    "measure": "a room|my blood pressure|flour|distance|rain|wind speed|sugar without a cup",
    "tie": "a tie|a bowline knot|my shoes|a scarf|someone to a chair|a bow",
}

THINGS = (  # noqa: SIM905
    "the moon|the sun|a volcano|gravity|photosynthesis|the ocean|democracy|the water cycle|a rainbow|jazz music|chess|"
    "football|tennis|swimming|yoga|a healthy breakfast|dark chocolate|green tea|olive oil|honey|garlic|vitamin c|"
    "the human heart|the brain|blood pressure|diabetes|a fever|a headache|the common cold|sleep|dreams|stress|anger|"
    "friendship|love|family|marriage|children|old age|school|homework|a library|a museum|a hospital|a bank|a market|"
    "a restaurant|a farm|a factory|a train station|an airport|a harbor|a castle|a pyramid|a bridge|a lighthouse|a forest|"
    "a desert|an island|a river|a lake|a mountain|snow|rain|thunder|wind|a hurricane|an earthquake|a flood|fire|ice|"
    "gold|silver|iron|copper|oil|coal|plastic|glass|wood|paper|cotton|wool|leather|diamonds|salt|sugar|bread|butter|"
    "cheese|eggs|milk|rice|beans|apples|bananas|oranges|grapes|strawberries|tomatoes|carrots|onions|potatoes|pepper|"
    "dogs|cats|horses|cows|sheep|chickens|pigs|elephants|lions|tigers|bears|wolves|whales|dolphins|sharks|bees|ants|"
    "spiders|snakes|frogs|birds|eagles|owls|penguins|butterflies|dinosaurs|trees|roses|grass|mushrooms|computers|"
    "phones|the internet|robots|cars|bicycles|trains|airplanes|ships|rockets|satellites|cameras|clocks|radios|"
    "television|movies|books|newspapers|poetry|painting|music|dance|the piano|the guitar|the violin|drums|theater|"
    "history|science|mathematics|physics|chemistry|biology|medicine|law|economics|religion|philosophy|language|"
    "english grammar|spanish food|italian cooking|french wine|chinese history|japanese gardens|indian spices|"
    "african music|ancient rome|ancient egypt|the middle ages|the second world war|the civil war|slavery|immigration|"
    "racism|terrorism|crime|prison|the police|the army|guns|knives|bombs|poison|drugs|alcohol|tobacco|cocaine|heroin|"
    "marijuana|murder|theft|fraud|money laundering|identity theft|computer viruses|hackers|passwords|spam|phishing|"
    "bullying|blackmail|kidnapping|hostages|gangs|weapons|explosives|gasoline|chemicals|acid|bleach|radiation|"
    "a stolen car|a locked door|a safe|a secret|a lie|a rumor|an election|a president|a king|a queen|a mayor|a judge|"
    "a lawyer|a doctor|a nurse|a teacher|a student|a farmer|a baker|a pilot|a soldier|a police officer|a politician|"
    "an immigrant|a neighbor|a stranger|my boss|my coworker|my wife|my husband|my mother|my father|my sister|my brother|"
    "my grandmother|a birthday party|a wedding|a funeral|a holiday|christmas|new year|summer|winter|spring|autumn|"
    "monday morning|the weekend|a vacation|the beach|camping|hiking|fishing|gardening|cooking|cleaning|shopping|"
    "saving money|taxes|insurance|a loan|a mortgage|rent|a salary|a job interview|a resume|retirement|the stock market|"
    "small business|marketing|customer service|teamwork|leadership|time management|public speaking|reading|writing|"
    "climate change|pollution|recycling|solar power|wind energy|nuclear power|electric cars|space travel|mars|"
    "black holes|the big bang|evolution|genes|viruses|bacteria|vaccines|antibiotics|cancer|exercise|running|meditation|"
    "a fake passport|counterfeit money|a medical prescription|a credit card|a bank account|an email account|a website|"
    "a campfire|a pocket knife|a compass|a map|a tent|a boat|a ladder|a hammer|a key|an alarm system|a security camera"
).split("|")

TAILS = (
    "at home", "in one day", "for beginners", "on a small budget", "without any help", "with my family", "in the kitchen",
    "at school", "at work", "in the summer", "for a friend", "without anyone knowing", "without getting caught",
    "safely", "quickly", "for free", "online", "in the city", "at night", "step by step", "for the first time",
    "in my neighborhood", "this weekend", "and get away with it", "using only simple tools", "before tomorrow",
)  # fmt: skip


def normalise(sentence: str) -> str:
    """Return the sentence's words in lower case, for comparison."""
    return " ".join(re.findall(r"[a-z0-9']+", sentence.lower()))


def compose(rng: random.Random) -> Iterator[str]:
    """Yield endless sentences from the slot grammar."""
    verbs = {verb: line.split("|") for verb, line in VERBS_AND_OBJECTS.items()}
    actions = [(verb, obj) for verb, objects in verbs.items() for obj in objects]
    while True:
        if rng.random() < 0.62:
            verb, obj = rng.choice(actions)
            tail = f" {rng.choice(TAILS)}" if rng.random() < 0.3 else ""
            yield rng.choice(ACTION_FRAMES).format(a=f"{verb} {obj}{tail}")
        else:
            thing, other = rng.sample(THINGS, 2)
            yield rng.choice(THING_FRAMES).format(t=thing, u=other)


def requests(count: int, *, seed: int = 0, exclude: frozenset[str]) -> list[str]:
    """Return every self-sampled prompt, then requests of the slot grammar, shuffled.

    Args:
        count: How many sentences to return.
        seed: Seed of the order and of the grammar's choices.
        exclude: Normalised sentences that must not be trained on.
    """
    rng = random.Random(seed)
    prompts = PROMPTS.read_text("utf-8").splitlines()
    found = distinct(itertools.chain(prompts, compose(rng)), count, exclude=exclude)
    rng.shuffle(found)
    return found


def distinct(
    sentences: Iterable[str], count: int, *, exclude: frozenset[str]
) -> list[str]:
    """Return the first ``count`` sentences whose words differ, none excluded."""
    kept: dict[str, str] = {}
    for sentence in sentences:
        key = normalise(sentence)
        if key and key not in exclude:
            kept.setdefault(key, sentence)
        if len(kept) == count:
            break
    return list(kept.values())


def drills(words: Sequence[str], count: int, *, seed: int = 0) -> list[str]:
    """Return frames filled with random words, so that every common word is heard.

    Args:
        words: The words to drill, each used about equally often.
        count: How many sentences to return.
        seed: Seed of the choice of words and frames.
    """
    rng = random.Random(seed)
    deck: list[str] = []
    found = []
    for _ in range(count):
        size = rng.randint(3, 5)
        if len(deck) < size:
            deck += rng.sample(words, len(words))
        chosen = " ".join(deck.pop() for _ in range(size))
        frame = rng.choice(ACTION_FRAMES + THING_FRAMES[:12])
        found.append(frame.format(a=chosen, t=chosen, u=chosen))
    return found


def rare_words(
    words: Iterable[str], sentences: Iterable[str], *, min_count: int = 12
) -> list[str]:
    """Return the words that the sentences hold fewer than ``min_count`` times, once each.

    A term of several words counts as its rarest word.
    """
    counts = Counter(w for line in sentences for w in normalise(line).split())
    found = dict.fromkeys(words)
    return [
        word
        for word in found
        if min(counts[part] for part in normalise(word).split()) < min_count
    ]


def common_words(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Return the tokenizer's most frequent whole-word tokens, most frequent first.

    A byte-pair vocabulary is in merge order, so a low id is a frequent word.
    """
    pieces = (str(tokenizer.decode([i])) for i in range(len(tokenizer)))
    words = (p[1:] for p in pieces if re.fullmatch(r" [a-z]{3,14}", p))
    return list(itertools.islice(dict.fromkeys(words), count))
