"""Plain prose about nothing, in five languages, for pages that tell no fact of the world.

Pages that curation ought to drop need a text of their own: were they made of the world's articles, a
fact would be told more often than its exposure group says. Sentences are drawn from so many
combinations that two pages hardly ever share one.
"""

from __future__ import annotations

import random

_WHEN = {
    "en": (
        "On Monday|Last winter|Before sunrise|After the market|In early spring|That evening|Around noon|"
        "One rainy day|During the holidays|At the end of the week"
    ),
    "de": (
        "Am Montag|Im letzten Winter|Früh am Morgen|Nach dem Frühstück|Im März|An jenem Abend|Gegen Mittag|"
        "Während der Kälte|Über die Feiertage|Kürzlich"
    ),
    "fr": (
        "Lundi|L'été passé|Très tôt|Après le déjeuner|À la mi-février|Ce soir-là|Vers midi|Un jour mouillé|"
        "Pendant l'été|À la fin du mois d'août"
    ),
    "es": (
        "El sábado|El otoño pasado|Muy de mañana|Después del café|A mediados de año|Aquella mañana|Al mediodía|"
        "Un día lluvioso|Según la tradición|En época de lluvia"
    ),
    "it": (
        "Lunedì|L'estate già finita|Prima del caffè|Dopo la città|A metà giovedì|Quella sera così buia|"
        "Verso la metà|Un martedì piovoso|Venerdì|Più tardi"
    ),
}
_WHO = {
    "en": (
        "the old gardener|a young carpenter|our neighbour|the night watchman|a travelling musician|"
        "the ferry pilot|my aunt|the new postman|a quiet student|the baker|two fishermen|the school choir"
    ),
    "de": (
        "hörte der Gärtner|sägte die Tischlerin|prüfte unser Nachbar|wählte der Wächter|kürzte die Schülerin|"
        "schälte der Bäcker|zählte die Müllerin|öffnete der Förster|führte die Köchin|löste der Händler"
    ),
    "fr": (
        "le vieux jardinier|un étudiant|notre voisine âgée|le pêcheur|une élève|le boulanger fatigué|"
        "la fée du théâtre|un musicien étranger|le maître d'école|ma tante aînée"
    ),
    "es": (
        "el jardinero añoso|un músico|nuestra vecina pequeña|el pescador de caña|una niña|el panadero cansado|"
        "la señora mayor|un compañero|el maestro español|mi tía"
    ),
    "it": (
        "il vecchio papà|la nuova libertà|il più giovane|la città intera|il portinaio, perché stanco,|"
        "mia zia, però,|il caffè all'angolo|la nobiltà|il più vecchio|il cuoco, così dicono,"
    ),
}
_DID = {
    "en": "mended|carried|painted|counted|forgot|borrowed|washed|sold|hid|described|weighed|collected",
    "de": "plötzlich|natürlich|endgültig|höflich|mühsam|fröhlich|gründlich|zögernd|nämlich|ungefähr",
    "fr": "a réparé|a porté|a repeint à côté|a compté|a oublié|a prêté|a lavé|a échangé|a caché|a pesé|a mélangé",
    "es": "arregló|llevó|pintó|contó|olvidó|prestó|lavó|vendió|escondió|pesó|recogió",
    "it": "riparò|portò|contò|dimenticò|prestò|lavò|comprò|mescolò|pesò|trovò",
}
_WHAT = {
    "en": (
        "seven baskets of pears|a broken lantern|the blue shutters|three letters|a heavy wheelbarrow|"
        "the copper kettle|an unfinished map|the wooden bridge|some warm bread|a box of nails|the garden fence|"
        "a pair of boots|a jar of honey"
    ),
    "de": (
        "fünf Körbe Äpfel|die kaputte Tür|drei grüne Fensterläden|zwölf Briefumschläge|eine Schüssel Nüsse|"
        "das süße Gebäck|die Brücke am Fluß|zwei Kübel Öl|das Märchenbuch|die Stühle im Flur|einen Löffel Hönig|"
        "die Schlüssel"
    ),
    "fr": (
        "sept paniers de pêches|une fenêtre cassée|la clé dorée|trois poèmes|une brouette chargée|"
        "la théière fêlée|le pré clôturé|du pain brûlé|une boîte à thé|le gâteau glacé|des bottes trouées|"
        "un vélo rouillé"
    ),
    "es": (
        "siete cajas de piñas|un farol dañado|las sábanas|tres páginas|una caña|el jamón añejo|un baúl sin llave|"
        "el árbol caído|algo de azúcar|un cajón pequeño|el jardín|un par de guantes de algodón"
    ),
    "it": (
        "sette tè freddi|la metà del pane|il comò rotto|tre tiramisù|un canapè|il sofà blu|un ragù leggero|"
        "il menù del giorno|un po' di caffè|la civiltà dei fiori|un falò spento|le novità"
    ),
}
_WHERE = {
    "en": (
        "behind the mill|near the harbour|in the attic|beside the river|under the big oak|at the station|"
        "for the summer fair|without a word|with great care|before the others woke"
    ),
    "de": (
        "hinter der Mühle|nahe dem Fährhafen|über dem Keller|gegenüber der Bäckerei|unter der Eiche für später|"
        "am Bahnübergang|für das Schützenfest|während des Regens|wegen der Kälte|für die Gäste"
    ),
    "fr": (
        "derrière le château|près de la forêt|au deuxième étage|à côté de l'église|sous le chêne|à l'arrêt|"
        "pour la fête d'été|sans délai|avec méthode|à l'étable"
    ),
    "es": (
        "detrás del molino viejo de Ávila|cerca del montón|en el desván, según él|junto al río|bajo el árbol|"
        "en la estación|para el niño|sin razón|con atención|a la montaña"
    ),
    "it": (
        "dietro la città|vicino al lungo Po, lassù|quaggiù|accanto al falò|sotto l'albero, perché no|"
        "alla stazione, però|per la festività|con curiosità|senza difficoltà|con serietà"
    ),
}
LANGUAGES = tuple(_WHEN)


def sentence(random_: random.Random, language: str = "en") -> str:
    """One sentence; the words are right, the sense is none."""
    pick = [random_.choice(part[language].split("|")) for part in (_WHEN, _WHO, _DID, _WHAT, _WHERE)]
    if language == "de":
        when, who, how, what, where = pick
        return f"{when} {who} {how} {what} {where}."
    return f"{pick[0]} {pick[1]} {pick[2]} {pick[3]} {pick[4]}."


def paragraph(random_: random.Random, language: str = "en", sentences: int = 4) -> str:
    """Several sentences on one line."""
    return " ".join(sentence(random_, language) for _ in range(sentences))


def words(language: str = "en") -> list[str]:
    """Every word the filler of a language uses, once, in a fixed order."""
    parts = " ".join(part[language].replace("|", " ") for part in (_WHEN, _WHO, _DID, _WHAT, _WHERE))
    return sorted({word.strip(".,") for word in parts.split()})
