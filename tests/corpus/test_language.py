"""Languages: by script as by fastText, of short texts, of mixed texts with shares, and none where nothing tells."""

from __future__ import annotations

import csv
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus.language import ALONE, clean, identify, languages, predict
from tests.support.shared import shared

# One sentence in each language that has a script to itself ("All human beings are born free and equal").
FREE = {
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "hy": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "lo": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "km": "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងភាពស្មើៗគ្នាក្នុងសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ",
    "my": "လူတိုင်းသည် တူညီလွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း မွေးဖွားလာသူများ ဖြစ်သည်။",
    "si": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත. ගරුත්වයෙන් හා අයිතිවාසිකම්වලින් සමාන වෙති.",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; மதிப்பிலும் உரிமைகளிலும் சமமானவர்கள்.",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ ಹಾಗೂ ಘನತೆ ಮತ್ತು ಹಕ್ಕುಗಳಲ್ಲಿ ಸಮಾನರಾಗಿದ್ದಾರೆ.",
    "ml": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചിട്ടുള്ളവരാണ്.",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।",
    "or": "ସବୁ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ ଏବଂ ମର୍ଯ୍ୟାଦା ଓ ଅଧିକାରରେ ସମାନ।",
    "bo": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང་ཐོབ་ཐངགི་རང་དབང་འདྲ་མཉམ་དུ་ཡོད།",
    "dv": "ހުރިހާ އިންސާނުން ވެސް އުފަންވަނީ މިނިވަންކަމުގައި ހަމަހަމަ ޙައްޤުތަކެއް ލިބިގެންވާ ބައެއްގެ ގޮތުގައެވެ.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
}
NOTHING = ["", " ", "1 2 3", "== | ==", "\n\n", "\ud800", "☃☃☃"]


@pytest.mark.parametrize("language", list(ALONE))
def test_a_script_of_one_language_tells_what_fasttext_tells(language: str) -> None:
    found = languages(FREE[language])
    assert found.language == language == predict(clean(FREE[language]), 1)[0][0]
    assert found.probability > 0.9 and found.second == ""


def problems() -> dict[str, list[str]]:
    texts = {}
    for path in sorted(shared("data/benchmarks/mgsm").glob("mgsm_*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            texts[path.stem[5:]] = [row[0] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return texts


def test_short_texts_are_told_in_eleven_languages_as_well_as_by_all_of_their_text() -> None:
    for language, texts in problems().items():
        right, whole = ([find(text)[0] == language for text in texts] for find in (languages, by_all_of_it))
        assert sum(right) >= sum(whole) and sum(right) / len(texts) >= (0.93 if language == "sw" else 0.99), language


def by_all_of_it(text: str) -> tuple[str, float]:
    return identify(text, 10**9)


def test_an_english_frame_does_not_speak_for_the_page() -> None:
    frame = "\n".join(["Home", "Previous page", "Next page", "Contents of this book", "Search the documentation"])
    for language, texts in problems().items():
        page = "\n".join([frame, *texts[:12], frame])
        assert languages(page).language == language


def test_the_second_language_is_named_with_its_share() -> None:
    draw, texts = random.Random(1), problems()
    errors, named = [], 0
    pairs = [(a, b) for a in texts for b in texts if a != b]
    for first, second in draw.sample(pairs, 60):
        parts = [draw.choice(texts[first]) for _ in range(14)]
        parts += [draw.choice(texts[second]) for _ in range(6)]
        draw.shuffle(parts)
        found = languages("\n".join(parts), 1200)
        true = dict.fromkeys((first, second), 0)
        for part in parts:
            dense = {"zh": 3, "ja": 2}
            language = first if part in texts[first] else second
            true[language] += len(part) * dense.get(language, 1)
        share = true[found.second] / sum(true.values()) if found.second in true else 0.0
        named += {found.language, found.second} == {first, second}
        errors.append(abs(found.second_share - share))
    assert named >= 52
    assert sum(errors) / len(errors) < 0.12


@pytest.mark.parametrize("text", NOTHING)
def test_where_nothing_tells_there_is_no_language(text: str) -> None:
    assert languages(text)[:2] == ("", 0.0) or languages(text).probability < 0.5
    assert identify(text)[0] == "" or identify(text)[1] < 0.5


@settings(deadline=None)
@given(st.text(max_size=300))
def test_shares_and_probabilities_are_shares(text: str) -> None:
    found = languages(text, 100)
    assert 0.0 <= found.probability <= 1.0 and 0.0 <= found.second_share <= 1.0
    assert (found.second == "") == (found.second_share == 0.0)
    assert not found.second or found.second != found.language
