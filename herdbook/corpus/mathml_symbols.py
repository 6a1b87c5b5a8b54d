"""What single characters and words of a formula are called in LaTeX."""

from __future__ import annotations

import unicodedata
from functools import cache

_LETTERS = (
    "α alpha β beta γ gamma δ delta ϵ epsilon ε varepsilon ζ zeta η eta θ theta ϑ vartheta ι iota κ kappa ϰ varkappa "
    "λ lambda μ mu ν nu ξ xi π pi ϖ varpi ρ rho ϱ varrho σ sigma ς varsigma τ tau υ upsilon ϕ phi φ varphi χ chi "
    "ψ psi ω omega Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Υ Upsilon Φ Phi Ψ Psi Ω Omega "
    "ℓ ell ℏ hbar ℘ wp ℜ Re ℑ Im ℵ aleph ℶ beth ı imath ȷ jmath ∂ partial ∇ nabla ∞ infty ∅ emptyset "
    "⊤ top ⊥ bot ∠ angle ∡ measuredangle △ triangle □ square ◊ lozenge ★ bigstar ♠ spadesuit ♡ heartsuit "
    "♢ diamondsuit ♣ clubsuit ♭ flat ♮ natural ♯ sharp ∀ forall ∃ exists ∄ nexists ¬ neg … ldots ⋯ cdots ⋮ vdots "
    "⋱ ddots ′ prime † dagger ‡ ddagger § S ¶ P £ pounds ° circ"
)
_RELATIONS = (
    "≤ leq ≥ geq ⩽ leqslant ⩾ geqslant ≦ leqq ≧ geqq ≠ neq ≡ equiv ≢ not\\equiv ≈ approx ≉ not\\approx ≃ simeq "
    "≅ cong ∼ sim ≁ nsim ≍ asymp ≐ doteq ≜ triangleq ≔ coloneqq ∝ propto ≪ ll ≫ gg ≺ prec ≻ succ ⪯ preceq ⪰ succeq "
    "∈ in ∉ notin ∋ ni ⊂ subset ⊃ supset ⊆ subseteq ⊇ supseteq ⊄ not\\subset ⊈ nsubseteq ⊊ subsetneq ⊋ supsetneq "
    "⊏ sqsubset ⊐ sqsupset ⊑ sqsubseteq ⊒ sqsupseteq ⊢ vdash ⊣ dashv ⊨ models ∣ mid ∤ nmid ∥ parallel ∦ nparallel "
    "⟂ perp → to ← leftarrow ↔ leftrightarrow ⇒ Rightarrow ⇐ Leftarrow ⇔ Leftrightarrow ⟶ longrightarrow "
    "⟵ longleftarrow ⟷ longleftrightarrow ⟹ implies ⟸ impliedby ⟺ iff ↦ mapsto ⟼ longmapsto ↑ uparrow ↓ downarrow "
    "↕ updownarrow ⇑ Uparrow ⇓ Downarrow ↗ nearrow ↘ searrow ↙ swarrow ↖ nwarrow ↪ hookrightarrow ↩ hookleftarrow "
    "⇀ rightharpoonup ↼ leftharpoonup ⇌ rightleftharpoons ↠ twoheadrightarrow ⊲ vartriangleleft ⊴ trianglelefteq"
)
_BINARY = (
    "± pm ∓ mp × times ÷ div ⋅ cdot · cdot ∗ ast ⋆ star ∘ circ • bullet ∩ cap ∪ cup ⊎ uplus ⊓ sqcap ⊔ sqcup "
    "∧ wedge ∨ vee ∖ setminus ≀ wr ⊕ oplus ⊖ ominus ⊗ otimes ⊘ oslash ⊙ odot ⋊ rtimes ⋉ ltimes ⋈ bowtie ⋄ diamond"
)
_LARGE = (
    "∑ sum ∏ prod ∐ coprod ∫ int ∬ iint ∭ iiint ∮ oint ⋃ bigcup ⋂ bigcap ⋁ bigvee ⋀ bigwedge ⨁ bigoplus ⨂ bigotimes "
    "⨀ bigodot ⨆ bigsqcup"
)
_FENCES = "⟨ langle ⟩ rangle 〈 langle 〉 rangle ⌊ lfloor ⌋ rfloor ⌈ lceil ⌉ rceil"


def _table(pairs: str) -> dict[str, str]:
    words = pairs.split()
    return {sign: "\\" + name for sign, name in zip(words[::2], words[1::2])}


LARGE = _table(_LARGE)
BINARY = _table(_BINARY) | {"+": "+", "-": "-", "−": "-", "–": "-"}
RELATIONS = _table(_RELATIONS) | {sign: sign for sign in "=<>"} | {"∶": ":", "≕": "=:"}
FENCES = _table(_FENCES) | {"{": "\\{", "}": "\\}", "‖": "\\|", "∥": "\\|", "❘": "|", "∣": "|"}
SIGNS = _table(_LETTERS) | LARGE | BINARY | RELATIONS | {k: v for k, v in FENCES.items() if k not in "∥∣"}
SIGNS |= {sign: "\\" + sign for sign in "#$%&_"} | {"\\": "\\backslash", "~": "\\sim", "^": "\\wedge", "*": "*"}
SIGNS |= {"″": "''", "‴": "'''", "’": "'", "Å": "\\AA", "µ": "\\mu", "∕": "/", "⁄": "/", "≔": ":="}
SIGNS |= dict.fromkeys("\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff", "")
SIGNS |= dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2009\u200a\u202f\u205f", " ")
OPEN, CLOSE = "([{|⟨〈⌊⌈‖∥❘∣", ")]}|⟩〉⌋⌉‖∥❘∣"

_FUNCTIONS = (
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max "
    "min Pr sec sin sinh sup tan tanh"
)
FUNCTIONS = {name: "\\" + name for name in _FUNCTIONS.split()} | {"lim sup": "\\limsup", "lim inf": "\\liminf"}
LIMITS = {"\\" + name for name in "lim liminf limsup max min sup inf det gcd Pr argmax argmin".split()}  # noqa: SIM905
"""Functions that take what stands below them as an index."""

ACCENTS = {
    "hat": "^ˆ̂", "bar": "¯‾―_̅ˉ-−–", "vec": "→⃗⟶", "dot": "˙.̇", "ddot": "¨̈", "tilde": "~˜̃∼", "check": "ˇ", "acute": "´",
    "grave": "`", "breve": "˘", "overbrace": "⏞︷", "overleftarrow": "←",
}  # fmt: skip
ABOVE = {sign: name for name, signs in ACCENTS.items() for sign in signs} | {"..": "ddot", "...": "dddot"}
WIDE = {"hat": "widehat", "bar": "overline", "vec": "overrightarrow", "tilde": "widetilde"}
"""What an accent over more than one letter is called."""
BELOW = dict.fromkeys("_‾¯―̲-−–", "underline") | {"⏟": "underbrace", "︸": "underbrace"}
VARIANTS = {
    "normal": "mathrm", "bold": "mathbf", "bold-italic": "boldsymbol", "double-struck": "mathbb", "script": "mathcal",
    "bold-script": "mathcal", "fraktur": "mathfrak", "bold-fraktur": "mathfrak", "sans-serif": "mathsf",
    "monospace": "mathtt",
}  # fmt: skip
_ALPHABETS = {
    "DOUBLE-STRUCK": "mathbb", "FRAKTUR": "mathfrak", "BLACK-LETTER": "mathfrak", "SCRIPT": "mathcal",
    "MONOSPACE": "mathtt", "SANS-SERIF": "mathsf", "BOLD ITALIC": "boldsymbol", "BOLD": "mathbf",
}  # fmt: skip


@cache
def sign(character: str) -> str:
    """A character in LaTeX; letters of other alphabets than the italic one as `\\mathbb{R}` and the like."""
    if character in SIGNS:
        return SIGNS[character]
    name = unicodedata.name(character, "")
    if "MATHEMATICAL" in name or "DOUBLE-STRUCK" in name or "SCRIPT" in name or "BLACK-LETTER" in name:
        plain = unicodedata.normalize("NFKC", character)
        if plain != character and len(plain) == 1:
            found = next((macro for alphabet, macro in _ALPHABETS.items() if alphabet in name), None)
            inner = sign(plain)
            return f"\\{found}{{{inner}}}" if found else inner
    return character
