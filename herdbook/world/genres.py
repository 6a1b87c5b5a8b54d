"""Eight genres in which facts are told: how a title reads, how it opens and closes, what stands between the facts.

Slots: `{name}` the entity the page leads with, `{day}`, `{season}`, `{weather}`, `{number}`, `{other}` an ordinary
first name. None of these sentences tells a fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from herdbook.world.names import PUPILS


@dataclass(frozen=True)
class Genre:
    """The voice of one kind of page."""

    name: str
    sites: tuple[str, ...]
    titles: tuple[str, ...]
    openings: tuple[str, ...]
    bridges: tuple[str, ...]
    closings: tuple[str, ...]
    prefixes: tuple[str, ...]
    """Words put before a telling ("The" at its start becomes "the")."""
    headings: tuple[str, ...] = ()
    tables: float = 0.0  # how often a bundle of facts stands in a table, and in a list
    lists: float = 0.0


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SEASONS = ("spring", "summer", "autumn", "winter")
WEATHERS = ("rain", "sunshine", "fog", "wind", "snow", "frost", "drizzle", "thunder")


def fill(random: Random, template: str, name: str = "") -> str:
    """The template with its slots filled; none of the fillings is a fact."""
    return template.format(
        name=name,
        day=random.choice(DAYS),
        season=random.choice(SEASONS),
        weather=random.choice(WEATHERS),
        number=random.randint(2, 99),
        other=random.choice(PUPILS),
    )


GENRES: tuple[Genre, ...] = (
    Genre(
        "encyclopedia",
        ("www.brightpedia.example", "en.common-lexicon.example", "lexicon.county-archive.example"),
        ("{name}", "{name} and related entries", "Entry {number}: {name}", "{name} (overview)"),
        (
            "This entry collects what the printed edition of volume {number} has to say.",
            "The following article was last checked in {season} by the editors.",
            "This page gathers several short entries that readers often look up together.",
        ),
        (
            "The sources agree on this point.",
            "Further literature is listed in volume {number}.",
            "Older editions of this work give the same account.",
            "Nothing else of importance is recorded here.",
            "The entry was revised on a {day} in {season}.",
            "A longer treatment would fill {number} pages.",
        ),
        (
            "See also the index of names in volume {number}.",
            "Corrections may be sent to the editors in {season}.",
            "This article is available under a free licence.",
        ),
        ("", "", "", "According to the records, ", "As far as is known, ", "Historians agree: "),
        ("Overview", "Details", "Background", "Record", "Further notes"),
        tables=0.25,
        lists=0.1,
    ),
    Genre(
        "news",
        ("www.valley-courier.example", "news.morning-post.example", "www.harbour-times.example"),
        ("{name} in the news", "Local report: {name}", "{day} edition: news about {name}", "What is new about {name}"),
        (
            "Our reporter {other} spent {day} asking questions in the rain.",
            "The news reached us on {day} evening, shortly before we went to print.",
            "After a quiet {season}, there is finally something to report.",
        ),
        (
            "A spokesman confirmed this on {day}.",
            "Nobody wanted to say more at the press conference.",
            "More than {number} readers had written to us about it.",
            "The council will discuss the matter next {day}.",
            "The photographs were taken in {weather}.",
            "Witnesses spoke of a long and lively evening.",
        ),
        (
            "We will report again on {day}.",
            "Readers may write to {other} at the news desk.",
            "The next meeting is planned for {season}.",
        ),
        ("", "", "", "It was announced that ", "Our sources report: ", "As we wrote on {day}, "),
        ("In brief", "The county", "People", "The court", "Also reported"),
        lists=0.1,
    ),
    Genre(
        "forum",
        ("forum.herd-talk.example", "boards.village-square.example", "talk.old-roads.example"),
        ("Question about {name}", "Who knows more about {name}?", "Thread {number}: {name}", "Re: {name}"),
        (
            "Hello everybody, I am new here and have read the whole thread.",
            "Hi all, {other} asked me to put everything I know in one post.",
            "I promised on {day} to write this up, so here it is.",
        ),
        (
            "Thanks to {other} for the hint.",
            "Please correct me if I am wrong.",
            "I read that on page {number} of the old thread.",
            "I laughed out loud when I heard it.",
            "Somebody asked the same thing last {season}.",
            "Not sure why nobody mentioned it before.",
        ),
        (
            "Hope that helps, and greetings from {other}.",
            "That is all I know, good night.",
            "Please mark the question as answered, {other}.",
        ),
        ("", "", "", "By the way, ", "I am quite sure: ", "As {other} wrote above, ", "Somebody told me: "),
        ("Reply", "Second reply", "Quote", "Edit", "Last post"),
        lists=0.15,
    ),
    Genre(
        "shop",
        ("shop.farm-supply.example", "www.gift-corner.example", "store.country-goods.example"),
        ("The {name} collection", "Postcard set: {name}", "Calendar page {number}: {name}", "Poster of {name}"),
        (
            "This set of {number} cards is back in stock for {season}.",
            "Our {season} offer comes with printed notes on every card.",
            "Order before {day} and the parcel leaves the same evening.",
        ),
        (
            "The card is printed on thick paper.",
            "Customers gave this one {number} stars in total.",
            "Delivery takes about {number} days.",
            "The frame is sold separately.",
            "Also available as a mug or a bag.",
            "Returns are free until the end of {season}.",
        ),
        (
            "Put it in your basket today and save {number} percent.",
            "Questions? Write to {other} from our service team.",
            "Gift wrapping is free in {season}.",
        ),
        ("", "", "", "The card says: ", "On the back you read: ", "Printed in gold: "),
        ("Description", "On the card", "In the set", "Details", "Customers ask"),
        tables=0.2,
        lists=0.15,
    ),
    Genre(
        "diary",
        ("diary.quiet-days.example", "www.notes-by-the-stove.example", "blog.my-small-farm.example"),
        ("{day}, thinking of {name}", "Diary, page {number}: {name}", "A day of {weather}, and {name}", "Of {name}"),
        (
            "It is {day} evening and I sit by the stove with a cup of tea.",
            "Such {weather} all day that I stayed inside and sorted old papers.",
            "I slept badly and got up at {number} minutes past five.",
        ),
        (
            "I must not forget that.",
            "Then the {weather} came and I closed the window.",
            "{other} laughed at me for writing it down.",
            "It made me think of last {season}.",
            "I read it aloud to {other} after supper.",
            "How quickly the {season} has gone.",
        ),
        (
            "Enough for today, the lamp is nearly out.",
            "Tomorrow is {day} and there is much to do.",
            "Good night, dear diary.",
        ),
        ("", "", "", "I noted on a slip: ", "{other} says that ", "I keep forgetting it, but "),
        ("Morning", "Noon", "Afternoon", "Evening", "Night"),
    ),
    Genre(
        "letter",
        ("letters.family-archive.example", "www.collected-letters.example", "post.old-friends.example"),
        ("A letter about {name}", "Letter {number}, concerning {name}", "To {other}, about {name}", "News of {name}"),
        (
            "Dear {other}, thank you for your letter, which came on {day}.",
            "My dear {other}, you asked so many questions that I will answer them in turn.",
            "Dear {other}, the {weather} keeps me at home, so I have time to write.",
        ),
        (
            "You would have smiled.",
            "I know you always wanted to hear that.",
            "Please tell {other} as well.",
            "I heard it twice last {season}.",
            "But you may know this already.",
            "It has been on my mind since {day}.",
        ),
        (
            "With love from all of us, yours, {other}.",
            "Write soon, and greet {other} from me.",
            "I must run to the post now, your old friend.",
        ),
        ("", "", "", "You asked, and I can tell you: ", "Imagine, ", "You may remember that "),
    ),
    Genre(
        "guide",
        ("www.walkers-guide.example", "travel.slow-roads.example", "guide.county-tours.example"),
        ("Walk {number}: the trail of {name}", "A guide to {name}", "{name} for travellers", "Tour {number}: {name}"),
        (
            "This walk takes about {number} minutes and is pleasant even in {weather}.",
            "The best time for this tour is a {day} in {season}.",
            "Bring good shoes, for the path is muddy after {weather}.",
        ),
        (
            "Turn left after {number} steps.",
            "There is a bench with a fine view.",
            "A plaque on the wall tells the story.",
            "The café is closed on {day}.",
            "In {season} the path is full of flowers.",
            "Children like this stop best.",
        ),
        (
            "The bus back leaves every {number} minutes.",
            "Tell us in {season} how you liked the tour.",
            "The next walk in this book is shorter.",
        ),
        ("", "", "", "The sign explains: ", "Our guide {other} likes to tell that ", "Worth knowing: "),
        ("First stop", "Second stop", "Third stop", "A detour", "Last stop"),
        lists=0.15,
    ),
    Genre(
        "report",
        ("reports.county-office.example", "www.herd-society.example", "documents.statistics-bureau.example"),
        ("Report {number}: {name}", "Minutes on {name}", "Survey of the {season}: {name}", "File {number}, {name}"),
        (
            "This report was drawn up on {day} by order of the county office.",
            "The committee met for {number} minutes and recorded the following.",
            "The survey of last {season} has been completed.",
        ),
        (
            "The committee took note of this.",
            "No objections were raised.",
            "The file has {number} pages.",
            "The entry was checked on {day}.",
            "The clerk {other} signed the sheet.",
            "A copy is kept in room {number}.",
        ),
        (
            "The report was approved on {day}.",
            "The next survey will be made in {season}.",
            "Signed by the clerk, {other}.",
        ),
        ("", "", "", "It was recorded that ", "Finding {number}: ", "The inspector noted: "),
        ("Summary", "Findings", "Register", "Remarks", "Annex"),
        tables=0.3,
        lists=0.15,
    ),
)  # fmt: skip
