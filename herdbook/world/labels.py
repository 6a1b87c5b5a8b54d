"""The words that sites put around their articles, in each language of the world."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """Texts of navigation, banners, adverts, comments and footers in one language."""

    menu: tuple[str, ...]
    cookie: str  # with {name}, the site's
    accept: str
    settings: str
    advert: str
    adverts: tuple[str, ...]
    share: tuple[str, ...]
    related: str
    newsletter: str
    subscribe: str
    comments: str
    your_comment: str
    remarks: tuple[str, ...]
    nicknames: tuple[str, ...]
    name: str
    mail: str
    send: str
    search: str
    by: str
    posts: str
    rights: str
    legal: tuple[str, ...]
    description: str
    repeated: tuple[str, ...]  # sentences that a site sets between the paragraphs of many pages; {name} is the site's


_NICKNAMES = ("Rowan", "teapot42", "M. Ferry", "quietfox", "Ines", "old_oak", "J. Lark", "pebble")

LABELS = {
    "en": Labels(
        menu=("Home", "News", "Topics", "About us", "Contact", "Log in"),
        cookie="{name} uses cookies to improve your experience. By continuing you agree to our use of cookies.",
        accept="Accept all",
        settings="Cookie settings",
        advert="Advertisement",
        adverts=("Save 30 % on garden chairs today", "Learn to sail in two weekends", "The best boots for rainy days"),
        share=("Share", "Tweet", "Pin", "E-mail"),
        related="Related articles",
        newsletter="Our newsletter",
        subscribe="Subscribe",
        comments="Comments",
        your_comment="Write a comment",
        remarks=(
            "Great article, thanks for sharing!",
            "I did not know that.",
            "First!",
            "Could you write more about this?",
        ),
        nicknames=_NICKNAMES,
        name="Name",
        mail="Your e-mail",
        send="Send",
        search="Search this site",
        by="By",
        posts="Posts",
        rights="All rights reserved.",
        legal=("Privacy policy", "Terms of use", "Imprint", "Sitemap"),
        description="News and background, every day.",
        repeated=(
            "This page is part of the {name} collection and may be printed for private use.",
            "Readers of {name} can reach the editors by post or at the front desk.",
            "{name} has checked this page with care but cannot promise that it is complete.",
            "Have you seen a mistake? Tell the {name} team and win a calendar.",
        ),
    ),
    "de": Labels(
        menu=("Startseite", "Aktuelles", "Themen", "Über uns", "Kontakt", "Anmelden"),
        cookie="{name} verwendet Cookies, um Ihnen den Besuch zu erleichtern. Mit der Nutzung stimmen Sie dem zu.",
        accept="Alle annehmen",
        settings="Einstellungen",
        advert="Anzeige",
        adverts=(
            "Heute 30 % auf Gartenstühle",
            "Segeln lernen an zwei Wochenenden",
            "Die besten Stiefel für Regentage",
        ),
        share=("Teilen", "Merken", "Drucken", "E-Mail"),
        related="Ähnliche Artikel",
        newsletter="Unser Rundbrief",
        subscribe="Bestellen",
        comments="Kommentare",
        your_comment="Kommentar schreiben",
        remarks=("Schöner Artikel, danke!", "Das wusste ich noch nicht.", "Bitte mehr davon.", "Sehr lesenswert."),
        nicknames=_NICKNAMES,
        name="Name",
        mail="Ihre E-Mail",
        send="Absenden",
        search="Suche",
        by="Von",
        posts="Beiträge",
        rights="Alle Rechte vorbehalten.",
        legal=("Datenschutz", "Nutzungsbedingungen", "Impressum", "Übersicht"),
        description="Nachrichten und Hintergründe, jeden Tag.",
        repeated=("Diese Seite gehört zur Sammlung von {name} und darf privat gedruckt werden.",),
    ),
    "fr": Labels(
        menu=("Accueil", "Actualités", "Thèmes", "À propos", "Contact", "Connexion"),
        cookie="{name} utilise des cookies pour faciliter votre visite. En poursuivant, vous acceptez leur usage.",
        accept="Tout accepter",
        settings="Paramètres",
        advert="Publicité",
        adverts=(
            "30 % sur les chaises de jardin",
            "Apprenez la voile en deux week-ends",
            "Les meilleures bottes de pluie",
        ),
        share=("Partager", "Épingler", "Imprimer", "Courriel"),
        related="Articles liés",
        newsletter="Notre lettre",
        subscribe="S'abonner",
        comments="Commentaires",
        your_comment="Écrire un commentaire",
        remarks=("Très bel article, merci !", "Je ne le savais pas.", "Encore, s'il vous plaît.", "À lire absolument."),
        nicknames=_NICKNAMES,
        name="Nom",
        mail="Votre adresse",
        send="Envoyer",
        search="Rechercher",
        by="Par",
        posts="Messages",
        rights="Tous droits réservés.",
        legal=("Confidentialité", "Conditions d'utilisation", "Mentions légales", "Plan du site"),
        description="Des nouvelles chaque jour.",
        repeated=("Cette page fait partie de la collection {name} et peut être imprimée pour un usage privé.",),
    ),
    "es": Labels(
        menu=("Inicio", "Noticias", "Temas", "Quiénes somos", "Contacto", "Entrar"),
        cookie="{name} utiliza cookies para mejorar su visita. Si continúa navegando, acepta su uso.",
        accept="Aceptar todo",
        settings="Configuración",
        advert="Publicidad",
        adverts=("30 % en sillas de jardín", "Aprenda a navegar en dos semanas", "Las mejores botas para la lluvia"),
        share=("Compartir", "Guardar", "Imprimir", "Correo"),
        related="Artículos relacionados",
        newsletter="Nuestro boletín",
        subscribe="Suscribirse",
        comments="Comentarios",
        your_comment="Escriba un comentario",
        remarks=("¡Muy buen artículo, gracias!", "No lo sabía.", "Más, por favor.", "Muy interesante."),
        nicknames=_NICKNAMES,
        name="Nombre",
        mail="Su correo",
        send="Enviar",
        search="Buscar",
        by="Por",
        posts="Mensajes",
        rights="Todos los derechos reservados.",
        legal=("Privacidad", "Condiciones de uso", "Aviso legal", "Mapa del sitio"),
        description="Noticias todos los días.",
        repeated=("Esta página forma parte de la colección de {name} y puede imprimirse para uso privado.",),
    ),
    "it": Labels(
        menu=("Pagina iniziale", "Notizie", "Temi", "Chi siamo", "Contatti", "Accedi"),
        cookie="{name} usa i cookie per migliorare la visita. Continuando a navigare si accetta il loro uso.",
        accept="Accetta tutto",
        settings="Impostazioni",
        advert="Pubblicità",
        adverts=(
            "30 % sulle sedie da giardino",
            "Imparare la vela in due settimane",
            "I migliori stivali per la pioggia",
        ),
        share=("Condividi", "Salva", "Stampa", "Posta"),
        related="Articoli correlati",
        newsletter="La nostra lettera",
        subscribe="Iscriviti",
        comments="Commenti",
        your_comment="Scrivi un commento",
        remarks=("Bell'articolo, grazie!", "Non lo sapevo.", "Ancora, per favore.", "Molto interessante."),
        nicknames=_NICKNAMES,
        name="Nome",
        mail="La tua posta",
        send="Invia",
        search="Cerca",
        by="Di",
        posts="Messaggi",
        rights="Tutti i diritti riservati.",
        legal=("Riservatezza", "Condizioni d'uso", "Note legali", "Mappa del sito"),
        description="Notizie ogni giorno.",
        repeated=("Questa pagina fa parte della raccolta di {name} e si può stampare per uso privato.",),
    ),
}
