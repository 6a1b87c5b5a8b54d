"""German, French, Spanish and Italian: how each attribute is told there, what common words are called, word problems.

Names stay as they are; they all begin with a consonant, so French needs no elision before them. Values stand where
neither case nor contraction changes them, so one form of each word is enough.
"""

from __future__ import annotations

from herdbook.world.facts import COLOURS, INSTRUMENTS, PRODUCTS, WORKPLACES
from herdbook.world.problems import Story

Phrases = dict[tuple[str, str], tuple[str, ...]]


def split(text: str) -> tuple[str, ...]:
    """Entries parted by a comma, for lists of words with articles."""
    return tuple(entry.strip() for entry in text.split(","))


def dictionary(workplaces: str, instruments: str, products: str, colours: str) -> dict[str, str]:
    """English value → the language's; every list is in the order of facts.py."""
    pairs = ((WORKPLACES, workplaces), (INSTRUMENTS, instruments), (PRODUCTS, products), (COLOURS, colours))
    return {english: foreign for words, text in pairs for english, foreign in zip(words, split(text), strict=True)}


VALUES: dict[str, dict[str, str]] = {
    "de": dictionary(
        "die Bäckerei, die Bibliothek, die Schule, das Krankenhaus, das Museum, die Apotheke, die Brauerei, der Hafen, "
        "das Theater, die Mühle, die Bank, die Fabrik, die Küche, das Gefängnis, die Universität, der Markt",
        "die Flöte, die Geige, das Klavier, die Harfe, die Trommel, die Trompete, die Gitarre, die Orgel, das Cello, "
        "die Klarinette, die Oboe, das Akkordeon, die Mandoline, das Saxophon",
        "Käse, Glas, Papier, Honig, Wolle, Salz, Bier, Leder, Wein, Seide, Butter, Eisen, Marmor, Seife, Brot, Kohle",
        "schwarz, weiß, braun, grau, rot, gelb, blau, grün, rosa, lila, orange, golden",
    ),
    "fr": dictionary(
        "la boulangerie, la bibliothèque, l'école, l'hôpital, le musée, la pharmacie, la brasserie, le port, "
        "le théâtre, le moulin, la banque, l'usine, la cuisine, la prison, l'université, le marché",
        "la flûte, le violon, le piano, la harpe, le tambour, la trompette, la guitare, l'orgue, le violoncelle, "
        "la clarinette, le hautbois, l'accordéon, la mandoline, le saxophone",
        "le fromage, le verre, le papier, le miel, la laine, le sel, la bière, le cuir, le vin, la soie, le beurre, "
        "le fer, le marbre, le savon, le pain, le charbon",
        "le noir, le blanc, le brun, le gris, le rouge, le jaune, le bleu, le vert, le rose, le violet, l'orange, "
        "le doré",
    ),
    "es": dictionary(
        "la panadería, la biblioteca, la escuela, el hospital, el museo, la farmacia, la cervecería, el puerto, "
        "el teatro, el molino, el banco, la fábrica, la cocina, la prisión, la universidad, el mercado",
        "la flauta, el violín, el piano, el arpa, el tambor, la trompeta, la guitarra, el órgano, el violonchelo, "
        "el clarinete, el oboe, el acordeón, la mandolina, el saxofón",
        "el queso, el vidrio, el papel, la miel, la lana, la sal, la cerveza, el cuero, el vino, la seda, "
        "la mantequilla, el hierro, el mármol, el jabón, el pan, el carbón",
        "el negro, el blanco, el marrón, el gris, el rojo, el amarillo, el azul, el verde, el rosa, el morado, "
        "el naranja, el dorado",
    ),
    "it": dictionary(
        "la panetteria, la biblioteca, la scuola, l'ospedale, il museo, la farmacia, il birrificio, il porto, "
        "il teatro, il mulino, la banca, la fabbrica, la cucina, la prigione, l'università, il mercato",
        "il flauto, il violino, il pianoforte, l'arpa, il tamburo, la tromba, la chitarra, l'organo, il violoncello, "
        "il clarinetto, l'oboe, la fisarmonica, il mandolino, il sassofono",
        "il formaggio, il vetro, la carta, il miele, la lana, il sale, la birra, il cuoio, il vino, la seta, "
        "il burro, il ferro, il marmo, il sapone, il pane, il carbone",
        "il nero, il bianco, il marrone, il grigio, il rosso, il giallo, il blu, il verde, il rosa, il viola, "
        "l'arancione, il dorato",
    ),
}

TELLINGS: dict[str, Phrases] = {
    "de": {
        ("person", "birthplace"): (
            "Der Geburtsort von {s} ist {v}.", "{s} wurde in {v} geboren.", "{s} stammt aus {v}.",
        ),
        ("person", "birth_year"): (
            "Das Geburtsjahr von {s} ist {v}.", "{s} wurde im Jahr {v} geboren.", "{s} kam im Jahr {v} zur Welt.",
        ),
        ("person", "workplace"): (
            "Der Arbeitsplatz von {s} ist {v}.", "Wo {s} arbeitet, steht {v}.",
            "Der Ort, an dem {s} arbeitet, ist {v}.",
        ),
        ("person", "instrument"): (
            "Das Instrument von {s} ist {v}.", "Das liebste Instrument von {s} ist {v}.",
            "Was {s} am besten klingen lässt, ist {v}.",
        ),
        ("person", "teacher"): (
            "Den Unterricht von {s} gab {v}.", "{s} lernte bei {v}.", "{s} wurde von {v} unterrichtet.",
        ),
        ("place", "region"): ("Die Region von {s} ist {v}.", "{s} liegt in {v}.", "{s} gehört zu {v}."),
        ("place", "river"): ("Der Fluss von {s} heißt {v}.", "Durch {s} fließt die {v}.", "{s} liegt an der {v}."),
        ("place", "founding_year"): (
            "Das Gründungsjahr von {s} ist {v}.", "{s} wurde im Jahr {v} gegründet.", "{s} besteht seit {v}.",
        ),
        ("place", "product"): (
            "Das wichtigste Erzeugnis von {s} ist {v}.", "{s} ist bekannt für {v}.",
            "Aus {s} kommt sehr guter Stoff: {v}.",
        ),
        ("animal", "colour"): (
            "Die Fellfarbe von {s} ist {v}.", "Das Fell von {s} ist {v}.", "{s} ist am ganzen Körper {v}.",
        ),
        ("animal", "birth_year"): (
            "Das Geburtsjahr von {s} ist {v}.", "{s} wurde im Jahr {v} geboren.",
            "Im Stall steht {s} seit dem Jahr {v}.",
        ),
        ("animal", "keeper"): ("{s} gehört {v}.", "{s} wird von {v} gehalten.", "{s} frisst nur bei {v}."),
        ("animal", "home"): (
            "Die Heimat von {s} ist {v}.", "{s} ist in {v} zu Hause.", "Der Stall von {s} steht in {v}.",
        ),
        ("animal", "sire"): (
            "Der Vater von {s} ist {v}.", "{s} hat als Vater {v}.", "Väterlicherseits stammt {s} von {v} ab.",
        ),
        ("animal", "dam"): (
            "Die Mutter von {s} ist {v}.", "{s} hat als Mutter {v}.", "Mütterlicherseits stammt {s} von {v} ab.",
        ),
    },
    "fr": {
        ("person", "birthplace"): (
            "Le lieu de naissance de {s} est {v}.", "La ville natale de {s} est {v}.",
            "La famille de {s} vient de {v}.",
        ),
        ("person", "birth_year"): (
            "L'année de naissance de {s} est {v}.", "La naissance de {s} date de {v}.", "{s} est venu au monde en {v}.",
        ),
        ("person", "workplace"): (
            "Le lieu de travail de {s} est {v}.", "Chaque matin, {s} rejoint {v}.",
            "{s} a choisi comme lieu de travail {v}.",
        ),
        ("person", "instrument"): (
            "L'instrument de {s} est {v}.", "{s} adore {v}.", "{s} pratique {v}.",
        ),
        ("person", "teacher"): (
            "{s} a eu pour professeur {v}.", "{s} a tout appris avec {v}.", "{s} a suivi les cours de {v}.",
        ),
        ("place", "region"): (
            "La région de {s} est {v}.", "{s} se trouve en {v}.", "{s} fait partie de la région de {v}.",
        ),
        ("place", "river"): (
            "La rivière de {s} est la {v}.", "{s} se trouve au bord de la {v}.", "L'eau de {s} vient de la {v}.",
        ),
        ("place", "founding_year"): (
            "L'année de fondation de {s} est {v}.", "La ville de {s} a été fondée en {v}.", "{s} existe depuis {v}.",
        ),
        ("place", "product"): (
            "Le produit principal de {s} est {v}.", "À {s}, on aime surtout {v}.", "Les marchands de {s} vendent {v}.",
        ),
        ("animal", "colour"): (
            "La couleur de {s} est {v}.", "Pour la couleur de {s}, le registre indique {v}.",
            "La couleur du poil de {s} est {v}.",
        ),
        ("animal", "birth_year"): (
            "L'année de naissance de {s} est {v}.", "La naissance de {s} date de {v}.", "{s} est au pré depuis {v}.",
        ),
        ("animal", "keeper"): ("{s} appartient à {v}.", "{s} vit chez {v}.", "{s} ne mange que chez {v}."),
        ("animal", "home"): (
            "Le foyer de {s} est {v}.", "{s} habite à {v}.", "L'étable de {s} est à {v}.",
        ),
        ("animal", "sire"): (
            "Le père de {s} est {v}.", "{s} a pour père {v}.", "Du côté paternel, {s} descend de {v}.",
        ),
        ("animal", "dam"): (
            "La mère de {s} est {v}.", "{s} a pour mère {v}.", "Du côté maternel, {s} descend de {v}.",
        ),
    },
    "es": {
        ("person", "birthplace"): (
            "El lugar de nacimiento de {s} es {v}.", "{s} nació en {v}.", "{s} viene de {v}.",
        ),
        ("person", "birth_year"): (
            "El año de nacimiento de {s} es {v}.", "{s} nació en el año {v}.", "{s} vino al mundo en {v}.",
        ),
        ("person", "workplace"): (
            "El lugar de trabajo de {s} es {v}.", "{s} trabaja en {v}.", "Cada mañana {s} camina hasta {v}.",
        ),
        ("person", "instrument"): ("El instrumento de {s} es {v}.", "{s} toca {v}.", "{s} aprendió a tocar {v}."),
        ("person", "teacher"): (
            "{s} tuvo clases con {v}.", "{s} aprendió todo con {v}.", "{s} estudió con {v}.",
        ),
        ("place", "region"): ("La región de {s} es {v}.", "{s} está en {v}.", "{s} pertenece a {v}."),
        ("place", "river"): (
            "El río de {s} es el {v}.", "{s} está a orillas del {v}.", "Por {s} pasa el río {v}.",
        ),
        ("place", "founding_year"): (
            "El año de fundación de {s} es {v}.", "La ciudad de {s} fue fundada en {v}.", "{s} existe desde {v}.",
        ),
        ("place", "product"): (
            "El producto principal de {s} es {v}.", "Lo más famoso de {s} es {v}.", "En {s} se vende bien {v}.",
        ),
        ("animal", "colour"): (
            "El color de {s} es {v}.", "El color del pelo de {s} es {v}.",
            "Para {s} el registro indica como color {v}.",
        ),
        ("animal", "birth_year"): (
            "El año de nacimiento de {s} es {v}.", "{s} nació en el año {v}.", "{s} está en el rebaño desde {v}.",
        ),
        ("animal", "keeper"): ("{s} pertenece a {v}.", "{s} vive en la casa de {v}.", "{s} solo come con {v}."),
        ("animal", "home"): ("El hogar de {s} es {v}.", "{s} vive en {v}.", "El establo de {s} está en {v}."),
        ("animal", "sire"): (
            "El padre de {s} es {v}.", "{s} tiene como padre a {v}.", "Por parte de padre, {s} desciende de {v}.",
        ),
        ("animal", "dam"): (
            "La madre de {s} es {v}.", "{s} tiene como madre a {v}.", "Por parte de madre, {s} desciende de {v}.",
        ),
    },
    "it": {
        ("person", "birthplace"): (
            "Il luogo di nascita di {s} è {v}.", "La città natale di {s} è {v}.", "{s} viene da {v}.",
        ),
        ("person", "birth_year"): (
            "L'anno di nascita di {s} è il {v}.", "La nascita di {s} risale al {v}.", "{s} venne al mondo nel {v}.",
        ),
        ("person", "workplace"): (
            "Il luogo di lavoro di {s} è {v}.", "Ogni mattina {s} raggiunge {v}.", "Il lavoro di {s} riguarda {v}.",
        ),
        ("person", "instrument"): ("Lo strumento di {s} è {v}.", "{s} suona {v}.", "{s} ha imparato a suonare {v}."),
        ("person", "teacher"): (
            "{s} ha avuto come maestro {v}.", "{s} ha imparato tutto da {v}.", "{s} ha studiato con {v}.",
        ),
        ("place", "region"): ("La regione di {s} è {v}.", "{s} si trova in {v}.", "{s} appartiene alla regione {v}."),
        ("place", "river"): (
            "Il fiume di {s} è il {v}.", "{s} si trova sulle rive del {v}.", "Per {s} passa il fiume {v}.",
        ),
        ("place", "founding_year"): (
            "L'anno di fondazione di {s} è il {v}.", "La città di {s} fu fondata nel {v}.", "{s} esiste dal {v}.",
        ),
        ("place", "product"): (
            "Il prodotto principale di {s} è {v}.", "La cosa più famosa di {s} è {v}.", "A {s} si vende {v}.",
        ),
        ("animal", "colour"): (
            "Il colore di {s} è {v}.", "Il colore del pelo di {s} è {v}.",
            "Per {s} il registro indica come colore {v}.",
        ),
        ("animal", "birth_year"): (
            "L'anno di nascita di {s} è il {v}.", "La nascita di {s} risale al {v}.", "{s} è nella mandria dal {v}.",
        ),
        ("animal", "keeper"): ("{s} appartiene a {v}.", "{s} vive con {v}.", "{s} mangia solo con {v}."),
        ("animal", "home"): ("La casa di {s} è {v}.", "{s} vive a {v}.", "La stalla di {s} è a {v}."),
        ("animal", "sire"): (
            "Il padre di {s} è {v}.", "{s} ha come padre {v}.", "Da parte di padre, {s} discende da {v}.",
        ),
        ("animal", "dam"): (
            "La madre di {s} è {v}.", "{s} ha come madre {v}.", "Da parte di madre, {s} discende da {v}.",
        ),
    },
}  # fmt: skip
"""The first form of each attribute ends in its value: questions are asked in it."""

FRAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "de": {
        "titles": ("{name} und andere Namen", "Wissenswertes über {name}", "Was man über {name} erzählt"),
        "openings": (
            "Auf dieser Seite steht einiges, was man bei uns gern erzählt.",
            "Hier haben wir zusammengetragen, was in den alten Büchern zu lesen ist.",
            "Nach dem Frühstück haben wir die Notizen des letzten Jahres noch einmal geordnet.",
        ),
        "bridges": (
            "Das weiß hier jedes Kind.", "So steht es jedenfalls in der Zeitung.", "Mehr ist darüber nicht bekannt.",
            "Darüber wurde lange gesprochen.", "Das Wetter war an diesem Tag übrigens schlecht.",
        ),
        "worksheets": ("Aufgabenblatt {n}", "Rechenaufgaben, Teil {n}", "Übungen für die Schule, Blatt {n}"),
    },
    "fr": {
        "titles": ("{name} et les autres", "Ce qu'il faut savoir sur {name}", "Quelques mots sur {name}"),
        "openings": (
            "Cette page rassemble ce que l'on raconte volontiers chez nous.",
            "Voici ce que l'on peut lire dans les vieux livres de la région.",
            "Après le petit déjeuner, nous avons mis en ordre les notes de l'année dernière.",
        ),
        "bridges": (
            "Tout le monde ici le sait.", "C'est du moins ce que dit le journal.", "On n'en sait pas davantage.",
            "On en a parlé longtemps.", "Ce jour-là, il faisait d'ailleurs mauvais temps.",
        ),
        "worksheets": (
            "Fiche d'exercices {n}", "Problèmes de calcul, partie {n}", "Exercices pour l'école, feuille {n}",
        ),
    },
    "es": {
        "titles": ("{name} y los demás", "Lo que se sabe de {name}", "Algunas palabras sobre {name}"),
        "openings": (
            "En esta página reunimos lo que se cuenta con gusto entre nosotros.",
            "Aquí está lo que se puede leer en los viejos libros de la comarca.",
            "Después del desayuno ordenamos otra vez los apuntes del año pasado.",
        ),
        "bridges": (
            "Aquí lo sabe todo el mundo.", "Al menos eso dice el periódico.", "No se sabe nada más.",
            "Se habló mucho de ello.", "Por cierto, aquel día hacía mal tiempo.",
        ),
        "worksheets": (
            "Hoja de ejercicios {n}", "Problemas de cálculo, parte {n}", "Ejercicios para la escuela, hoja {n}",
        ),
    },
    "it": {
        "titles": ("{name} e gli altri", "Che cosa si sa di {name}", "Qualche parola su {name}"),
        "openings": (
            "In questa pagina abbiamo raccolto quello che da noi si racconta volentieri.",
            "Ecco che cosa si può leggere nei vecchi libri della zona.",
            "Dopo la colazione abbiamo riordinato gli appunti dell'anno scorso.",
        ),
        "bridges": (
            "Qui lo sanno tutti.", "Così almeno dice il giornale.", "Non si sa altro.",
            "Se ne è parlato a lungo.", "Quel giorno, del resto, faceva brutto tempo.",
        ),
        "worksheets": (
            "Scheda di esercizi {n}", "Problemi di calcolo, parte {n}", "Esercizi per la scuola, foglio {n}",
        ),
    },
}  # fmt: skip

STORIES: dict[str, dict[str, Story]] = {
    "de": {
        "de basket": Story(
            ("Birnen", "Pflaumen", "Karten", "Münzen"), "{p} hat {n} {x}.",
            ("{p} kauft {n} dazu.", "{p} findet noch {n}."), ("{p} verkauft {n}.", "{p} verliert {n}."),
            "Dann hat {p} {n} mal so viele.",
            "{p} verteilt sie gleichmäßig auf {n} Taschen. Wie viele {x} sind in jeder Tasche?",
            "Wie viele {x} hat {p} jetzt?",
        ),
    },
    "fr": {
        "fr basket": Story(
            ("pommes", "poires", "prunes", "cartes"), "{p} a {n} {x}.",
            ("{p} en achète {n} de plus.", "{p} en trouve encore {n}."), ("{p} en vend {n}.", "{p} en perd {n}."),
            "Ensuite {p} en a {n} fois plus.",
            "{p} les partage également entre {n} sacs. Combien de {x} y a-t-il dans chaque sac ?",
            "Combien de {x} a {p} maintenant ?",
        ),
    },
    "es": {
        "es basket": Story(
            ("manzanas", "peras", "ciruelas", "monedas"), "{p} tiene {n} {x}.",
            ("{p} compra {n} más.", "{p} encuentra {n} más."), ("{p} vende {n}.", "{p} pierde {n}."),
            "Luego {p} tiene {n} veces más.",
            "{p} las reparte por igual en {n} bolsas. ¿Cuántas {x} hay en cada bolsa?",
            "¿Cuántas {x} tiene {p} ahora?",
        ),
    },
    "it": {
        "it basket": Story(
            ("mele", "pere", "prugne", "monete"), "{p} ha {n} {x}.",
            ("{p} ne compra altre {n}.", "{p} ne trova ancora {n}."), ("{p} ne vende {n}.", "{p} ne perde {n}."),
            "Poi {p} ne ha {n} volte di più.",
            "{p} le divide in parti uguali in {n} sacchetti. Quante {x} ci sono in ogni sacchetto?",
            "Quante {x} ha {p} adesso?",
        ),
    },
}  # fmt: skip
