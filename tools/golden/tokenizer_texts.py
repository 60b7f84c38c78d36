"""The texts on which tokenizers are compared: over 40 scripts, emoji, combining marks, controls, spaces of every kind, long
runs, code, special tokens inside text, ill-formed bytes. texts() gives the same list of bytes objects every time."""
import random
import unicodedata

SENTENCES = {  # mostly Article 1 of the Universal Declaration of Human Rights
    "Latin": "All human beings are born free and equal in dignity and rights. They're endowed with reason, aren't they?",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. L'œuvre d'où ça vient.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Straße, GROẞE ÄÖÜ.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul'da ışık",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi w swojej godności i prawach. Zażółć gęślą jaźń",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. ΣΊΣΥΦΟΣ",
    "Polytonic": "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν ᾧ ᾳ",
    "Russian": "Все люди рождаются свободными и равными в своём достоинстве и правах. Ёлка, йод",
    "Ukrainian": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Ґанок, їжак",
    "Armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით. ᲧᲕᲔᲚᲐ",
    "Hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. בְּרֵאשִׁית",
    "Arabic": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. اَلْعَرَبِيَّةُ ١٢٣",
    "Persian": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند. ۱۲۳",
    "Urdu": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "Syriac": "ܟܠ ܒܪܢܫܐ ܒܪܝܠܗ ܚܐܪܐ ܘܒܪܒܪ ܓܘ ܐܝܩܪܐ ܘܙܕܩܐ",
    "Thaana": "ހުރިހާ އިންސާނުން ވެސް އުފަންވަނީ މިނިވަންކަން މަތީގަ",
    "Devanagari": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। १२३",
    "Bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। ১২৩",
    "Gurmukhi": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ",
    "Gujarati": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે",
    "Odia": "ସବୁ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ। ସେମାନଙ୍କର ମର୍ଯ୍ୟାଦା ଓ ଅଧିକାର ସମାନ",
    "Tamil": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும் சமமானவர்கள்",
    "Telugu": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు",
    "Kannada": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ. ಹಾಗೂ ಘನತೆ ಮತ್ತು ಹಕ್ಕುಗಳಲ್ಲಿ ಸಮಾನರಾಗಿದ್ದಾರೆ",
    "Malayalam": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചവരാണ്",
    "Sinhala": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත. ගරුත්වයෙන් හා අයිතිවාසිකම්වලින් සමාන වෙති",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ๑๒๓",
    "Lao": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ",
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང༌། ཐོབ་ཐངགི་རང་དབང་",
    "Myanmar": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း မွေးဖွားလာသူများ ဖြစ်သည်။",
    "Khmer": "មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ។",
    "Ethiopic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። ፩፪፫",
    "Cherokee": "ᏂᎦᏓ ᎠᏂᏴᏫ ᎨᏥᏁᎳ ᎤᏂᏂᎬᏎᎲ ᎠᎴ ᎤᏠᏱ ᎨᏒ ꭳꮯꮿ",
    "Canadian": "ᐃᓄᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᓕᒫᑦ ᐃᓅᓕᕋᒥᒃ ᐃᓱᒪᕐᓱᕐᑎᐅᓂᖃᕐᒪᑕ",
    "Mongolian": "ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ ᠡᠷᠬᠡ ᠴᠢᠯᠥᠭᠡ ᠲᠡᠢ᠂",
    "Han": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。２０２４年",
    "Traditional": "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心。「引號」、頓號",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナーﾊﾝｶｸ ｶﾞ",
    "Hangul": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. ㄱㄴㄷ ㅏㅑ",
    "Jamo": unicodedata.normalize("NFD", "모든 인간은 각 태어날 값"),
    "Yi": "ꊿꂷꃅꄿꐨꐥ，ꌅꅍꀂꏽꐯꒈꃅꐥꌐ。",
    "Bopomofo": "ㄖㄣˊ ㄖㄣˊ ㄕㄥ ㄦˊ ㄗˋ ㄧㄡˊ",
    "Coptic": "ⲣⲱⲙⲉ ⲛⲓⲃⲉⲛ ⲥⲉⲙⲓⲥⲓ ⲙⲙⲱⲟⲩ ⲉⲩⲟⲓ ⲛⲣⲉⲙϩⲉ",
    "Gothic": "𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰𐌽𐍃 𐍆𐍂𐌴𐌹𐌷𐌰𐌻𐍃",
    "Cuneiform": "𒀭𒈗𒆠𒂗𒍪 𒐕𒐖",
    "Hieroglyphs": "𓀀𓁐𓂋𓈖𓏏 𓇋𓏠𓈖",
    "Deseret": "𐐔𐐯𐑅𐐨𐑉𐐯𐐻 𐐰𐑊𐑁𐐲𐐺𐐯𐐻",
    "Adlam": "𞤋𞤥𞤢𞤤𞤢𞤳𞤭𞤥 𞤬𞤮𞤬 𞤨𞤮𞤼𞤭",
    "Tifinagh": "ⵉⵎⴷⴰⵏⴻⵏ ⴰⴽⴽⴻⵏ ⵎⴰ ⵍⵍⴰⵏ ⵜⵜⵍⴰⵍⴻⵏ",
    "Nko": "ߡߐ߱ ߓߍ߯ ߟߊ߫ ߢߊ߲߬ߞߊ߲ ߘߌ߫",
    "Javanese": "ꦱꦧꦼꦤ꧀ꦮꦺꦴꦁꦏꦭꦲꦶꦫꦏꦺ",
    "Balinese": "ᬲᬓᬮᬶᬄ ᬫᬦᬸᬱ",
    "Math": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ≤ ∑ᵢ²₃ √2 ≠ ½ 𝒜𝔅ℂ 𝟘𝟙 Ⅷ ⅷ ㎏ ﬁ ﬀ",
    "IPA": "ɪntəˈnæʃənəl fəˈnɛtɪk ˈælfəbɛt ʔ ʕ ǃ̃",
    "Braille": "⠠⠁⠇⠇ ⠓⠥⠍⠁⠝ ⠃⠑⠬⠎",
}

CODE = [
    "def f(x):\n    return {'a': x**2, \"b\": [1,2,3]}  # comment\n",
    "int main(void) {\n\tprintf(\"%d\\n\", 0x7fffffff);\n\treturn 0;\n}\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x''y' -- c\n;",
    "<html><body class=\"a b\">&nbsp;<br/></body></html>",
    "{\"key\": [1.5e-10, null, true], \"ünï\": \"\\u00e9\\n\"}",
    "for (auto&& [k, v] : m) std::cout << k << \"=>\" << v << std::endl;",
    "#!/bin/sh\nset -eu; [ -z \"${X:-}\" ] && exec ls -la | grep -v '^d' > /dev/null 2>&1",
    "λ x → x ∘ f >>= \\y -> pure (y <> \"!\")",
    "\\frac{\\partial f}{\\partial x} = \\sum_{i=1}^{n} x_i^2 $$a_{ij}$$",
    "fn main() -> Result<(), Box<dyn Error>> { let x: &'static str = r#\"raw\"#; Ok(()) }",
    "https://user:pass@example.org:8080/a/b.c?d=e&f=%20g#h mailto:a.b+c@d-e.co.uk",
    "2024-02-29T23:59:59.999+05:30 1,234,567.89 $3.50 €20 £5 ¥1000 50% 1/2 3×4 ±5 10⁻³ v1.2.3-rc.1+b7",
    "CamelCaseWord snake_case_word kebab-case-word SCREAMING_CASE x86_64 IPv6 HTML5 iPhone's JSONParser2",
    "I'm you're he's we'll they'd I've don't DON'T I'M YOU'RE HE'S WE'LL THEY'D I'VE 'tis ’twas it’s rock'n'roll ''s 's'm",
    "\n\n\n  \n\t\t x  \r\n\r\n y \r z\n", "a\tb\t\tc   d    e     f      g       h        i",
    "    indented\n        twice\n\tand tab\n \n  \n", "trailing spaces   \n   ", "   leading", " ", "  ", "\n", "\n\n", "\t", "\r\n",
    "!!!???...,,,;;;:::---___===+++***///\\\\\\|||~~~```''\"\"", "([{<>}])", "a.b,c;d:e!f?g", "...and…so—on–‐‑", "«»“”‘’„‚‹›",
]

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇺🇳🇩🇪", "❤️", "☎︎", "1️⃣#️⃣", "👩🏿‍🚀", "🧑‍🤝‍🧑", "🤣🥰🫠🫨", "✨💫⭐️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
         "🙈🙉🙊", "🕵🏻‍♀️", "⏱⏲⌛️", "🀄🃏", "㊗️㊙️", "©®™", "🩷🪿🫎"]
SPACES = ["\u00a0", "\u1680", "\u2000", "\u2002", "\u2003", "\u2009", "\u200a", "\u200b", "\u200c", "\u200d", "\u2028", "\u2029",
          "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff", "\u0085", "\x0b", "\x0c", "\x1c", "\x1f", "\u180e", "\u00ad"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u0327", "\u0345", "\u20dd", "\u05b0", "\u064e", "\u0670", "\u093c", "\u094d", "\u0e31",
         "\u3099", "\u309a", "\ufe0f", "\u1ab0", "\u0f71", "\u0f72", "\u0334", "\u0360"]
SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[CLS]", "[SEP]", "[MASK]",
            "<add1>", "<add2>", "<add3>", "ADDED", "added", "Word", "<0x41>", "<0xFF>", "<|", "|>", "<s", "s>", "▁", "▁▁", "Ġ", "Ċ"]
BAD = [b"\x80", b"\xff", b"\xfe", b"\xc0\xaf", b"\xc1", b"\xe2\x82", b"\xe2", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xed\xa0\x80", b"\xed\xbf\xbf",
       b"\xf4\x90\x80\x80", b"\xf5\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xe2\x28\xa1", b"\xc3\x28", b"\xbf\xbf\xbf", b"\xef\xbf"]


def chunks(text, rng):
    """Pieces of a text as people cut them: words, halves, without spaces, other case, other normal form."""
    words = text.split()
    yield text
    yield " ".join(words[: len(words) // 2])
    yield " " + words[0] + "  " + words[-1] + " "
    yield "".join(words[:3])
    yield text.upper()
    yield text.lower().title()
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield unicodedata.normalize(form, text[: rng.randrange(8, 40)])
    yield text[rng.randrange(len(text)):]
    yield "\n".join(words[:4]) + "\r\n"
    yield "".join(c + rng.choice(MARKS) if rng.random() < 0.2 else c for c in text[:30])
    yield text[::-1][:40]


def random_texts(rng):
    names = list(SENTENCES)
    for _ in range(450):  # mixtures
        parts = []
        for _ in range(rng.randrange(2, 7)):
            kind = rng.randrange(8)
            if kind < 3:
                words = SENTENCES[rng.choice(names)].split()
                at = rng.randrange(len(words))
                parts.append(" ".join(words[at:at + rng.randrange(1, 4)]))
            elif kind == 3:
                parts.append(rng.choice(EMOJI))
            elif kind == 4:
                parts.append(rng.choice(SPACES) * rng.randrange(1, 3))
            elif kind == 5:
                parts.append(str(rng.randrange(10 ** rng.randrange(1, 12))))
            elif kind == 6:
                parts.append(rng.choice(SPECIALS))
            else:
                parts.append(rng.choice(CODE)[: rng.randrange(1, 20)])
        yield rng.choice(["", " ", "\n"]).join(parts)
    for _ in range(250):  # any characters at all
        n = rng.randrange(1, 25)
        top = rng.choice([0x80, 0x180, 0x600, 0x3000, 0x10000, 0x20000, 0x110000])
        yield "".join(chr(c) for c in (rng.randrange(top) for _ in range(n)) if not 0xD800 <= c < 0xE000)
    for _ in range(120):  # spaces and controls between letters
        yield "".join(rng.choice(SPACES + ["a", "B", "1", " ", "\n", "\t", ".", "é", "漢"]) for _ in range(rng.randrange(1, 30)))
    for _ in range(150):  # special tokens
        yield "".join(rng.choice(SPECIALS + [" ", "  ", "a", "A ", "\n", "word", ".", "_", "7"]) for _ in range(rng.randrange(1, 12)))
    for _ in range(80):  # letters, marks, digits
        yield "".join(rng.choice("aeoAEnNюйケか각") + rng.choice(MARKS + ["", "", "²", "Ⅷ", "٣"]) for _ in range(rng.randrange(1, 12)))


def bad_texts(rng):
    for bad in BAD:
        yield bad
        yield b"a" + bad + b"b " + bad + bad + "é".encode()
    for _ in range(110):
        parts = [rng.choice([rng.choice(BAD), rng.choice(list(SENTENCES.values()))[:5].encode(), b" ", b"<s>", bytes([rng.randrange(256)])])
                 for _ in range(rng.randrange(1, 9))]
        yield b"".join(parts)
    for name in ("French", "Han", "Hangul"):  # cut inside characters
        data = SENTENCES[name].encode()
        for _ in range(6):
            at = rng.randrange(len(data))
            yield data[at:at + rng.randrange(1, 30)]


def long_texts():
    yield "a" * 500
    yield "ab" * 300
    yield " " * 300 + "x"
    yield "\n" * 200
    yield "0" * 257
    yield "1234567890" * 30
    yield "あ" * 200
    yield "e\u0301" * 120
    yield "a" + "\u0301\u0323" * 60
    yield "😀" * 60
    yield "=" * 400 + "-" * 131
    yield "the quick brown fox jumps over the lazy dog " * 12
    yield "word\n\n" * 60
    yield "".join(chr(c) for c in range(1, 0x250))
    yield "".join(chr(c) for c in range(0x2000, 0x2200))
    yield "".join(SPACES) * 4
    yield "A" * 130 + "é" * 130 + "漢" * 130
    yield " \t" * 100
    yield ("<s>" * 40) + ("</s>x" * 20)
    yield "mississippi" * 40


def texts():
    rng = random.Random(20260801)
    out = [b""]
    for text in SENTENCES.values():
        out += [t.encode() for t in chunks(text, rng)]
    for text in CODE + EMOJI + SPACES + MARKS + SPECIALS:
        out += [text.encode(), ("x" + text + "y").encode(), (" " + text + " " + text).encode()]
    out += [t.encode() for t in random_texts(rng)]
    out += list(bad_texts(rng))
    out += [t.encode() for t in long_texts()]
    seen, unique = set(), []
    for t in out:
        if t not in seen:
            seen.add(t)
            unique.append(t)
    return unique


if __name__ == "__main__":
    print(len(texts()), "texts,", sum(map(len, texts())), "bytes")
